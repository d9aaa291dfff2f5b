"""The client for code without an event loop."""

from __future__ import annotations

import functools
import warnings
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from keypost.client import client as asyncio_client
from keypost.sync.loop_thread import LoopThread
from keypost.sync.results import Received, ReceivedFile

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from types import TracebackType

    from keypost.client import results
    from keypost.protocol.identifiers import Address

P = ParamSpec("P")
T = TypeVar("T")


def _opening(
    method: Callable[P, Coroutine[Any, Any, asyncio_client.Client]],
) -> Callable[Concatenate[type[Client], P], Client]:
    """Return the class method that opens a client in a thread of its own."""

    @functools.wraps(method.__func__)  # type: ignore[attr-defined]  # it is bound to its class
    def open_client(cls: type[Client], /, *args: P.args, **kwargs: P.kwargs) -> Client:
        thread = LoopThread()

        async def open_in_thread() -> asyncio_client.Client:
            client = await method(*args, **kwargs)
            thread.last_act = client.close
            return client

        try:
            return cls(thread.run(open_in_thread), thread)
        except BaseException:
            thread.close()
            raise

    return open_client


def _waiting(
    method: Callable[Concatenate[asyncio_client.Client, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Client, P], T]:
    """Return the method that waits for what ``method`` of the asyncio client returns."""

    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._thread.run(method, self._client, *args, **kwargs)

    return call


class Client:
    """Sends and receives end-to-end encrypted messages for one device of a user; calls wait until they are done.

    Open one with ``Client.open``; use it as a context manager, from any thread, also several at once. It is
    ``keypost.Client`` on an event loop in a thread of its own: that thread calls ``observer``, ``on_event`` and
    ``progress``, which must be quick and may not call the client themselves. An interrupted call (Ctrl-C) is cancelled;
    the client remains usable. Open one in each process: it does not survive a fork. When the main thread ends, calls
    that still run in other threads have five seconds to finish, and whatever they call afterwards finds the client
    closed: join the threads that shall go on.
    """

    def __init__(self, client: asyncio_client.Client, thread: LoopThread) -> None:
        self._client = client
        self._thread = thread

    open = classmethod(_opening(asyncio_client.Client.open))
    sign_in_nonce = _waiting(asyncio_client.Client.sign_in_nonce)
    enroll = _waiting(asyncio_client.Client.enroll)
    send = _waiting(asyncio_client.Client.send)
    rotate = _waiting(asyncio_client.Client.rotate)
    send_file = _waiting(asyncio_client.Client.send_file)
    file_transfers = _waiting(asyncio_client.Client.file_transfers)
    resume_files = _waiting(asyncio_client.Client.resume_files)
    cancel_file = _waiting(asyncio_client.Client.cancel_file)
    set_handled = _waiting(asyncio_client.Client.set_handled)
    retry_set_aside = _waiting(asyncio_client.Client.retry_set_aside)
    list_set_aside = _waiting(asyncio_client.Client.list_set_aside)
    renew = _waiting(asyncio_client.Client.renew)
    keys = _waiting(asyncio_client.Client.keys)
    invite = _waiting(asyncio_client.Client.invite)
    join = _waiting(asyncio_client.Client.join)
    joined = _waiting(asyncio_client.Client.joined)
    read_request = _waiting(asyncio_client.Client.read_request)
    approve = _waiting(asyncio_client.Client.approve)
    devices = _waiting(asyncio_client.Client.devices)
    outbox = _waiting(asyncio_client.Client.outbox)
    flush = _waiting(asyncio_client.Client.flush)
    waiting_elsewhere = _waiting(asyncio_client.Client.waiting_elsewhere)
    name_device = _waiting(asyncio_client.Client.name_device)
    revoke = _waiting(asyncio_client.Client.revoke)
    request_reset = _waiting(asyncio_client.Client.request_reset)
    cancel_reset = _waiting(asyncio_client.Client.cancel_reset)
    accept_identity = _waiting(asyncio_client.Client.accept_identity)
    safety_number = _waiting(asyncio_client.Client.safety_number)
    set_verified = _waiting(asyncio_client.Client.set_verified)
    set_unverified = _waiting(asyncio_client.Client.set_unverified)
    is_verified = _waiting(asyncio_client.Client.is_verified)
    evidence = _waiting(asyncio_client.Client.evidence)
    backup = _waiting(asyncio_client.Client.backup)
    set_backup = _waiting(asyncio_client.Client.set_backup)

    def receive(self, *, follow: bool = True) -> Generator[Received]:
        """Yield messages as ``keypost.Client.receive`` does, and raise the same.

        Advancing past a message says that it is handled. Leaving the loop or closing the iterator ends receiving, and
        waits for that a few seconds at most; closing the client, from another thread, ends the iteration.
        """
        for message in self._thread.iterate(self._client.receive(follow=follow)):
            yield self._received(message)

    def close(self) -> None:
        """Close the client as ``keypost.Client.close`` does, and end its thread; again is no error.

        An iteration in another thread ends. Without it, the end of the program closes the client, and so does the
        garbage collector, with a ResourceWarning.
        """
        self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._thread.is_open:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2, source=self)
            self._thread.end()

    def __repr__(self) -> str:
        return repr(self._client)

    @property
    def realm(self) -> str:
        """The realm."""
        return self._client.realm

    @property
    def address(self) -> Address | None:
        """The own address, or None before enrolment; it stays known when the client is closed."""
        return self._client.address

    @property
    def oidc(self) -> results.Oidc | None:
        """Where users of this realm sign in, as the bundle says; None if it names no issuer."""
        return self._client.oidc

    def _received(self, message: results.Received) -> Received:
        file = message.file
        if file is None:
            return Received(**_values(message))
        own = ReceivedFile(**_values(file), _pieces=lambda: self._thread.iterate(file.chunks()))
        return Received(**{**_values(message), "file": own})


def _values(result: results.Received | results.ReceivedFile) -> dict[str, Any]:
    return {each.name: getattr(result, each.name) for each in fields(result)}
