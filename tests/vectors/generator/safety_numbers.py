"""Vectors of safety numbers: digits and codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.protocol.encoding import SAFETY_NUMBER, int_bytes, pae, sha256
from keypost.protocol.safety_numbers import Identity, code_of, digits_of, safety_number
from support.realm import REALM
from vectors.generator.files import VectorFile, flipped

if TYPE_CHECKING:
    from typing import Any

ALICE = Identity("alice", 1, sha256(b"the root of alice"))
BOB = Identity("bob", 2, sha256(b"the root of bob"))
LONGEST = Identity("z" * 128, 2**63 - 1, b"\xff" * 32)


def safety_number_file() -> VectorFile:
    file = VectorFile(
        "safety_number",
        "`digits` cases: one user; `encoding` is the salt. `number` cases: two users, who compare digits or codes. "
        "`scanned` cases: what a code of the other side says of `own`.",
        "Safety numbers",
        deterministic=True,
    )
    for identity in (ALICE, BOB, Identity("alice", 2, ALICE.root), Identity("a.b+c@d", 1, bytes(32)), LONGEST):
        _digits(file, identity)
    for one, other in ((ALICE, BOB), (BOB, ALICE), (ALICE, LONGEST), (ALICE, ALICE)):
        _number(file, one, other)
    own = {"realm": REALM, "own": [_shown(BOB), _shown(ALICE)]}
    file.good("a code of the same keys", **own, scanned=code_of(REALM, ALICE, BOB))
    for name, scanned in _other_keys().items():
        file.fails("SAFETY_NUMBER_DIFFERS", name, **own, scanned=scanned)
    for name, scanned in _no_codes(code_of(REALM, ALICE, BOB)).items():
        file.fails("MALFORMED_STATEMENT", name, **own, scanned=scanned)
    return file


def _digits(file: VectorFile, identity: Identity) -> None:
    pieces = (SAFETY_NUMBER, REALM.encode(), identity.username.encode(), int_bytes(identity.epoch), identity.root)
    file.good(
        f"{identity.username} in epoch {identity.epoch}",
        realm=REALM,
        **_shown(identity),
        encoding=pae(*pieces).hex(),
        digits=digits_of(REALM, identity),
    )


def _number(file: VectorFile, one: Identity, other: Identity) -> None:
    file.good(
        f"{one.username} and {other.username}",
        realm=REALM,
        own=[_shown(one), _shown(other)],
        number=safety_number(REALM, one, other),
        code=code_of(REALM, one, other),
    )


def _shown(identity: Identity) -> dict[str, Any]:
    return {"username": identity.username, "epoch": identity.epoch, "root": identity.root.hex()}


def _other_keys() -> dict[str, str]:
    return {
        "another root of the peer": code_of(REALM, ALICE, Identity("bob", 2, flipped(BOB.root))),
        "another root of the own user": code_of(REALM, Identity("alice", 1, flipped(ALICE.root)), BOB),
        "another epoch": code_of(REALM, ALICE, Identity("bob", 3, BOB.root)),
        "another user": code_of(REALM, ALICE, Identity("carol", 2, BOB.root)),
        "another realm": code_of("example.com", ALICE, BOB),
        "keys changed over": code_of(REALM, Identity("alice", 2, BOB.root), Identity("bob", 1, ALICE.root)),
    }


def _no_codes(code: str) -> dict[str, str]:
    first, second = code.split(":alice:")[1].split(":bob:")
    return {
        "nothing": "",
        "a newer version": code.replace(":1:", ":2:", 1),
        "something behind it": code + ":",
        "a line feed": code + "\n",
        "users in the wrong order": f"keypost-safety-number:1:{REALM}:bob:{second}:alice:{first}",
        "an epoch with a leading zero": code.replace(":bob:2:", ":bob:02:"),
        "an epoch of 0": code.replace(":bob:2:", ":bob:0:"),
        "an epoch of 2^63": code.replace(":bob:2:", f":bob:{2**63}:"),
        "no username": code.replace(":bob:", ":Bob:"),
        "no realm": code.replace(f":{REALM}:", "::"),
        "a root that is too short": code[:-4],
        "a root with padding": code + "=",
        "a root in another base64": code.replace("-", "+").replace("_", "/"),
        "a root whose spare bits are set": code[:-1] + chr(ord(code[-1]) + 1),
        "longer than any code": code + "A" * 1_024,
    }
