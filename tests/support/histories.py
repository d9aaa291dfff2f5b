"""Random histories of one user's keys at a real CA, and observers who look at them now and then."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keypost.clock import DAY
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.continuity import Pins, check_pins, pin
from keypost.protocol.errors import IdentityChangedError, SuiteRefusedError
from keypost.protocol.history import newest
from keypost.protocol.negotiation import step_2_obtain_recipient_key_info
from keypost.protocol.suites import STRONG, WEAK, Suite
from keypost_services.runtime.errors import ServiceError
from support.ca import OPEN
from support.memory_ca import memory_ca

if TYPE_CHECKING:
    from keypost.protocol.key_info import KeyRecord
    from keypost.protocol.key_requests import DeviceKeyPair
    from keypost_services.ca.store import User
    from support.ca import CaBench

USERNAME = "alice"
REASONS = (pb.REVOCATION_REASON_RETIRED, pb.REVOCATION_REASON_LOST, pb.REVOCATION_REASON_COMPROMISED)


@dataclass
class History:
    """What happens to the keys of one user; what the CA refuses does not happen.

    Attributes:
        pairs: All key pairs that ever entered, oldest first.
    """

    ca: CaBench = field(default_factory=memory_ca)
    pairs: list[DeviceKeyPair] = field(default_factory=list)

    async def do(self, act: str, *arguments: Any) -> None:
        """Do something, if the CA lets it."""
        with suppress(ServiceError):
            await getattr(self, act)(*arguments)

    async def wait(self, days: float) -> None:
        self.ca.clock.advance(int(days * DAY))

    async def enroll(self, suite: Suite) -> None:
        start = await self.ca.enrollment.begin(USERNAME, OPEN)
        kind = {"kind": start.kind} if start.kind else {}
        pair, signed = await self.ca.enroll_request(USERNAME, OPEN, suite, **kind)
        await self.ca.submit_enroll(signed, OPEN)
        self.pairs.append(pair)

    async def renew(self, which: int, suite: Suite) -> None:
        self.pairs.append(await self.ca.renew(self.pair(which), suite))

    async def approve(self, which: int) -> None:
        self.pairs.append(await self.ca.approve(self.pair(which)))

    async def revoke(self, which: int, signer: int, reason: int, days_ago: float) -> None:
        changes: dict[str, int] = {"reason": REASONS[reason]}
        if days_ago and REASONS[reason] == pb.REVOCATION_REASON_COMPROMISED:
            changes["since_time"] = self.ca.clock() - int(days_ago * DAY)
        await self.ca.revoke(self.pair(which), self.pair(signer), **changes)

    async def announce_reset(self) -> None:
        await self.ca.resets.request(USERNAME, OPEN)

    async def cancel_reset(self, signer: int) -> None:
        await self.ca.cancel_reset(self.pair(signer))

    def pair(self, which: int) -> DeviceKeyPair:
        """Return one of the newest pairs: what ended long ago can do nothing any more."""
        return self.pairs[-1 - which % min(len(self.pairs), 6)]

    @property
    def user(self) -> User:
        """What the CA has on record."""
        users: dict[str, User] = self.ca.store.users  # type: ignore[attr-defined]  # it is in memory
        return users[USERNAME]

    async def shown(self, named: bytes = b"") -> pb.KeyInfo:
        """Return what the CA says now."""
        key_info = await self.ca.records.find_one(USERNAME, named)
        assert key_info is not None
        return key_info


@dataclass
class Observer:
    """Somebody who looks at a user's keys now and then, as a client does.

    Attributes:
        minimum: His minimum suite.
        record: What he holds.
        pins: What he remembers.
        snapshots: All that he was ever shown.
    """

    minimum: Suite
    record: KeyRecord | None = None
    pins: Pins | None = None
    snapshots: list[pb.KeyInfo] = field(default_factory=list)

    @property
    def named(self) -> bytes:
        """The newest key that he knows."""
        known = None if self.record is None else newest(self.record.requests, self.record.epoch)
        return b"" if known is None else known.fingerprint

    def verify(self, key_info: pb.KeyInfo, history: History) -> KeyRecord:
        """Return the record to keep; raises as steps 2 and 8."""
        trust, now = history.ca.trust, history.ca.clock()
        return step_2_obtain_recipient_key_info(key_info, trust=trust, username=USERNAME, now=now, previous=self.record)

    async def look(self, history: History) -> None:
        """Look, and keep what is shown; an honest history is accepted silently but for a new epoch."""
        key_info = await history.shown(self.named)
        record = self.verify(key_info, history)
        assert record.revision == history.user.revision
        self.snapshots.append(await history.shown())
        self.record = record
        self._pin(record)
        _check_state(record, history)

    def _pin(self, record: KeyRecord) -> None:
        changed = self.pins is not None and self.pins.epoch != record.epoch
        try:
            self.pins = check_pins(self.pins, record, self.minimum)
        except IdentityChangedError:
            assert changed
            self.pins = pin(record, self.minimum, self.pins)
        except SuiteRefusedError:
            # Nothing but weak keys so far: nobody with a higher minimum sends to them.
            assert self.minimum is STRONG
            assert all(request.suite is WEAK for request in record.requests if request.epoch == record.epoch)
        else:
            assert not changed

    def accepts(self, key_info: pb.KeyInfo, history: History) -> None:
        """Verify all that a client verifies, and keep nothing.

        Raises:
            ProtocolError: something is wrong with it.
        """
        check_pins(self.pins, self.verify(key_info, history), self.minimum)


def _check_state(record: KeyRecord, history: History) -> None:
    """Check that the observer believes what the CA has on record."""
    now = history.ca.clock()
    believed = {key.fingerprint for key in record.good_keys(now)}
    on_record = {
        key.fingerprint for key in history.user.keys if key.state == pb.KEY_STATE_GOOD and now < key.expire_time
    }
    assert believed == on_record, "a void key that the CA takes for good, or the other way round"
