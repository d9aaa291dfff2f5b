"""Who calls."""

from __future__ import annotations

import enum
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from keypost_services.runtime.logs import fact

if TYPE_CHECKING:
    from collections.abc import Callable

    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import Key


class CallerKind(enum.Enum):
    """How a caller is known."""

    ANYONE = "anyone"
    DEVICE = "device"
    SERVICE = "service"
    ADMINISTRATOR = "administrator"


@dataclass(frozen=True)
class Caller:
    """A caller that the method table admits.

    Attributes:
        kind: How it is known.
        peer: Its network address, as ``ipv4:192.0.2.1:4711``; with the port 0 if a trusted proxy said so.
        address: The device, if it is one.
        key: The device's key, good when the token was verified.
        service: The name of the service, if it is one.
        administrator: The name of the administrator, if it is one.
        public_key_der: The public key of the administrator's certificate: the holder of its private key is at the
            other end. SubjectPublicKeyInfo in DER; empty for others.
        expire_time: Until when new calls may rely on this, Unix milliseconds: the end of its token, its key or its
            record; None: as long as the connection lasts.
    """

    kind: CallerKind
    peer: str
    address: Address | None = None
    key: Key | None = None
    service: str | None = None
    administrator: str | None = None
    public_key_der: bytes = b""
    expire_time: int | None = None

    @cached_property
    def name(self) -> str:
        """How logs name the caller."""
        return str(self.address or self.service or self.administrator or self.kind.value)


@dataclass(frozen=True)
class Call:
    """A call that is being handled.

    Attributes:
        caller: Whom the method table admitted.
        request_id: The caller's id of the request, or one that was drawn: at most 64 of ``A-Z a-z 0-9 _ -``.
    """

    caller: Caller
    request_id: str


@dataclass(frozen=True)
class FoundKey:
    """A key that a token names, as a record shows it.

    Attributes:
        key: The key, whatever its state.
        next_update: Until when the record may be relied upon, Unix milliseconds.
    """

    key: Key
    next_update: int


class DeviceKeys(Protocol):
    """Where a service looks up the key that a token names."""

    async def find_device_key(self, username: str, fingerprint: bytes) -> FoundKey:
        """Return the key with ``fingerprint`` in the verified record of ``username``, whatever its state.

        Raises:
            TokenRefusedError: cause UNKNOWN_KEY: there is no such user or no such key; the two look alike.
            ServiceError: the record cannot be had now.
        """
        ...


_CALL: ContextVar[Call] = ContextVar("keypost_call")


def current_call() -> Call:
    """Return the call that is being handled.

    Raises:
        LookupError: no call is being handled here.
    """
    return _CALL.get()


def request_id_or(draw: Callable[[], str]) -> str:
    """Return the id of the request that is being handled; of what is done for none, one that is drawn."""
    return fact("request_id") or draw()


def current_caller() -> Caller:
    """Return the caller of the call that is being handled.

    Raises:
        LookupError: no call is being handled here.
    """
    return current_call().caller


def set_current_call(call: Call) -> None:
    """Say which call this task handles (the interceptor's business, and tests')."""
    _CALL.set(call)
