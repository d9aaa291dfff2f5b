"""What the next trust statement changes, and what of it is likely a mistake: pure (docs/operations.md)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from keypost.clock import DAY, SECOND
from keypost.protocol.encoding import fingerprint
from keypost.protocol.suites import SUITES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keypost.protocol.realm_trust import RealmTrust, RecordKey

_LEAST_LEFT = 30 * DAY
_NEVER_SHORTER = ("retention", "longest_key_lifetime", "renewal_window", "mailbox_age")
"""What was granted under longer ones still stands on record, or waits: with shorter ones it would be refused."""


def changes(before: RealmTrust, after: RealmTrust) -> list[str]:
    """Return a line for each thing that a statement changes: ``+`` is new, ``-`` is gone, ``~`` is another."""
    return [
        f"~ sequence {before.sequence} -> {after.sequence}",
        *_changed("until", _moment(before.until_time), _moment(after.until_time)),
        *_root_keys(before, after),
        *_record_keys(before, after),
        *_constants(before, after),
    ]


def problems(before: RealmTrust, after: RealmTrust, now: int) -> list[str]:
    """Return a sentence for each change that would hurt somebody, or is likely a mistake."""
    return [
        *_times(before, after, now),
        *_missing_keys(after, now),
        *_too_early(before, after, now),
        *_too_soon(before, after, now),
        *_less(before, after),
    ]


def short(public_key_der: bytes) -> str:
    """Return what people call a key: the first 16 digits of its fingerprint."""
    return fingerprint(public_key_der).hex()[:16]


def _moment(milliseconds: int) -> str:
    """Return a time to the second: whoever signs wants to see whatever changes."""
    return datetime.fromtimestamp(milliseconds // SECOND, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _changed(name: str, before: str, after: str) -> Iterator[str]:
    if before != after:
        yield f"~ {name} {before} -> {after}"


def _root_keys(before: RealmTrust, after: RealmTrust) -> Iterator[str]:
    yield from (f"+ root key {short(key)}" for key in after.root_keys if key not in before.root_keys)
    yield from (f"- root key {short(key)}" for key in before.root_keys if key not in after.root_keys)


def _record_keys(before: RealmTrust, after: RealmTrust) -> Iterator[str]:
    old = {key.public_key_der: key for key in before.record_keys}
    new = {key.public_key_der: key for key in after.record_keys}
    yield from (f"+ record key {short(key)}, {_span(new[key])}" for key in new if key not in old)
    yield from (f"- record key {short(key)}" for key in old if key not in new)
    for key in old.keys() & new.keys():
        yield from _changed(f"record key {short(key)}:", _span(old[key]), _span(new[key]))


def _span(key: RecordKey) -> str:
    return f"{_moment(key.from_time)} to {_moment(key.until_time)}"


def _constants(before: RealmTrust, after: RealmTrust) -> Iterator[str]:
    for name, value in vars(before.constants).items():
        new = getattr(after.constants, name)
        if name == "allowed_suites":
            yield from _changed(name, _suites(value), _suites(new))
        else:
            yield from _changed(name, str(value), str(new))


def _suites(ids: tuple[int, ...]) -> str:
    names = {int(suite.id): suite.name for suite in SUITES}
    return ",".join(names.get(suite, str(suite)) for suite in ids)


def _times(before: RealmTrust, after: RealmTrust, now: int) -> Iterator[str]:
    if after.until_time <= now:
        yield "the statement is over already"
    elif after.until_time < before.until_time:
        yield "the statement ends before the one that it replaces"


def _missing_keys(after: RealmTrust, now: int) -> Iterator[str]:
    in_force = [key for key in after.record_keys if key.from_time <= now < key.until_time]
    if not in_force:
        yield "no record key is in force now: no record could be signed"
    if max(key.until_time for key in after.record_keys) < now + _LEAST_LEFT:
        yield "the last record key ends within 30 days"


def _too_early(before: RealmTrust, after: RealmTrust, now: int) -> Iterator[str]:
    known = {key.public_key_der for key in before.record_keys}
    soon = now + before.constants.record_lifetime
    for key in after.record_keys:
        if key.public_key_der not in known and key.from_time < soon:
            yield f"record key {short(key.public_key_der)} is in force before everybody has fetched the statement"


def _too_soon(before: RealmTrust, after: RealmTrust, now: int) -> Iterator[str]:
    listed = {key.public_key_der for key in after.record_keys}
    gone = (
        key for key in before.record_keys if key.public_key_der not in listed and key.from_time <= now < key.until_time
    )
    for key in gone:
        if _may_have_signed(key, after, now):
            yield f"record key {short(key.public_key_der)} is retired while records that it signed are in use"


def _may_have_signed(key: RecordKey, after: RealmTrust, now: int) -> bool:
    """Whether a key may have signed a record that is still fresh: no other one has been in force for long enough."""
    lifetime = after.constants.settle
    return not any(
        other.from_time > key.from_time and other.from_time + lifetime <= now < other.until_time
        for other in after.record_keys
    )


def _less(before: RealmTrust, after: RealmTrust) -> Iterator[str]:
    for name in _NEVER_SHORTER:
        if getattr(after.constants, name) < getattr(before.constants, name):
            yield f"{name} becomes shorter: what was granted under the longer one would be refused"
    gone = tuple(suite for suite in before.constants.allowed_suites if suite not in after.constants.allowed_suites)
    if gone:
        yield f"the suite {_suites(gone)} is no longer allowed: its keys can neither be sealed to nor renewed"
    if after.constants.record_lifetime > before.constants.record_lifetime:
        yield "record_lifetime becomes longer: until they have fetched the statement, all refuse the longer records"
    if after.constants.retention > before.constants.retention:
        yield "retention becomes longer: keys come back into records that they had left, which looks like a forgery"
    if after.constants.retention < after.constants.age_limit:
        yield "retention is shorter than messages may wait"
