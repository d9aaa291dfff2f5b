"""When a key is valid: to send to or act with (step 3), to open what it signed (step 9) (docs/spec.md, "Validity")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.protocol.errors import (
    ClockAheadError,
    KeyExpiredError,
    KeyRevokedError,
    KeySupersededError,
    MessageTooOldError,
    NoUsableDeviceError,
    SuiteRefusedError,
)
from keypost.protocol.key_info import REVOKED, SUPERSEDED, Key, KeyRecord
from keypost.protocol.realm_trust import CLOCK_SKEW, Constants
from keypost.protocol.suites import STRONG, Suite

if TYPE_CHECKING:
    from keypost.protocol.identifiers import Address


@dataclass(frozen=True)
class Policy:
    """What a client accepts.

    Attributes:
        constants: The realm's.
        minimum_suite: Every key that takes part must reach it.
    """

    constants: Constants
    minimum_suite: Suite = STRONG


@dataclass(frozen=True)
class Times:
    """The times by which a received message is judged, Unix milliseconds.

    Attributes:
        session_create_time: When its session was created, by its creator.
        sign_time: When its extension was signed, by its sender.
        accept_time: When delivery accepted it; can only make a client refuse.
        now: The receiver's clock.
    """

    session_create_time: int
    sign_time: int
    accept_time: int
    now: int


def check_suite(key: Key, policy: Policy) -> None:
    """Raise :class:`SuiteRefusedError`, naming the device, if a key may not take part."""
    if key.suite.strength < policy.minimum_suite.strength:
        why = f"below this client's minimum, {policy.minimum_suite.name}"
    elif key.suite.id not in policy.constants.allowed_suites:
        why = "not allowed in this realm"
    else:
        return
    raise SuiteRefusedError(f"the key of {key.address} is {key.suite.name}: {why}", address=str(key.address))


def check_can_send(record: KeyRecord, policy: Policy, now: int, *, exclude: Address | None = None) -> tuple[Key, ...]:
    """Return the keys of a user to seal to now, ordered by device_id.

    Args:
        record: The recipient's record.
        policy: What the client accepts.
        now: Unix milliseconds.
        exclude: The own device, in the conversation of a user with himself.

    Raises:
        RecordExpiredError: the record is no longer fresh.
        NoUsableDeviceError: no key is good and unexpired.
        SuiteRefusedError: one of the keys is of a suite that may not take part.
    """
    record.check_fresh(now)
    keys = [key for key in record.good_keys(now) if key.address != exclude]
    if not keys:
        raise NoUsableDeviceError(
            f"{record.username} has no device with a valid key: nobody could read the message",
            username=record.username,
        )
    for key in keys:
        check_suite(key, policy)
    return tuple(sorted(keys, key=lambda key: key.address.device_id))


def check_can_act(key: Key, record: KeyRecord, now: int) -> None:
    """Verify that a key may send or authenticate now.

    Raises:
        RecordExpiredError: the record is no longer fresh.
        KeySupersededError, KeyRevokedError, KeyExpiredError: it is replaced, withdrawn (or void), or expired.
    """
    record.check_fresh(now)
    if key.state == SUPERSEDED:
        raise KeySupersededError(f"the key of {key.address} was replaced")
    if key.state == REVOKED or record.is_void(key):
        raise KeyRevokedError(f"the key of {key.address} was revoked")
    if now >= key.expire_time:
        raise KeyExpiredError(f"the key of {key.address} has expired")


def check_can_open(key: Key, record: KeyRecord, times: Times, policy: Policy, *, retired: bool = False) -> None:
    """Verify that what ``key`` signed may be opened.

    Args:
        key: The signer's key.
        record: The signer's record.
        times: When everything happened.
        policy: What the client accepts.
        retired: Whether the client has emptied its mailbox since it knew that the key had ended (superseded: since
            *T* + settle): then nothing by it can still be on its way.

    Raises:
        RecordExpiredError: the record is no longer fresh.
        SuiteRefusedError: the suite may not take part.
        ClockAheadError: a time is more than five minutes ahead of the receiver's clock.
        MessageTooOldError: the session is older than the age limit.
        KeyExpiredError, KeySupersededError, KeyRevokedError: the key had ended when it was used.
    """
    check_suite(key, policy)
    _check_age(times, policy.constants)
    _check_unexpired(key, times)
    _check_not_compromised(key, record)
    if key.is_good:
        # Only a fresh record can say that a key has not ended; that it has, an old one says as well.
        record.check_fresh(times.now)
        return
    _check_not_ended(key, times, policy.constants, retired=retired)


def _check_unexpired(key: Key, times: Times) -> None:
    if times.accept_time >= key.expire_time:
        raise KeyExpiredError(f"the key of {key.address} had expired when the message was accepted")


def _check_not_compromised(key: Key, record: KeyRecord) -> None:
    if record.is_void(key) or key.is_compromised:
        raise KeyRevokedError(f"the key of {key.address} is compromised: nothing that it signed is trusted")


def _check_not_ended(key: Key, times: Times, constants: Constants, *, retired: bool) -> None:
    ended = key.state_time + (constants.settle if key.state == SUPERSEDED else 0)
    if retired or max(times.sign_time, times.accept_time) > ended:
        error = KeySupersededError if key.state == SUPERSEDED else KeyRevokedError
        raise error(f"the key of {key.address} had ended when it was used")


def _check_age(times: Times, constants: Constants) -> None:
    if max(times.session_create_time, times.sign_time) > times.now + CLOCK_SKEW:
        raise ClockAheadError("the message is from the future; is this machine's clock right?")
    if min(times.session_create_time, times.accept_time) < times.now - constants.age_limit:
        raise MessageTooOldError("the message is older than the realm's age limit")
