"""What is out of reach when a client is closed (docs/secrets.md)."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import threading
import types
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keypost.client import Client
from keypost.errors import InvalidArgumentError, KeypostError, UnreachableError
from keypost.keystore import KeyStoreUnavailableError, open_store, sealing
from keypost.keystore.sealing import Sealer, wipe
from keypost.transport.retries import Retries
from support import memory
from support.key_store import BUNDLE, REALM, UNLOCK
from support.people import CHEAP
from support.surfaces import InThreads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keypost.client import Received
    from support.people import Open, Person
    from support.simulation import Services
    from support.tls import TlsFiles

CALLS: dict[str, Callable[[Client, Any], Any]] = {
    "enroll": lambda client, _: client.enroll("alice"),
    "send": lambda client, _: client.send("bob", "too late"),
    "rotate": lambda client, _: client.rotate("bob"),
    "send_file": lambda client, _: client.send_file("bob", Path(__file__)),
    "file_transfers": lambda client, _: client.file_transfers(),
    "resume_files": lambda client, _: client.resume_files(),
    "cancel_file": lambda client, _: client.cancel_file(bytes(16)),
    "receive": lambda client, _: anext(client.receive()),
    "set_handled": lambda client, message: client.set_handled(message),
    "retry_set_aside": lambda client, _: client.retry_set_aside(),
    "flush": lambda client, _: client.flush(),
    "list_set_aside": lambda client, _: client.list_set_aside(),
    "outbox": lambda client, _: client.outbox(),
    "renew": lambda client, _: client.renew(),
    "keys": lambda client, _: client.keys("bob"),
    "devices": lambda client, _: client.devices(),
    "invite": lambda client, _: client.invite(),
    "join": lambda client, _: client.join("KEYPOST-INVITATION-1:"),
    "joined": lambda client, _: client.joined(),
    "read_request": lambda client, _: client.read_request("KEYPOST-REQUEST-1:"),
    "approve": lambda client, _: client.approve("KEYPOST-REQUEST-1:"),
    "name_device": lambda client, _: client.name_device("a" * 16, "phone"),
    "revoke": lambda client, _: client.revoke("a" * 16, "lost"),
    "request_reset": lambda client, _: client.request_reset("alice"),
    "cancel_reset": lambda client, _: client.cancel_reset(),
    "sign_in_nonce": lambda client, _: client.sign_in_nonce("alice"),
    "backup": lambda client, _: client.backup(Path("backup"), CHEAP),
    "set_backup": lambda client, _: client.set_backup(None),
    "accept_identity": lambda client, _: client.accept_identity("bob", bytes(32)),
    "waiting_elsewhere": lambda client, _: client.waiting_elsewhere(),
    "safety_number": lambda client, _: client.safety_number("bob"),
    "set_verified": lambda client, _: client.set_verified("bob", "1" * 60),
    "set_unverified": lambda client, _: client.set_unverified("bob"),
    "is_verified": lambda client, _: client.is_verified("bob"),
    "evidence": lambda client, _: client.evidence("bob"),
}
"""Every public method but ``open`` and ``close``."""


def reachable(start: object) -> Iterator[object]:
    """Yield what can be reached from an object, but for what is everybody's: modules, classes, globals, the loop."""
    shared = {id(vars(module)) for module in list(sys.modules.values()) if isinstance(module, types.ModuleType)}
    seen, left = {id(start)}, [start]
    while left:
        one = left.pop()
        yield one
        for other in gc.get_referents(one):
            if id(other) in seen or id(other) in shared or isinstance(other, _SHARED):
                continue
            seen.add(id(other))
            left.append(other)


_SHARED = (types.ModuleType, type, types.CodeType, types.FrameType, asyncio.AbstractEventLoop)


@dataclass
class Held:
    """What of a client's secrets can be reached from it."""

    client: Client
    values: set[bytes] = field(default_factory=set, repr=False)

    async def note(self) -> None:
        """Note the secrets of the client while it is open."""
        store: Any = self.client._parts.context.store._store
        self.values = {bytes(store._database.sealer._data_key)}
        self.values |= {source.token("delivery").encode() for source in self.client._parts.tokens[:1]}
        pair = store.key_pairs.current()
        self.values.add(pair.private_key_der)
        self.values |= {one.session_key for one in store.sessions.newest(("alice", "bob"))}
        assert len(self.values) >= 4

    def of(self) -> list[str]:
        """Return the kinds of what can be reached now."""
        found = []
        for one in reachable(self.client):
            if isinstance(one, RSAPrivateKey | AESGCM):
                found.append(type(one).__name__)
            elif isinstance(one, bytes | bytearray | str):
                value = one.encode("utf-8", "surrogatepass") if isinstance(one, str) else bytes(one)
                found += ["secret"] * (value in self.values)
        return found


async def talk(alice: Person, bob: Person) -> Received:
    await alice.client.send("bob", "a message")
    await bob.client.send("alice", "an answer")
    return (await alice.inbox())[0]


def test_the_table_has_every_method() -> None:
    public = {name for name, _ in inspect.getmembers(Client, inspect.isfunction) if not name.startswith("_")}
    assert public - {"close"} == set(CALLS)


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("enrolled", [True, False], ids=["enrolled", "not enrolled"])
async def test_every_method_of_a_closed_client_says_that_it_is_closed(
    open_client: Open, method: str, *, enrolled: bool
) -> None:
    alice = await open_client("alice")
    if enrolled:
        await alice.client.enroll("alice")
    await alice.client.close()
    with pytest.raises(InvalidArgumentError, match="closed") as refused:
        await CALLS[method](alice.client, None)
    assert refused.value.metadata == {"field": "client"}


async def test_what_says_who_a_closed_client_was_stays(alice: Person) -> None:
    address, shown = alice.client.address, repr(alice.client)
    await alice.client.close()
    assert (alice.client.address, repr(alice.client)) == (address, shown)


@pytest.mark.parametrize("surface", [Client, InThreads])
async def test_nothing_secret_can_be_reached_from_a_closed_client(alice: Person, bob: Person) -> None:
    await talk(alice, bob)
    held = Held(alice.client)
    await held.note()
    assert {"RSAPrivateKey", "secret"} <= set(held.of())
    await alice.client.close()
    assert held.of() == []


async def test_tokens_of_a_pending_key_are_dropped_too(alice: Person) -> None:
    sources = alice.client._parts.tokens
    assert len(sources) == 2
    for source in sources:
        source._cached["delivery"] = None  # type: ignore[assignment]
    await alice.client.close()
    assert [source._cached for source in sources] == [{}, {}]


async def test_whoever_is_cancelled_while_closing_leaves_a_client_that_closes(alice: Person, bob: Person) -> None:
    await talk(alice, bob)
    held = Held(alice.client)
    await held.note()
    async with alice.client._working():  # a call under way, which closing waits for
        closing = asyncio.create_task(alice.client.close())
        await asyncio.sleep(0)
        assert alice.client._closing is not None
        closing.cancel()
        with suppress(asyncio.CancelledError):
            await closing
        assert held.of()
    await alice.client.close()
    assert held.of() == []


async def test_a_channel_that_fails_to_close_keeps_no_key(alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: object) -> None:
        raise KeypostError("no")

    for channel in alice.client._parts.channels:
        monkeypatch.setattr(type(channel), "close", fail)
    await alice.client.close()
    assert alice.client._parts.identity.ring.current is None
    with pytest.raises(KeyStoreUnavailableError):
        await alice.client._parts.context.store.run(lambda store: store.profile.read())
    # Left open, they would be some other test's garbage.
    monkeypatch.undo()
    for channel in alice.client._parts.channels:
        await channel.close()


@dataclass(frozen=True)
class SlowUnlock:
    """Unlocks when it is told to."""

    asked: threading.Event
    go: threading.Event
    kind: ClassVar[str] = CHEAP.kind
    wrong: ClassVar[str] = CHEAP.wrong

    def prepare(self) -> str:
        return CHEAP.prepare()

    def derive(self, parameters: str) -> bytearray:
        self.asked.set()
        assert self.go.wait(30)
        return CHEAP.derive(parameters)


@pytest.mark.parametrize("new", [True, False], ids=["made", "opened"])
async def test_an_opening_that_is_cancelled_leaves_no_open_profile(
    open_client: Open, services: Services, tls: TlsFiles, tmp_path: Path, *, new: bool
) -> None:
    if not new:
        await (await open_client("alice")).client.close()
    before = set(sealers())
    unlock = SlowUnlock(threading.Event(), threading.Event())
    opening = asyncio.create_task(Client.open(tmp_path / "alice", unlock=unlock, bundle=services.bundle(tls)))
    await asyncio.to_thread(unlock.asked.wait, 30)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    unlock.go.set()
    await asyncio.to_thread(_threads_end)
    assert [one._data_key for one in sealers() if one not in before and one._data_key is not None] == []
    open_store(tmp_path / "alice", CHEAP).close()


def sealers() -> list[Sealer]:
    return [one for one in gc.get_objects() if isinstance(one, Sealer)]


def _threads_end() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("keypost-store"):
            thread.join(30)


async def test_an_opening_that_fails_leaves_no_open_profile(services: Services, tls: TlsFiles, tmp_path: Path) -> None:
    bundle = services.bundle(tls)
    bundle.endpoints.directory = bundle.endpoints.ca = "127.0.0.1:1"
    with pytest.raises(UnreachableError) as failed:
        await Client.open(tmp_path / "alice", unlock=CHEAP, bundle=bundle, retries=Retries(attempts=1))
    assert failed.value.__traceback__ is not None, "whoever holds the error holds the frames of the opening"
    assert [one for one in sealers() if one._data_key is not None] == []
    open_store(tmp_path / "alice", CHEAP).close()


async def test_parts_that_cannot_be_put_together_leave_no_open_profile(
    services: Services, tls: TlsFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("keypost.client.starting.wire", fail)
    with pytest.raises(ZeroDivisionError) as failed:
        await Client.open(tmp_path / "alice", unlock=CHEAP, bundle=services.bundle(tls))
    assert failed.value.__traceback__ is not None
    open_store(tmp_path / "alice", CHEAP).close()


@dataclass(frozen=True)
class WatchedUnlock:
    """Shows what becomes of the keys that it derived."""

    derived: list[bytearray]
    kind: ClassVar[str] = UNLOCK.kind
    wrong: ClassVar[str] = UNLOCK.wrong
    right: bool = True

    def prepare(self) -> str:
        return UNLOCK.prepare()

    def derive(self, parameters: str) -> bytearray:
        key = UNLOCK.derive(parameters)
        if not self.right:
            key[0] ^= 1
        self.derived.append(key)
        return key


def test_what_a_store_was_unlocked_with_is_wiped(tmp_path: Path) -> None:
    from keypost.keystore import WrongPassphraseError, create_store  # noqa: PLC0415

    derived: list[bytearray] = []
    create_store(tmp_path, WatchedUnlock(derived), realm=REALM, bundle=BUNDLE).close()
    store = open_store(tmp_path, WatchedUnlock(derived))
    store.change_unlock(WatchedUnlock(derived))
    store.close()
    with pytest.raises(WrongPassphraseError):
        open_store(tmp_path, WatchedUnlock(derived, right=False))
    assert derived == [bytearray(32)] * 4


def test_the_data_key_is_wiped_where_it_stood(tmp_path: Path) -> None:
    from keypost.keystore import create_store  # noqa: PLC0415

    store: Any = create_store(tmp_path, UNLOCK, realm=REALM, bundle=BUNDLE)
    data_key = store._database.sealer._data_key
    assert any(data_key)
    store.close()
    assert data_key == bytearray(32)


def test_the_key_of_each_value_is_wiped_where_it_was_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    derived: list[bytearray] = []

    def watched(key: bytearray) -> AESGCM:
        derived.append(key)
        assert any(key)
        return AESGCM(key)

    monkeypatch.setattr(sealing, "AESGCM", watched)
    sealer = sealing.new_sealer()
    assert sealer.open(("table", "column"), sealer.seal(("table", "column"), b"value")) == b"value"
    assert derived == [bytearray(32)] * 2


def test_bytes_are_left_as_they_are() -> None:
    secret = b"0123456789abcdef"
    wipe(secret)
    assert secret == b"0123456789abcdef"


@pytest.mark.skipif(sys.platform != "linux", reason="reads another process's memory by /proc")
def test_the_memory_of_a_process_whose_clients_are_closed(tmp_path: Path) -> None:
    counts, alive = memory.observe(tmp_path)
    assert (alive["open"], alive["closed"]) == (2, 0)
    for kind in ("data key", "private exponent"):
        assert counts[kind]["open"] >= 2, kind
        assert counts[kind]["closed"] == 0, kind
    assert counts["derived key"] == dict.fromkeys(memory.STAGES, 0)
