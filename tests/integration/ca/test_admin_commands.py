"""``keypost-ca admin`` as it is typed, against a CA that serves."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from typer.core import TyperGroup
from typer.testing import CliRunner

from keypost.ca.v1 import administration_service_pb2 as administration_pb
from keypost.ca.v1 import ca_service_pb2 as ca_pb
from keypost.ca.v1.administration_service_pb2_grpc import AdministrationServiceStub
from keypost.clock import DAY
from keypost_services.ca.administration import client as administration_client
from keypost_services.ca.administration.command_line import admin
from keypost_services.ca.command_line import app
from keypost_services.embedded.certificates import TlsRoot, service_names, write
from support.ca_service import REALM, CaUnderTest, open_ca
from support.trust_statements import FIRST_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import grpc
    from typer.testing import Result


def environment(ca: CaUnderTest, **changes: str) -> dict[str, str]:
    files = ca.folder / "administrators"
    usual = {
        "CA": f"127.0.0.1:{ca.service.internal_port}",
        "CERTIFICATE": str(files / "ada.pem"),
        "PRIVATE_KEY": str(files / "ada.key"),
        "ROOT": str(ca.folder / "service-root.pem"),
    }
    return {f"KEYPOST_ADMIN_{name}": value for name, value in (usual | changes).items()}


async def run(
    ca: CaUnderTest, *arguments: str, typed: str | None = None, env: Mapping[str, str] | None = None
) -> Result:
    """Run a command in a thread, beside the CA."""
    asked = ["admin", *arguments]
    return await asyncio.to_thread(CliRunner().invoke, app, asked, input=typed, env=env or environment(ca))


async def printed(ca: CaUnderTest, *arguments: str) -> list[dict[str, Any]]:
    """Run a command that succeeds; return the objects that it prints."""
    result = await run(ca, *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


async def test_a_code_is_printed_and_enrols(tmp_path: Path) -> None:
    async with open_ca(tmp_path, sign_in="code") as ca:
        (made,) = await printed(ca, "invite", "alice", "--expires", "2d")
        assert made["expire_time"] == ca.clock() + 2 * DAY
        await ca.enroll("alice", ca_pb.SignIn(one_time_code=made["code"]))
        lines = (await run(ca, "invite", "bob")).stdout.splitlines()
        assert [line.partition(": ")[0] for line in lines] == ["code", "code id", "username", "expire time"]


async def test_open_codes_are_listed_and_withdrawn(ca: CaUnderTest) -> None:
    made = [(await printed(ca, "invite", name))[0] for name in ("bob", "alice", "bob")]
    alices, bobs, _ = listed = await printed(ca, "codes")
    assert {code["code_id"] for code in made} == {code["code_id"] for code in listed}
    assert not [code for code in made if code["code"] in json.dumps(listed)]
    by_ada = {"create_time": ca.clock(), "actor_kind": "administrator", "actor": "ada", "expire_time": ca.clock() + DAY}
    assert alices == {"code_id": alices["code_id"], "username": "alice", **by_ada}
    (line,) = (await run(ca, "codes", "--user", "alice")).stdout.splitlines()
    assert line.startswith(f"alice  {alices['code_id']}  made ")
    assert " UTC by administrator ada, expires " in line
    for arguments in ((), (bobs["code_id"], "--all"), ("",)):
        wrong = await run(ca, "withdraw-code", "bob", *arguments)
        assert (wrong.exit_code, wrong.stderr) == (2, "name the id of one code, or say --all\n")
    wrong = await run(ca, "withdraw-code", "bob", alices["code_id"])
    assert (wrong.exit_code, "CODE_NOT_FOUND" in wrong.stderr) == (4, True)
    assert len(await printed(ca, "codes")) == 3
    done = await run(ca, "withdraw-code", "bob", bobs["code_id"])
    assert (done.exit_code, done.stdout) == (0, f"bob  {bobs['code_id']}  withdrawn\n")
    (again,) = await printed(ca, "withdraw-code", "bob", bobs["code_id"])
    assert again == {"username": "bob", "code_ids": [bobs["code_id"]]}
    (rest,) = await printed(ca, "withdraw-code", "bob", "--all")
    assert len(rest["code_ids"]) == 1
    assert (await run(ca, "withdraw-code", "bob", "--all")).stdout == "bob has no open code\n"
    assert await printed(ca, "codes") == [alices]
    withdrawn = (await run(ca, "audit", "list", "--user", "bob")).stdout.splitlines()[2]
    assert f"  code_withdrawn  bob  code {bobs['code_id']}  by administrator ada  from ipv4:127.0.0.1:" in withdrawn


async def test_lists_that_are_longer_than_a_page_are_shown_whole(
    ca: CaUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("alice", "bob", "carol"):
        await ca.enroll(name)
        await run(ca, "invite", name)
    whole = [await printed(ca, *words) for words in (["codes"], ["users"], ["audit", "list"])]
    monkeypatch.setattr(administration_client, "MOST_ON_A_PAGE", 2)
    assert [await printed(ca, *words) for words in (["codes"], ["users"], ["audit", "list"])] == whole
    assert [len(listed) for listed in whole] == [3, 3, FIRST_ENTRIES + 6]


async def test_users_are_listed_and_shown(ca: CaUnderTest) -> None:
    alice = await ca.enroll("alice")
    await ca.enroll("bob")
    assert [user["username"] for user in await printed(ca, "users")] == ["alice", "bob"]
    assert (await run(ca, "users")).stdout.splitlines()[0] == "alice  1 good key, epoch 1, revision 1"
    (user,) = await printed(ca, "show", "alice")
    assert (user["revision"], user["reset_time"]) == (1, 0)
    (key,) = user["keys"]
    assert (key["device_id"], key["fingerprint"]) == (alice.address.device_id, alice.fingerprint.hex())
    assert (key["suite"], key["kind"], key["state"], key["reason"]) == ("RSA1024_AES128", "enroll", "good", "")
    head, line = (await run(ca, "show", "alice")).stdout.splitlines()
    assert head == "alice: epoch 1, revision 1"
    assert line.startswith(f"  {alice.address.device_id}  {alice.fingerprint.hex()[:8]}  good, expires ")


async def test_the_key_of_a_lost_device_is_withdrawn_once_that_is_confirmed(ca: CaUnderTest) -> None:
    device = (await ca.enroll("alice")).address.device_id
    refused = await run(ca, "revoke", "alice", device, "--reason", "lost", typed="n\n")
    assert (refused.exit_code, refused.stderr.endswith("nothing was done\n")) == (2, True)
    assert (await printed(ca, "show", "alice"))[0]["revision"] == 1
    done = await run(ca, "revoke", "alice", device, "--reason", "lost", typed="y\n")
    assert done.exit_code == 0
    assert "revoked (lost), since " in done.stdout
    again = await run(ca, "revoke", "alice", device, "--reason", "lost", "--yes")
    assert again.exit_code == 2
    assert f"no device {device} with a key" in again.stderr
    worse = await run(ca, "revoke", "alice", device, "--reason", "compromised", "--yes")
    assert "revoked (compromised), since " in worse.stdout


async def test_nothing_irreversible_is_done_where_nobody_answers(ca: CaUnderTest) -> None:
    device = (await ca.enroll("alice")).address.device_id
    for arguments in (("revoke", "alice", device, "--reason", "lost"), ("allow-reset", "alice")):
        refused = await run(ca, *arguments, typed="")
        assert refused.exit_code == 2
        assert refused.stderr.endswith("nothing was done: nobody agreed (--yes does not ask)\n")
    assert (await printed(ca, "show", "alice"))[0]["revision"] == 1


async def test_a_compromise_says_since_when(ca: CaUnderTest) -> None:
    device = (await ca.enroll("alice")).address.device_id
    lost = await run(ca, "revoke", "alice", device, "--reason", "lost", "--since", "2026-01-31", "--yes")
    assert (lost.exit_code, "only a compromised key" in lost.stderr) == (2, True)
    since = ("--since", "2020-01-31T09:30")
    (user,) = await printed(ca, "revoke", "alice", device, "--reason", "compromised", *since, "--yes")
    assert (user["keys"][0]["reason"], user["keys"][0]["state_time"]) == ("compromised", 1_580_463_000_000)


async def test_a_reset_is_allowed_and_cancelled(ca: CaUnderTest) -> None:
    await ca.enroll("alice")
    assert (await run(ca, "allow-reset", "alice", typed="n\n")).exit_code == 2
    (user,) = await printed(ca, "allow-reset", "alice", "--yes")
    assert user["reset_time"] == ca.clock()
    assert "an identity reset may take place from" in (await run(ca, "show", "alice")).stdout
    (user,) = await printed(ca, "cancel-reset", "alice")
    assert user["reset_time"] == 0


async def test_the_audit_log_is_listed_and_verified(ca: CaUnderTest) -> None:
    await ca.enroll("alice")
    await printed(ca, "invite", "bob")
    first, *rows = (await printed(ca, "audit", "list"))[FIRST_ENTRIES - 1 :]
    assert [(row["action"], row["actor_kind"], row["actor"]) for row in rows] == [
        ("enrolled", "sign_in", "open"),
        ("code_made", "administrator", "ada"),
    ]
    enrolled, made = (row["sequence"] for row in rows)
    assert (first["action"], enrolled, made) == ("record_key_added", FIRST_ENTRIES + 1, FIRST_ENTRIES + 2)
    assert [row["sequence"] for row in await printed(ca, "audit", "list", "--user", "bob")] == [made]
    # By number: what came later may have an earlier time, if a clock was put back.
    assert await printed(ca, "audit", "list", "--after", str(enrolled)) == rows[1:]
    assert await printed(ca, "audit", "list", "--after", str(made)) == []
    # Of each the CA's own log has a line, by which it is found without the database.
    told = [line for line in ca.log if line["event"] == "change"]
    assert [(line["sequence"], line["action"]) for line in told[:FIRST_ENTRIES]] == [
        (1, "trust_installed"),
        (2, "root_key_added"),
        (3, "record_key_added"),
    ]
    told = told[FIRST_ENTRIES:]
    assert [(line["sequence"], line["action"], line["username"]) for line in told] == [
        (enrolled, "enrolled", "alice"),
        (made, "code_made", "bob"),
    ]
    assert all(line["request_id"] for line in told)
    assert (told[0]["fingerprint"], told[0]["revision"]) == (rows[0]["fingerprint"], 1)
    lines = (await run(ca, "audit", "list")).stdout.splitlines()
    key, root_key = first["fingerprint"][:8], first["actor"]
    assert f"  record_key_added  trust 1  {key}  by root_key {root_key}  from host:" in lines[FIRST_ENTRIES - 1]
    code = rows[1]["evidence"][:16]
    assert f"  code_made  bob  code {code}  by administrator ada  from ipv4:127.0.0.1:" in lines[-1]
    (verified,) = await printed(ca, "audit", "verify")
    assert verified["head"] == f"{made}:{rows[1]['hash']}"
    assert (await run(ca, "audit", "verify", "--head", verified["head"])).exit_code == 0
    wrong = await run(ca, "audit", "verify", "--head", f"{made}:{'0' * 64}")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert "written anew" in wrong.stderr


async def test_what_the_ca_refuses_is_said_in_one_line_with_its_reason(ca: CaUnderTest) -> None:
    for arguments in (("show", "nobody"), ("cancel-reset", "nobody"), ("allow-reset", "nobody", "--yes")):
        result = await run(ca, *arguments)
        assert (result.exit_code, result.stdout) == (4, "")
        (line,) = result.stderr.splitlines()
        assert "USER_NOT_FOUND" in line
    result = await run(ca, "show", "No Name")
    assert (result.exit_code, "INVALID_FIELD" in result.stderr) == (4, True)


async def test_with_json_what_goes_wrong_is_one_object(ca: CaUnderTest) -> None:
    device = (await ca.enroll("alice")).address.device_id
    wrong: dict[tuple[str, ...], tuple[int, str]] = {
        ("show", "nobody"): (4, "USER_NOT_FOUND"),
        ("invite", "bob", "--expires", "never"): (2, "USAGE"),
        ("audit", "list", "--since", "never"): (2, "USAGE"),
        ("audit", "verify", "--head", f"2:{'0' * 64}"): (1, "AUDIT_BROKEN"),
        # A program is not asked, so that nothing else is printed.
        ("revoke", "alice", device, "--reason", "lost"): (2, "NOT_CONFIRMED"),
    }
    for arguments, (code, reason) in wrong.items():
        result = await run(ca, *arguments, "--json", typed="y\n")
        assert (result.exit_code, result.stdout) == (code, ""), arguments
        failure = json.loads(result.stderr)
        assert failure.keys() == {"event", "reason", "sentence", "hint", "facts"}
        assert (failure["event"], failure["reason"]) == ("error", reason)
    result = await run(ca, "users", "--json", env=environment(ca, CA="127.0.0.1:1"))
    assert (result.exit_code, json.loads(result.stderr)["reason"]) == (3, "UNREACHABLE")
    assert (await printed(ca, "show", "alice"))[0]["revision"] == 1


def leaves(group: Any, *above: str) -> set[str]:
    """Return the commands of a group and of those within, as they are typed."""
    found = set()
    for name, command in group.commands.items():
        is_group = isinstance(command, TyperGroup)
        found |= leaves(command, *above, name) if is_group else {" ".join((*above, name))}
    return found


async def test_every_call_of_an_administrator_has_a_command_and_every_command_has_json(
    ca: CaUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    class Recorded(AdministrationServiceStub):
        def __init__(self, channel: grpc.aio.Channel) -> None:
            super().__init__(channel)  # type: ignore[call-arg]  # the stub of the types has no constructor
            for method in methods:
                setattr(self, method, self._noting(method, getattr(self, method)))

        @staticmethod
        def _noting(method: str, call: Callable[..., Any]) -> Callable[..., Any]:
            def make(*arguments: Any, **named: Any) -> Any:
                called.append(method)
                return call(*arguments, **named)

            return make

    methods = [method.name for method in administration_pb.DESCRIPTOR.services_by_name["AdministrationService"].methods]
    monkeypatch.setattr(administration_client, "AdministrationServiceStub", Recorded)
    device = (await ca.enroll("alice")).address
    typed: dict[str, list[str]] = {
        "invite": ["bob"],
        "codes": [],
        "withdraw-code": ["bob", "--all"],
        "users": [],
        "show": ["alice"],
        "allow-reset": ["alice", "--yes"],
        "cancel-reset": ["alice"],
        "revoke": ["alice", device.device_id, "--reason", "lost", "--yes"],
        "audit list": [],
        "audit verify": [],
        "request": ["eve", "--realm", REALM, "--folder", str(ca.folder / "eve")],
    }
    assert leaves(typer.main.get_group(admin)) == typed.keys()
    for command, arguments in typed.items():
        assert await printed(ca, *command.split(), *arguments), command
    assert set(called) == set(methods)


async def test_a_ca_that_does_not_answer_is_said_in_one_line(ca: CaUnderTest) -> None:
    result = await run(ca, "users", env=environment(ca, CA="127.0.0.1:1"))
    assert (result.exit_code, result.stdout) == (3, "")
    assert len(result.stderr.splitlines()) == 1


async def test_files_that_will_not_do_are_named_before_anything_is_called(ca: CaUnderTest, tmp_path: Path) -> None:
    rsa_key = rsa.generate_private_key(65537, 2048)
    (tmp_path / "rsa.key").write_bytes(
        rsa_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (tmp_path / "text").write_text("text")
    write(TlsRoot("root").issue("x", service_names(REALM, "ca")), tmp_path / "service")
    grace = str(ca.folder / "administrators/grace.key")
    wrong = {
        ("CERTIFICATE", str(tmp_path / "none")): "cannot read",
        ("CERTIFICATE", str(tmp_path / "text")): "alternative names",
        ("PRIVATE_KEY", str(tmp_path / "text")): "no private key",
        ("PRIVATE_KEY", str(tmp_path / "rsa.key")): "Ed25519 or ECDSA P-256",
        ("PRIVATE_KEY", grace): "is not the private key of",
        ("ROOT", str(tmp_path / "text")): "no certificate",
        ("ROOT", ""): "--root (KEYPOST_ADMIN_ROOT)",
    }
    for (name, file), words in wrong.items():
        result = await run(ca, "users", env=environment(ca, **{name: file}))
        assert (result.exit_code, result.stdout) == (2, ""), words
        assert words in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        "",
        "invite",
        "codes",
        "withdraw-code",
        "users",
        "show",
        "revoke",
        "allow-reset",
        "cancel-reset",
        "audit",
        "audit list",
        "audit verify",
    ],
)
def test_every_command_has_help_without_any_setting(command: str) -> None:
    result = CliRunner().invoke(app, ["admin", *command.split(), "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.stdout
