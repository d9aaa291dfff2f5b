"""The next trust statement on its way to the offline machine: what is to be signed, and what it is to replace."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from keypost.errors import KeypostError
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.protocol.encoding import fingerprint, parse
from keypost.protocol.realm_trust import Constants, restore_realm_trust
from keypost.protocol.suites import suite_named
from keypost_services.ca.durations import parse_duration
from keypost_services.ca.trust.realm_files import RealmFilesError, read_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from keypost.protocol.realm_trust import RealmTrust

_FEWEST_DIGITS = 8


@dataclass(frozen=True)
class Draft:
    """A statement to be signed.

    Attributes:
        previous: The signed statement that it is to replace.
        statement: The bytes to sign: a serialised RealmTrust.
    """

    previous: pb.SignedRealmTrust
    statement: bytes

    @property
    def next(self) -> RealmTrust:
        """What the bytes say.

        Raises:
            MalformedStatementError: nothing that a trust statement could say.
            TrustRefusedError: they are of another realm than the previous statement.
        """
        realm = parse(pb.RealmTrust, self.previous.realm_trust, "RealmTrust").realm
        return restore_realm_trust(pb.SignedRealmTrust(realm_trust=self.statement), realm)

    def to_json(self) -> bytes:
        """Return the draft as the content of a file."""
        fields = {
            "previous": json_format.MessageToDict(self.previous),
            "realm_trust": base64.b64encode(self.statement).decode(),
        }
        return json.dumps(fields, indent=1).encode() + b"\n"


@dataclass(frozen=True)
class Edits:
    """What the next statement changes.

    Attributes:
        until_time: Until when it may be relied upon, Unix milliseconds.
        new_record_keys: With their times.
        retired_record_keys: Fingerprints, or their first digits: no longer listed.
        extended_record_keys: Fingerprints, or their first digits: in force until the statement ends.
        new_root_keys: SubjectPublicKeyInfo, DER.
        removed_root_keys: Fingerprints, or their first digits.
        constants: Text by the name of the constant.
    """

    until_time: int
    new_record_keys: Sequence[pb.RecordKey] = ()
    retired_record_keys: Sequence[str] = ()
    extended_record_keys: Sequence[str] = ()
    new_root_keys: Sequence[bytes] = ()
    removed_root_keys: Sequence[str] = ()
    constants: Mapping[str, str] | None = None


def draft_next(trust: RealmTrust, edits: Edits, now: int) -> Draft:
    """Return the draft of the statement after ``trust``; record keys that are over are left out.

    Raises:
        ValueError: an edit names a key that is not listed, or a constant that there is not; nothing would be left.
    """
    statement = pb.RealmTrust.FromString(trust.signed.realm_trust)
    statement.sequence = trust.sequence + 1
    statement.until_time = edits.until_time
    _edit_root_keys(statement, edits)
    _edit_record_keys(statement, edits, now)
    statement.constants.CopyFrom(edit_constants(trust.constants, edits.constants or {}).to_message())
    return Draft(trust.signed, statement.SerializeToString(deterministic=True))


def read_draft(file: Path) -> Draft:
    """Return the draft in a file.

    Raises:
        RealmFilesError: there is none.
    """
    try:
        fields: dict[str, Any] = json.loads(read_file(file))
        previous = json_format.ParseDict(fields["previous"], pb.SignedRealmTrust())
        draft = Draft(previous, base64.b64decode(fields["realm_trust"], validate=True))
        draft.next  # noqa: B018  # whether it can be read
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error, json_format.ParseError) as error:
        raise RealmFilesError(
            f"{file} is no draft of a trust statement (`keypost-ca trust draft` makes one)"
        ) from error
    except KeypostError as error:
        raise RealmFilesError(f"{file}: {error}") from error
    return draft


def edit_constants(constants: Constants, edits: Mapping[str, str]) -> Constants:
    """Return constants with some of them changed.

    Args:
        constants: As they are.
        edits: Text by name: a duration, a number, or names of suites with commas.

    Raises:
        ValueError: there is no such constant, or the text is no value of it.
    """
    read: dict[str, Callable[[str], Any]] = dict.fromkeys(Constants.__dataclass_fields__, parse_duration)
    read |= {"rotation_messages": int, "allowed_suites": _read_suites}
    for name in edits:
        if name not in read:
            raise ValueError(f"there is no realm constant {name!r}: {', '.join(read)}")
    return replace(constants, **{name: read[name](text) for name, text in edits.items()})


def find_key(keys: Sequence[bytes], digits: str) -> bytes:
    """Return the one of these public keys whose fingerprint begins with these hexadecimal digits.

    Raises:
        ValueError: there is none, or more than one; or the digits are too few to tell.
    """
    found = [key for key in keys if fingerprint(key).hex().startswith(digits.lower())]
    if len(digits) < _FEWEST_DIGITS or len(found) != 1:
        raise ValueError(f"{digits!r} does not name one of the keys that are listed ({_FEWEST_DIGITS} digits at least)")
    return found[0]


def _edit_root_keys(statement: pb.RealmTrust, edits: Edits) -> None:
    listed = [key.public_key_der for key in statement.root_keys]
    removed = {find_key(listed, digits) for digits in edits.removed_root_keys}
    kept = [key for key in dict.fromkeys([*listed, *edits.new_root_keys]) if key not in removed]
    if not kept:
        raise ValueError("no root key would be left: nobody could sign the statement after it")
    del statement.root_keys[:]
    statement.root_keys.extend(pb.RootKey(public_key_der=key) for key in kept)


def _edit_record_keys(statement: pb.RealmTrust, edits: Edits, now: int) -> None:
    listed = {key.public_key_der: key for key in statement.record_keys}
    retired = {find_key(list(listed), digits) for digits in edits.retired_record_keys}
    for digits in edits.extended_record_keys:
        listed[find_key(list(listed), digits)].until_time = edits.until_time
    kept = [key for der, key in listed.items() if der not in retired and now < key.until_time]
    new = [key for key in edits.new_record_keys if key.public_key_der not in listed]
    if len(new) != len(edits.new_record_keys):
        raise ValueError("a new record key is listed already")
    if not [*kept, *new]:
        raise ValueError("no record key would be left: no record could be signed")
    all_keys = [pb.RecordKey(**_fields(key)) for key in [*kept, *new]]
    del statement.record_keys[:]
    statement.record_keys.extend(all_keys)


def _fields(key: pb.RecordKey) -> dict[str, Any]:
    return {"public_key_der": key.public_key_der, "from_time": key.from_time, "until_time": key.until_time}


def _read_suites(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({suite_named(name).id for name in text.split(",")}, reverse=True))
    except KeypostError as error:
        raise ValueError(str(error)) from error
