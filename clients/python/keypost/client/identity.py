"""Who this device is: its address and key pairs, in memory while the client is open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.errors import KeypostError
from keypost.keys.v1 import key_info_pb2
from keypost.protocol.identifiers import Address
from keypost.protocol.key_requests import DeviceKeyPair
from keypost.protocol.rsa import public_key_der, unsealed_private_key_from_der
from keypost.protocol.suites import suite_for
from keypost.protocol.tokens import mint_token

if TYPE_CHECKING:
    from keypost.client.store_worker import StoreWorker
    from keypost.keystore.port import KeyStore
    from keypost.keystore.values import KeyPair


class NotEnrolledError(KeypostError):
    """This profile has no recorded key yet."""

    reason = "NOT_ENROLLED"


@dataclass(frozen=True)
class KeyRing:
    """The key pairs of this device.

    Attributes:
        address: The device, or None before enrolment.
        current: The pair that signs and authenticates.
        pending: A pair that the CA may or may not have recorded.
        replaced: Pairs that still open what was sealed to them.
    """

    address: Address | None = None
    current: DeviceKeyPair | None = None
    pending: DeviceKeyPair | None = None
    replaced: tuple[DeviceKeyPair, ...] = ()

    @property
    def usernames(self) -> frozenset[str]:
        """The own user: also of a device that joins, and is none yet."""
        addresses = [pair.address for pair in self.all()]
        if self.address is not None:
            addresses.append(self.address)
        return frozenset(address.username for address in addresses)

    def find(self, fingerprint: bytes) -> DeviceKeyPair | None:
        """Return the pair with this fingerprint."""
        return next((pair for pair in self.all() if pair.fingerprint == fingerprint), None)

    def all(self) -> tuple[DeviceKeyPair, ...]:
        """Return all pairs."""
        return tuple(pair for pair in (self.current, self.pending, *self.replaced) if pair is not None)


class Identity:
    """Reads the key ring from the store and keeps it.

    Args:
        store: The key store.
    """

    def __init__(self, store: StoreWorker) -> None:
        self._store = store
        self.ring = KeyRing()

    async def reload(self) -> None:
        """Read the key ring again: after opening, enrolment, renewal, and the end of an old key."""
        self.ring = await self._store.run(_read_ring)

    async def drop_pending(self) -> None:
        """Destroy the pending pair: the next attempt makes another one."""
        await self._store.transact(_drop_pending)
        await self.reload()

    def forget(self) -> None:
        """Drop the keys from memory; the address is no secret, and stays."""
        self.ring = KeyRing(address=self.ring.address)

    @property
    def address(self) -> Address:
        """The own address.

        Raises:
            NotEnrolledError: there is none yet.
        """
        if self.ring.address is None:
            raise not_enrolled()
        return self.ring.address

    @property
    def current(self) -> DeviceKeyPair:
        """The current key pair.

        Raises:
            NotEnrolledError: there is none yet.
        """
        if self.ring.current is None:
            raise not_enrolled()
        return self.ring.current

    @property
    def pending(self) -> DeviceKeyPair:
        """The pending key pair.

        Raises:
            NotEnrolledError: there is none.
        """
        if self.ring.pending is None:
            raise not_enrolled()
        return self.ring.pending


class PairSigner:
    """Signs tokens with a key pair (see keypost.transport.tokens.TokenSigner)."""

    def __init__(self, pair: DeviceKeyPair) -> None:
        self._pair = pair

    @property
    def fingerprint(self) -> bytes:
        """The key's fingerprint."""
        return self._pair.fingerprint

    def mint(self, audience: str, now: int, lifetime_ms: int) -> str:
        """Return a new token."""
        return mint_token(self._pair, audience, now, lifetime_ms)


def to_device_key_pair(stored: KeyPair) -> DeviceKeyPair:
    """Return a stored pair for use; the device is the one that its key request names."""
    signed = key_info_pb2.SignedKeyRequest.FromString(stored.key_request)
    request = key_info_pb2.KeyRequest.FromString(signed.key_request)
    address = Address(request.username, request.device_id)
    private_key = unsealed_private_key_from_der(stored.private_key_der)
    return DeviceKeyPair(address, suite_for(stored.suite), private_key, public_key_der(private_key))


def _read_ring(store: KeyStore) -> KeyRing:
    current, pending = store.key_pairs.current(), store.key_pairs.pending()
    return KeyRing(
        address=store.profile.read().address,
        current=to_device_key_pair(current) if current else None,
        pending=to_device_key_pair(pending) if pending else None,
        replaced=tuple(to_device_key_pair(pair) for pair in store.key_pairs.replaced()),
    )


def _drop_pending(store: KeyStore) -> None:
    if (pending := store.key_pairs.pending()) is not None:
        store.key_pairs.destroy(pending.fingerprint)


def not_enrolled() -> NotEnrolledError:
    """Return the error that says so."""
    return NotEnrolledError("this profile has no key of its own yet: enroll first")
