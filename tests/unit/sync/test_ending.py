from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from keypost.errors import InvalidArgumentError
from keypost.keystore.errors import WrongPassphraseError
from keypost.keystore.unlock import Passphrase
from keypost.sync import Client, loop_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.simulation import Services

    Open = Callable[..., Client]


def client_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "keypost-sync"]


def test_a_closed_client_says_so_and_keeps_no_key_and_no_thread(alice: Client) -> None:
    parts, thread = alice._client._parts, alice._thread._thread
    alice.close()
    alice.close()
    assert not thread.is_alive()
    assert parts.identity.ring.all() == ()
    for call in (lambda: alice.send("bob", "x"), lambda: next(alice.receive()), alice.devices):
        with pytest.raises(InvalidArgumentError, match="closed"):
            call()
    assert str(alice.address) in repr(alice)


def test_threads_may_close_it_at_once(alice: Client) -> None:
    closing = [threading.Thread(target=alice.close) for _ in range(4)]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join()
        assert not alice._thread._thread.is_alive()


def test_a_client_that_cannot_be_opened_leaves_no_thread(open_client: Open) -> None:
    open_client("alice").close()
    before = client_threads()
    with pytest.raises(WrongPassphraseError):
        open_client("alice", unlock=Passphrase("wrong"))
    assert client_threads() == before


def test_a_client_that_nobody_holds_ends_with_a_warning(options: dict[str, Any], tmp_path: Path) -> None:
    held = [Client.open(tmp_path / "alice", **options)]
    thread = held[0]._thread
    with pytest.warns(ResourceWarning, match="was not closed"):
        held.clear()
    thread.close()
    Client.open(tmp_path / "alice", **options).close()


def test_closing_ends_an_iteration_in_another_thread(bob: Client, services: Services) -> None:
    begun, texts = threading.Event(), list[str]()

    async def note(_context: Any) -> None:
        begun.set()

    def follow() -> None:
        texts.extend(message.text for message in bob.receive())
        texts.append("the end")

    services.faults["Receive"] = [note]
    following = threading.Thread(target=follow)
    following.start()
    assert begun.wait(20)
    bob.close()
    following.join(20)
    assert texts == ["the end"]


def test_an_iterator_that_is_dropped_ends_receiving(alice: Client, bob: Client) -> None:
    alice.send("bob", "one")
    for message in bob.receive():
        assert message.text == "one"
        break
    assert bob._client._tasks == set()
    assert [message.redelivered for message in bob.receive(follow=False)] == [True]


def test_the_garbage_collector_may_find_an_iterator_in_the_clients_own_thread(alice: Client, bob: Client) -> None:
    alice.send("bob", "one")
    messages = bob.receive()
    next(messages)

    async def collect() -> None:
        messages.close()

    bob._thread.run(collect)
    assert [message.text for message in bob.receive(follow=False)] == ["one"]


def test_an_iterator_dropped_by_a_thread_that_holds_what_a_callback_wants_is_let_go(
    alice: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice.send("bob", "one")
    messages, wanted, waits = bob.receive(), threading.Lock(), threading.Event()
    next(messages)

    async def callback() -> None:
        waits.set()
        assert wanted.acquire(timeout=20)
        wanted.release()

    with wanted:
        calling = threading.Thread(target=bob._thread.run, args=(callback,))
        calling.start()
        assert waits.wait(20)
        monkeypatch.setattr(loop_thread, "PATIENCE_WITH_ITERATORS", 0.01)
        with pytest.warns(ResourceWarning, match="a callback waits for this thread"):
            messages.close()
        assert calling.is_alive(), "nothing but the lock keeps the callback"
    calling.join(20)
    assert not calling.is_alive()
    assert [message.text for message in bob.receive(follow=False)] == ["one"]


def test_an_iterator_may_be_closed_after_its_client(alice: Client, bob: Client) -> None:
    alice.send("bob", "one")
    messages = bob.receive()
    next(messages)
    bob.close()
    messages.close()
    assert list(messages) == []


def test_an_error_on_the_way_out_is_raised_by_close(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client.open(tmp_path / "alice", **options)

    async def fail() -> None:
        await close()
        raise OSError("the disk is full")

    close = client._client.close
    monkeypatch.setattr(client._thread, "last_act", fail)
    with pytest.raises(OSError, match="the disk is full"):
        client.close()


def test_a_callback_that_never_returns_does_not_keep_close(open_client: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    in_callback, go_on = threading.Event(), threading.Event()

    def block(_step: object) -> None:
        in_callback.set()
        go_on.wait()

    client = open_client("alice", observer=block)
    calling = threading.Thread(target=client.enroll, args=("alice",))
    calling.start()
    assert in_callback.wait(20)
    monkeypatch.setattr(loop_thread, "PATIENCE", 0.01)
    with pytest.warns(ResourceWarning, match="a callback blocks it"):
        client.close()
    go_on.set()
    calling.join()
    client._thread._thread.join()
