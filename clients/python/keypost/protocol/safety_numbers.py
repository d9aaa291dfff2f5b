"""Safety numbers: what two people compare to know that they see the same keys (docs/spec.md, "Safety numbers")."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from hmac import compare_digest

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from keypost.protocol.encoding import SAFETY_NUMBER, check_number, int_bytes, named, pae
from keypost.protocol.errors import MalformedStatementError, SafetyNumberDiffersError
from keypost.protocol.identifiers import check_realm, check_username, conversation_of
from keypost.protocol.key_requests import FINGERPRINT_BYTES

ROUNDS = 100_000
"""About 40 ms for whoever shows a number, about 2^50 rounds for whoever wants a root that has ten digits in common."""
GROUPS, GROUP_DIGITS, GROUP_BYTES = 6, 5, 5
DIGITS = GROUPS * GROUP_DIGITS
"""Of one user; two users compare twice as many."""
CODE_PREFIX = "keypost-safety-number"
CODE_VERSION = "1"
CODE_FIELDS = 9
MOST_CODE_CHARACTERS = 1_024


@dataclass(frozen=True)
class Identity:
    """To whom a user's keys belong.

    Attributes:
        username: The user.
        epoch: The epoch of the keys.
        root: Fingerprint of the root of its tree, 32 bytes.
    """

    username: str
    epoch: int
    root: bytes


def digits_of(realm: str, identity: Identity) -> str:
    """Return the 30 digits of one user: what another device of the same user compares."""
    pieces = (SAFETY_NUMBER, realm.encode(), identity.username.encode(), int_bytes(identity.epoch), identity.root)
    derivation = PBKDF2HMAC(hashes.SHA512(), GROUPS * GROUP_BYTES, pae(*pieces), ROUNDS)
    derived = derivation.derive(SAFETY_NUMBER)
    return "".join(_group(derived[at : at + GROUP_BYTES]) for at in range(0, len(derived), GROUP_BYTES))


def _group(piece: bytes) -> str:
    return f"{int.from_bytes(piece, 'big') % 10**GROUP_DIGITS:0{GROUP_DIGITS}}"


def safety_number(realm: str, one: Identity, other: Identity) -> str:
    """Return the 60 digits that two users compare, in the conversation's order: the same on both sides."""
    return "".join(digits_of(realm, identity) for identity in _in_order(one, other))


def _in_order(one: Identity, other: Identity) -> tuple[Identity, Identity]:
    first, _ = conversation_of(one.username, other.username)
    return (one, other) if one.username == first else (other, one)


def grouped(digits: str) -> str:
    """Return digits as people read them aloud: in groups of five, a space between two."""
    return " ".join(digits[at : at + GROUP_DIGITS] for at in range(0, len(digits), GROUP_DIGITS))


def check_same_digits(digits: str, compared: str) -> None:
    """Verify that a number that a person reads or types is this one; white space in it means nothing.

    Raises:
        SafetyNumberDiffersError: it is another.
    """
    typed = "".join(compared.split())
    if not compare_digest(typed.encode(), digits.encode()):
        raise SafetyNumberDiffersError("the numbers differ: somebody may be between the two of you")


def code_of(realm: str, one: Identity, other: Identity) -> str:
    """Return what the QR code of two users holds: the same text on both sides."""
    fields = [CODE_PREFIX, CODE_VERSION, realm]
    for identity in _in_order(one, other):
        fields += [identity.username, str(identity.epoch), _root_text(identity.root)]
    return ":".join(fields)


def compare(realm: str, own: tuple[Identity, Identity], compared: str) -> None:
    """Verify that digits or a code of the other side are what this side sees.

    Raises:
        MalformedStatementError, SafetyNumberDiffersError: as :func:`compare_code` and :func:`check_same_digits`.
    """
    if ":" in compared:
        compare_code(realm, own, compared)
    else:
        check_same_digits(safety_number(realm, *own), compared)


def compare_code(realm: str, own: tuple[Identity, Identity], scanned: str) -> None:
    """Verify that a code that was scanned from the other side's screen says what this side sees.

    Args:
        realm: The own realm.
        own: The two identities as this side sees them, in any order.
        scanned: The text of the code.

    Raises:
        MalformedStatementError: it is no code of this version.
        SafetyNumberDiffersError: ``metadata["field"]`` says in what, ``metadata["username"]`` whose keys differ.
    """
    their_realm, theirs = read_code(scanned)
    if their_realm != realm:
        raise SafetyNumberDiffersError(f"the code is of another realm, {their_realm}", field="realm")
    for mine, their in zip(_in_order(*own), theirs, strict=True):
        _check_same_identity(mine, their)


def _check_same_identity(mine: Identity, their: Identity) -> None:
    if mine.username != their.username:
        raise SafetyNumberDiffersError(
            f"the code is of another user, {their.username}", field="username", username=mine.username
        )
    if mine.epoch != their.epoch or not compare_digest(mine.root, their.root):
        raise SafetyNumberDiffersError(
            f"the two sides see different keys of {mine.username}: somebody may be between the two of you",
            field="root",
            username=mine.username,
        )


def read_code(scanned: str) -> tuple[str, tuple[Identity, Identity]]:
    """Return the realm and the two identities that a scanned code names.

    Raises:
        MalformedStatementError: it is no code of this version.
    """
    fields = scanned.split(":") if len(scanned) <= MOST_CODE_CHARACTERS else []
    if len(fields) != CODE_FIELDS or fields[:2] != [CODE_PREFIX, CODE_VERSION]:
        raise MalformedStatementError("this is no code of a safety number, or one of a newer version")
    realm = named("realm", check_realm, fields[2])
    one, other = _read_identity(*fields[3:6]), _read_identity(*fields[6:9])
    # One identity, one text: no leading zero, no other base64, no other order.
    if code_of(realm, one, other) != scanned:
        raise MalformedStatementError("the code of a safety number is not written as it should be")
    return realm, (one, other)


def _read_identity(username: str, epoch: str, root: str) -> Identity:
    return Identity(named("username", check_username, username), _read_epoch(epoch), _read_root(root))


def _read_epoch(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise MalformedStatementError("epoch: it is a number", field="epoch")
    return named("epoch", check_number, int(text))


def _read_root(text: str) -> bytes:
    try:
        root = base64.b64decode(text + "=", altchars=b"-_", validate=True)
    except ValueError as error:
        raise MalformedStatementError("root: it is base64url", field="root") from error
    if len(root) != FINGERPRINT_BYTES:
        raise MalformedStatementError("root: it has 32 bytes", field="root")
    return root


def _root_text(root: bytes) -> str:
    return base64.urlsafe_b64encode(root).decode().rstrip("=")
