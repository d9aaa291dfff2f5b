"""Who calls."""

from __future__ import annotations

import enum
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import Key


class CallerKind(enum.Enum):
    """How a caller is known."""

    ANYONE = "anyone"
    DEVICE = "device"
    SERVICE = "service"


@dataclass(frozen=True)
class Caller:
    """A caller that the method table admits.

    Attributes:
        kind: How it is known.
        peer: Its network address, as ``ipv4:192.0.2.1:4711``.
        address: The device, if it is one.
        key: The device's key, good when the token was verified.
        service: The name of the service, if it is one.
        expire_time: Until when new calls may rely on this, Unix milliseconds; None: as long as the connection lasts.
    """

    kind: CallerKind
    peer: str
    address: Address | None = None
    key: Key | None = None
    service: str | None = None
    expire_time: int | None = None

    @property
    def name(self) -> str:
        """How logs name the caller."""
        return str(self.address or self.service or self.kind.value)


class DeviceKeys(Protocol):
    """Where a service looks up the key that a token names."""

    async def find_device_key(self, username: str, fingerprint: bytes) -> Key:
        """Return the key with ``fingerprint`` in the verified record of ``username``, whatever its state.

        Raises:
            TokenRefusedError: cause UNKNOWN_KEY: there is no such user or no such key; the two look alike.
            ServiceError: the record cannot be had now.
        """
        ...


_CALLER: ContextVar[Caller] = ContextVar("keypost_caller")


def current_caller() -> Caller:
    """Return the caller of the call that is being handled.

    Raises:
        LookupError: no call is being handled here.
    """
    return _CALLER.get()


def set_current_caller(caller: Caller) -> None:
    """Name the caller of this task (the interceptor's business, and tests')."""
    _CALLER.set(caller)
