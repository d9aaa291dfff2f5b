"""The main job with everything written down: every secret that was used, and every place where one could have got to.

The stack, the command line and their files are real, each process its own; other clients run in this process, so that
errors, reprs and what observers see can be kept.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import gc
import io
import itertools
import json
import logging
import os
import secrets
import subprocess
import sys
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest

from keypost.client import Client, identity, restore_profile
from keypost.clock import HOUR, system_clock
from keypost.directory.v1 import directory_service_pb2
from keypost.directory.v1.directory_service_pb2_grpc import DirectoryServiceStub
from keypost.errors import KeypostError
from keypost.keystore import Argon2Cost, Passphrase, open_store
from keypost.protocol.tokens import mint_token
from keypost.transport.send_stream import SendStream
from keypost_services.embedded.layout import SERVICES
from keypost_services.embedded.processes import clean_environment
from support.collector import collecting, everything_to
from support.keys import KeyPool
from support.secret_keys import server_secrets, store_secrets
from support.secret_places import Monitor, marker, metrics, processes, valkey_places
from support.secret_scan import Place, Secret, files_below, of_content, of_token, unescaped
from support.secret_unlocks import talk_in_threads
from support.stack import more_settings, running_stack
from support.traced_person import provider_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from keypost.client import Event
    from keypost.delivery.v1 import envelope_pb2
    from keypost.keystore import Unlock
    from keypost.protocol.steps import Step
    from keypost_services.embedded.stack import Stack
    from support.collector import Collector

PACKAGES = ("keypost.", "keypost_services.")
RECORDED_CLI = Path(__file__).with_name("recorded_cli.py")
CHEAP = Argon2Cost(memory=64, iterations=1, lanes=1)
FILE_BYTES = 300_000
SHOWN_OF_A_CLASS = 400
"""How many instances of one class are shown while the story runs."""


@dataclass
class Story:
    """What was used and where it could be.

    Attributes:
        folder: Everything lies below it.
        secrets: What nobody may find.
        places: Where it is looked for.
        shown: The classes whose instances were shown.
        collector: Where traces go.
        codes: By username.
    """

    folder: Path
    stack: Stack
    collector: Collector
    secrets: list[Secret] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    shown: dict[str, int] = field(default_factory=dict)
    errors: list[BaseException] = field(default_factory=list)
    seen: list[Event | Step] = field(default_factory=list)
    log: io.StringIO = field(default_factory=io.StringIO)
    reprs: list[str] = field(default_factory=list)
    passphrases: dict[str, str] = field(default_factory=dict)
    unlocks: dict[str, Unlock] = field(default_factory=dict)
    keys: KeyPool = field(default_factory=KeyPool)
    commands: Iterator[int] = field(default_factory=itertools.count)

    @property
    def tokens(self) -> Path:
        """Where the processes of the command line write down their tokens: outside of every place."""
        return self.folder.with_name(f"{self.folder.name}-tokens")

    @property
    def own_files(self) -> Path:
        """The users' own files, which hold their plaintext on purpose: outside of every place."""
        return self.folder.with_name(f"{self.folder.name}-files")

    def profile(self, name: str) -> Path:
        return self.folder / "profiles" / name

    def passphrase(self, name: str) -> str:
        """Return the passphrase of a profile."""
        if name not in self.passphrases:
            self.passphrases[name] = f"pässwörd {secrets.token_urlsafe(24)}"
            self.secrets.append(Secret("passphrase", self.passphrases[name].encode()))
        return self.passphrases[name]

    def text(self, homes: frozenset[str] = frozenset()) -> str:
        """Return a text to send; nobody but its reader may see it."""
        # What two texts have in common must be shorter than a piece.
        text = f'{secrets.token_urlsafe(36)} ü\\"\N{ROCKET} {secrets.token_urlsafe(36)}'
        self.secrets.append(Secret("plaintext", text.encode(), homes))
        return text

    def code(self, username: str) -> str:
        """Make a one-time code by the CA's own command."""
        name = f"keypost-ca code {username}"
        layout = self.stack.layout
        where = ["--realm-folder", str(layout.realm_folder), "--database", layout.database]
        done = self._process(
            name, [sys.executable, "-m", "keypost_services.ca", "code", username, *where, "--json"], {}, b"", username
        )
        code: str = json.loads(done.stdout)["code"]
        self.secrets.append(Secret("one-time code", code.encode(), frozenset({f"{name}: stdout"})))
        return code

    def invite(self, username: str) -> str:
        """Have an administrator make a one-time code."""
        done = self._administer("invite", username, marker=username)
        code: str = json.loads(done.stdout)["code"]
        home = frozenset({f"keypost-ca admin invite {username}: stdout"})
        self.secrets.append(Secret("one-time code", code.encode(), home))
        return code

    def audit(self) -> None:
        """Have an administrator read the audit log."""
        for command in ("list", "verify"):
            self._administer("audit", command, marker="code_made" if command == "list" else "head")

    def _administer(self, *arguments: str, marker: str) -> subprocess.CompletedProcess[bytes]:
        layout = self.stack.layout
        port = json.loads(layout.ports_file.read_text(encoding="utf-8"))["ca"]["internal"]
        variables = {
            "KEYPOST_ADMIN_CA": f"127.0.0.1:{port}",
            "KEYPOST_ADMIN_CERTIFICATE": f"{layout.administrator}.pem",
            "KEYPOST_ADMIN_PRIVATE_KEY": f"{layout.administrator}.key",
            "KEYPOST_ADMIN_ROOT": str(layout.certificates / "service-root.pem"),
        }
        command = [sys.executable, "-m", "keypost_services.ca", "admin", *arguments, "--json"]
        return self._process(f"keypost-ca admin {' '.join(arguments)}", command, variables, b"", marker)

    def wrong(self, kind: str) -> str:
        """Return a one-time code or passphrase that is none: whoever mistypes gives away nearly the right one."""
        text = "7" + "".join(secrets.choice("0123456789ABCDEFGHJKMNPQRSTVWXYZ") for _ in range(25))
        self.secrets.append(Secret(f"wrong {kind}", text.encode()))
        return text

    def run(
        self, name: str, *arguments: str, code: str = "", passphrase: str = "", stdin: str = "", marker: str = ""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the command line for a profile; what is secret goes by environment and standard input."""
        profile = ["--profile", str(self.profile(name)), "--bundle", str(self.stack.layout.bundle)]
        variables = {"KEYPOST_PASSPHRASE": passphrase or self.passphrase(name), "KEYPOST_DEBUG": "1"}
        return self._process(
            f"keypost {name} {' '.join(word for word in arguments if not word.startswith('/'))}",
            [sys.executable, str(RECORDED_CLI), str(self.tokens), *profile, *arguments],
            variables | ({"KEYPOST_CODE": code} if code else {}),
            stdin.encode(),
            marker,
        )

    def _process(
        self, name: str, command: list[str], variables: dict[str, str], stdin: bytes, marker: str
    ) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            command, env=clean_environment(variables), input=stdin, capture_output=True, check=False, timeout=60
        )
        self.places.append(Place(f"{name}: stdout", done.stdout, b"" if done.returncode else marker.encode()))
        self.places.append(Place(f"{name}: stderr", done.stderr, marker.encode() if done.returncode else b""))
        self.places.append(Place(f"{name}: command", "\0".join(command).encode(), b"python"))
        return done

    def collect_profiles(self, unlocks: Mapping[str, Unlock]) -> None:
        """Keep what the key stores of profiles keep sealed, and what seals it."""
        for name, unlock in unlocks.items():
            store = open_store(self.profile(name), unlock)
            try:
                self.secrets += store_secrets(store, unlock)
            finally:
                store.close()

    async def refused(self, asked: Any, kind: type[BaseException] = KeypostError) -> BaseException:
        """Wait for what must fail, and keep how it failed."""
        with pytest.raises(kind) as refused:
            await asked
        self.errors.append(refused.value)
        return refused.value

    def minted(self, *arguments: Any) -> str:
        """Mint a token and keep it."""
        token = mint_token(*arguments)
        self.secrets.extend(of_token(token))
        return token


@contextmanager
def shown_instances(story: Story) -> Iterator[None]:
    """Show every instance that a data class of Keypost makes, when it is made."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in data_classes():
            patch.setattr(kind, "__init__", _showing(kind, kind.__init__, story))
        yield


def data_classes() -> list[type[Any]]:
    """Return the data classes of all modules of Keypost that are loaded."""
    modules = [module for name, module in sorted(sys.modules.items()) if name.startswith(PACKAGES)]
    kinds = (value for module in modules for value in vars(module).values() if isinstance(value, type))
    return list(
        dict.fromkeys(kind for kind in kinds if dataclasses.is_dataclass(kind) and kind.__module__.startswith(PACKAGES))
    )


def _showing(kind: type[Any], init: Callable[..., None], story: Story) -> Callable[..., None]:
    @functools.wraps(init)
    def initialise(self: Any, *arguments: Any, **named: Any) -> None:
        init(self, *arguments, **named)
        count = story.shown[kind.__qualname__] = story.shown.get(kind.__qualname__, 0) + 1
        if type(self) is kind and count <= SHOWN_OF_A_CLASS:
            story.reprs += [repr(self), str(self)]

    return initialise


def show_live_objects(story: Story) -> None:
    """Show every object of Keypost that is alive, whatever its class, and whenever it was made."""
    gc.unfreeze()  # what is frozen is left out
    alive = gc.get_objects()
    gc.freeze()
    for one in alive:
        module = str(type(one).__module__)
        # A generated message shows what is in it, whatever that is: what matters is that nobody shows one.
        if module.startswith(PACKAGES) and not module.endswith("_pb2"):
            story.reprs += [repr(one), str(one)]
            kind = type(one).__qualname__
            story.shown[kind] = story.shown.get(kind, 0) + 1


@contextmanager
def chatty_stack(folder: Path, collector: Collector) -> Iterator[Stack]:
    """Yield a stack that logs all it can, counts, records every call, wants one-time codes, and allows both suites."""
    told = {"LOG_LEVEL": "debug", "METRICS_LISTEN": "127.0.0.1:0"} | everything_to(collector)

    def settings(service: str) -> dict[str, str]:
        return told | ({"SIGN_IN": "code"} if service == "ca" else {})

    with more_settings(settings), running_stack(folder, weak_suite=True) as stack:
        yield stack


def play(folder: Path) -> Story:
    """Play the story in a folder and return what came of it."""
    temporary = folder / "tmp"
    temporary.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        with collecting() as collector:
            story = _play_all(folder, collector)
        story.places.append(Place("traces", b"".join(collector.raw), b"keypost send"))
    story.secrets += [secret for token in story.tokens.read_text().split() for secret in of_token(token)]
    return story


def _play_all(folder: Path, collector: Collector) -> Story:
    with pytest.MonkeyPatch.context() as patch:
        with chatty_stack(folder, collector) as stack:
            story = Story(folder, stack, collector)
            story.own_files.mkdir()
            patch.setattr(identity, "mint_token", story.minted)
            with _logged(story), shown_instances(story):
                _play(story)
        _collect_in_process(story)
        story.places += files_below(folder, marker)
    return story


@contextmanager
def _logged(story: Story) -> Iterator[None]:
    handler, root = logging.StreamHandler(story.log), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def _play(story: Story) -> None:
    valkey = story.stack._servers._valkey
    monitor = Monitor(valkey.socket, valkey._password)
    try:
        asyncio.run(_talk(story), debug=True)
        talk_in_threads(story)
        _type_commands(story)
    finally:
        commands = monitor.end()
    story.places += [
        Place("valkey: commands", commands, b"FCALL"),
        Place("valkey: commands, unescaped", unescaped(commands), b"alice"),
        *valkey_places(valkey.url),
        *metrics(story.stack),
        *processes(story.stack),
        *files_below(story.folder, marker),
    ]
    story.secrets.append(
        Secret(
            "valkey password",
            valkey._password.encode(),
            frozenset({"valkey/valkey.conf", *(f"{service}: environment" for service in SERVICES)}),
        )
    )
    story.secrets += server_secrets(story.stack)
    story.collect_profiles({name: Passphrase(story.passphrase(name)) for name in ("alice", "bob", "carol")})


async def _talk(story: Story) -> None:
    """Two clients in this process: what they may do, and what they may not."""
    bundle, keys = story.stack.layout.bundle, story.keys
    provider = provider_for("application", story.collector.endpoint)

    async def client(name: str, passphrase: str = "", **options: Any) -> Client:
        return await Client.open(
            story.profile(name),
            unlock=Passphrase(passphrase or story.passphrase(name), CHEAP),
            **{"bundle": bundle, "observer": story.seen.append, "on_event": story.seen.append, **options},
            generate=keys,
            tracer_provider=provider,
        )

    alice, bob = await client("alice"), await client("bob")
    await story.refused(alice.enroll("alice", code=story.wrong("code")))
    await story.refused(alice.send("bob", story.text()))
    for name, one in (("alice", alice), ("bob", bob)):
        await one.enroll(name, code=story.code(name) if name == "alice" else story.invite(name))
    story.audit()
    await story.refused(alice.send("nobody-at-all", story.text()))
    await story.refused(alice.send("alice", story.text()))
    await story.refused(alice.send("bob", story.text() * 3000))
    await alice.send("bob", story.text())
    await alice.rotate("bob")
    await alice.send("bob", story.text())
    await _tamper(alice, story)
    await _receive(bob, story)
    await bob.send("alice", story.text())
    await _back_up(alice, story)
    await alice.renew()
    await alice.send("bob", story.text())
    await _send_file(alice, story)
    await _receive(alice, story)
    await _receive(bob, story)
    await _show_tokens(alice, story)
    show_live_objects(story)
    await alice.close()
    await bob.close()
    await story.refused(alice.send("bob", story.text()))
    await story.refused(client("alice", passphrase=story.wrong("passphrase")))
    garbage = story.own_files / "bundle.json"
    garbage.write_text("{")
    await story.refused(client("alice", bundle=garbage))
    alice = await client("alice", bundle=None)
    await _receive(alice, story)
    await alice.close()
    await asyncio.to_thread(provider.shutdown)


async def _back_up(alice: Client, story: Story) -> None:
    """Keep a backup, which the next renewal rewrites, and restore it beside the profile, which nobody opens."""
    file, passphrase = story.folder / "backups" / "alice.backup", Passphrase(story.passphrase("a backup"), CHEAP)
    file.parent.mkdir()
    await alice.set_backup(file, passphrase)
    kept = json.loads(await alice._parts.context.store.run(lambda store: store.profile.note("backup") or b""))
    story.secrets.append(Secret("backup key", bytes.fromhex(kept["key"])))
    wrong, elsewhere = Passphrase(story.wrong("passphrase"), CHEAP), story.profile("alice-elsewhere")
    for phrase in (wrong, passphrase):
        restoring = asyncio.to_thread(restore_profile, file, elsewhere, passphrase=phrase, unlock=passphrase)
        await (restoring if phrase is passphrase else story.refused(restoring))


async def _tamper(alice: Client, story: Story) -> None:
    """Send what cannot be opened: an altered ciphertext, and a session key that was sealed for nobody."""
    write = SendStream.write

    def altered(change: Callable[[envelope_pb2.Envelope], None]) -> Any:
        async def hand_over(
            stream: SendStream,
            envelopes: Sequence[envelope_pb2.Envelope],
            resume: Sequence[str],
            trace_contexts: Sequence[str],
        ) -> None:
            for envelope in envelopes:
                change(envelope)
            await write(stream, envelopes, resume, trace_contexts)

        return hand_over

    def of_ciphertext(envelope: envelope_pb2.Envelope) -> None:
        envelope.ciphertext = envelope.ciphertext[:-1] + bytes([envelope.ciphertext[-1] ^ 1])

    def of_sealed_key(envelope: envelope_pb2.Envelope) -> None:
        sealed = envelope.key_extension.sealed_keys[0]
        sealed.sealed_key = bytes([sealed.sealed_key[0] ^ 1]) + sealed.sealed_key[1:]

    for change, call in ((of_ciphertext, alice.send("bob", story.text())), (of_sealed_key, alice.rotate("bob"))):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SendStream, "write", altered(change))
            await call


async def _receive(client: Client, story: Story) -> None:
    async for message in client.receive(follow=False):
        story.reprs += [repr(message), str(message)]
        if message.file is not None:
            with (story.own_files / "received").open("wb") as file:
                async for chunk in message.file.chunks():
                    file.write(chunk)


async def _send_file(alice: Client, story: Story) -> None:
    path = story.own_files / "holiday.bin"
    path.write_bytes(os.urandom(FILE_BYTES))
    story.secrets += of_content("file", path.read_bytes())
    await alice.send_file("bob", path)


async def _show_tokens(alice: Client, story: Story) -> None:
    """Show the directory tokens that it must refuse, each nearly good."""
    pair, realm = alice._parts.identity.current, alice.realm
    good = alice._parts.tokens[0].token("directory")
    tokens = [
        f"{good[:-6]}AAAAAA",
        story.minted(pair, f"{realm}/directory", system_clock() - HOUR, 60_000),
        story.minted(pair, f"{realm}/delivery", system_clock(), 60_000),
        story.minted(pair, f"{realm}/directory", system_clock(), 2 * HOUR),
    ]
    story.secrets += of_token(tokens[0])
    stub = DirectoryServiceStub(alice._parts.channels[1])
    request = directory_service_pb2.GetKeyInfoRequest(username="bob")
    for header in (*(f"Bearer {token}" for token in tokens), f"Basic {tokens[1]}", tokens[2]):
        await story.refused(stub.GetKeyInfo(request, metadata=(("authorization", header),)), grpc.aio.AioRpcError)


def _type_commands(story: Story) -> None:
    """Carol at the command line, each command a process; what fails is typed too."""
    assert story.run("carol", "enroll", "carol", code=story.wrong("code")).returncode
    steps = ("--json", "--steps")
    run = functools.partial(story.run, "carol")

    def good(*arguments: str, **options: str) -> None:
        done = run(*arguments, **options)
        assert done.returncode == 0, (done.stdout + done.stderr).decode()

    good(*steps, "enroll", "carol", code=story.code("carol"), marker="carol")
    good(*steps, "send", "bob", stdin=story.text(), marker="bob")
    good("--steps", "send", "alice", "--file", str(story.own_files / "holiday.bin"), marker="alice")
    good(*steps, "renew", marker="fingerprint")
    good("devices", marker="carol")
    assert run("send", "nobody-at-all", stdin=story.text(), marker="nobody-at-all").returncode
    assert run("devices", passphrase=story.wrong("passphrase"), marker="passphrase").returncode
    assert story.run("nobody", "devices").returncode
    (profile := story.profile("broken")).mkdir()
    (profile / "keystore.sqlite3").write_bytes(b"no profile" * 100)
    assert story.run("broken", "devices", marker="profile").returncode
    asyncio.run(_answer_carol(story))
    good("receive", marker="bob")


async def _answer_carol(story: Story) -> None:
    bob = await Client.open(story.profile("bob"), unlock=Passphrase(story.passphrase("bob")))
    await bob.send("carol", story.text(frozenset({"keypost carol receive: stdout"})))
    await bob.close()


def _collect_in_process(story: Story) -> None:
    """What was logged, raised, shown and told in this process."""
    raised = "\n".join(
        "".join((repr(error), str(error), repr(getattr(error, "metadata", "")), *traceback.format_exception(error)))
        for error in _with_causes(story.errors)
    )
    told = [*map(repr, story.seen), *(json.dumps(dataclasses.asdict(one), default=str) for one in story.seen)]
    story.places += [
        Place("log of this process", story.log.getvalue().encode(), b"DECRYPTION"),
        Place("errors", raised.encode(), b"Traceback"),
        Place("events and steps", "\n".join(told).encode(), b"alice"),
        Place("reprs", "\n".join(story.reprs).encode(), b"Session("),
    ]


def _with_causes(errors: list[BaseException]) -> Iterator[BaseException]:
    for error in errors:
        one: BaseException | None = error
        while one is not None:
            yield one
            one = one.__cause__ or one.__context__
