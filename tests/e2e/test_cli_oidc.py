"""Enrolment by sign-in at an issuer, as it is typed: the stack, the issuer and the browser are real."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import subprocess
import sys
import threading
import urllib.request
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import system_clock
from keypost_services.embedded.layout import settings_of
from keypost_services.embedded.processes import clean_environment
from support.command_line import User
from support.oidc_issuer import CLIENT_ID, OidcIssuer, open_issuer
from support.stack import running_stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keypost_services.embedded.stack import Stack


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcIssuer]:
    """An issuer on a thread of its own: the tests wait for processes meanwhile."""
    loop, folder = asyncio.new_event_loop(), tmp_path_factory.mktemp("issuer")
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    opened = open_issuer(folder, system_clock)
    try:
        yield asyncio.run_coroutine_threadsafe(opened.__aenter__(), loop).result(20)
        asyncio.run_coroutine_threadsafe(opened.__aexit__(None, None, None), loop).result(20)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def oidc_stack(issuer: OidcIssuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose CA takes ID tokens of the issuer, with a bundle that names it."""
    own = {f"KEYPOST_CA_{name}".upper(): str(value) for name, value in issuer.settings().items()}

    def with_issuer(*arguments: Any, **where: Any) -> dict[str, str]:
        settings = settings_of(*arguments, **where)
        return settings | own if "KEYPOST_CA_SIGN_IN" in settings else settings

    with ExitStack() as opened:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("keypost_services.embedded.stack.settings_of", with_issuer)
            stack = opened.enter_context(running_stack(tmp_path_factory.mktemp("oidc")))
        name_the_issuer(stack, issuer)
        yield stack


def name_the_issuer(stack: Stack, issuer: OidcIssuer) -> None:
    """Make the bundle anew, as an operator does."""
    layout = stack.layout
    endpoints = json.loads(layout.bundle.read_text())["endpoints"]
    options = [f"--{name}={address}" for name, address in endpoints.items()]
    options += [f"--oidc-issuer={issuer.url}", f"--oidc-client-id={CLIENT_ID}", f"--oidc-tls-roots={issuer.roots}"]
    options += [f"--realm-folder={layout.realm_folder}", f"--tls-roots={layout.certificates / 'public-root.pem'}"]
    command = [sys.executable, "-m", "keypost_services.ca", "bundle", *options, f"--output={layout.bundle}"]
    subprocess.run(command, env=clean_environment({}), check=True, timeout=60)


@contextmanager
def enrolling(user: User) -> Iterator[subprocess.Popen[str]]:
    """Start an enrolment by browser; it prints where to sign in."""
    options = ["--profile", str(user.profile), "--bundle", str(user.stack.layout.bundle), "--json"]
    command = [sys.executable, "-m", "keypost.cli", *options, "enroll", user.name, "--oidc"]
    environment = clean_environment({"KEYPOST_PASSPHRASE": "secret"})
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def next_event(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    event: dict[str, Any] = json.loads(process.stdout.readline())
    return event


def browse(issuer: OidcIssuer, url: str) -> str:
    with urllib.request.urlopen(url, context=issuer.tls(), timeout=20) as page:  # noqa: S310  # the issuer's
        return str(page.read().decode())


def test_a_person_signs_in_by_a_browser(oidc_stack: Stack, issuer: OidcIssuer, tmp_path: Path) -> None:
    issuer.person = {"sub": "subject-nora", "preferred_username": "nora"}
    nora = User(oidc_stack, "nora", tmp_path / "nora")
    with enrolling(nora) as process:
        event = next_event(process)
        assert event["event"] == "sign_in"
        assert "You can close this page" in browse(issuer, event["url"])
        assert next_event(process)["address"].startswith("nora/")
        assert process.wait(60) == 0
    assert "good" in nora.run("devices")


def test_a_person_who_gives_up_ends_it_by_ctrl_c(oidc_stack: Stack, tmp_path: Path) -> None:
    with enrolling(User(oidc_stack, "otto", tmp_path / "otto")) as process:
        assert next_event(process)["event"] == "sign_in"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_somebody_else_who_signs_in_is_refused(oidc_stack: Stack, issuer: OidcIssuer, tmp_path: Path) -> None:
    issuer.person = {"sub": "subject-mallory", "preferred_username": "mallory"}
    with enrolling(User(oidc_stack, "paula", tmp_path / "paula")) as process:
        browse(issuer, next_event(process)["url"])
        assert next_event(process)["reason"] == "SIGN_IN_REFUSED"
        assert process.wait(60) == 4


def test_a_script_brings_an_id_token(oidc_stack: Stack, issuer: OidcIssuer, tmp_path: Path) -> None:
    quentin = User(oidc_stack, "quentin", tmp_path / "quentin")
    issuer.person = {"sub": "subject-quentin", "preferred_username": "quentin"}
    nonce = quentin.run("nonce", "quentin").strip()
    assert quentin.run_json("nonce", "quentin") == [{"event": "nonce", "username": "quentin", "nonce": nonce}]
    file = tmp_path / "token"
    file.write_text(issuer.id_token("0" * 64))
    failure = quentin.fail("enroll", "quentin", "--id-token-file", str(file))
    assert (failure.code, "issued for another key" in failure.sentence) == (2, True)
    token = issuer.id_token(nonce).encode()
    assert "You are quentin/" in quentin.run("enroll", "quentin", "--id-token-file", "-", stdin=token)
    assert "You are quentin/" in quentin.run("enroll", "quentin", "--oidc"), "an enrolled device signs in no more"


def test_a_reset_is_asked_for_by_signing_in(oidc_stack: Stack, issuer: OidcIssuer, tmp_path: Path) -> None:
    first = User(oidc_stack, "simon", tmp_path / "first")
    issuer.person = {"sub": "subject-simon", "preferred_username": "simon"}
    token = issuer.id_token(first.run("nonce", "simon").strip()).encode()
    first.run("enroll", "simon", "--id-token-file", "-", stdin=token)
    second = User(oidc_stack, "simon", tmp_path / "second")
    asked = ("reset", "simon", "--yes", "--id-token-file", "-")
    (event,) = second.run_json(*asked, stdin=issuer.id_token("whatever").encode())
    assert (event["event"], event["username"]) == ("reset_announced", "simon")
    code, error = User(oidc_stack, "simon", tmp_path / "third").fail_json("reset", "simon", "--yes")
    assert (code, error["reason"]) == (4, "SIGN_IN_REFUSED")


def test_what_cannot_be_is_told(oidc_stack: Stack, stack: Stack, tmp_path: Path) -> None:
    rita = User(oidc_stack, "rita", tmp_path / "rita")
    failure = rita.fail("enroll", "rita", "--oidc", "--code", "7" * 26)
    assert (failure.code, "one of them is enough" in failure.sentence) == (2, True)
    failure = rita.fail("enroll", "rita", "--id-token-file", str(tmp_path / "nowhere"))
    assert (failure.code, "cannot read the ID token" in failure.sentence) == (1, True)
    elsewhere = User(stack, "rita", tmp_path / "elsewhere")
    failure = elsewhere.fail("enroll", "rita", "--oidc")
    assert (failure.code, "names no issuer" in failure.sentence) == (2, True)


def test_the_issuer_s_roots_are_in_the_bundle(oidc_stack: Stack, issuer: OidcIssuer) -> None:
    said = json.loads(oidc_stack.layout.bundle.read_text())["oidc"]
    assert ssl.PEM_cert_to_DER_cert(said["tlsRootsPem"]) == ssl.PEM_cert_to_DER_cert(issuer.roots.read_text())
    assert (said["issuer"], said["clientId"], said["scope"]) == (issuer.url, CLIENT_ID, "openid profile")
