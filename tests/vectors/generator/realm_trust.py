"""Vectors of RealmTrust."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keypost.clock import DAY
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.protocol.encoding import USER_KEYS
from keypost.protocol.realm_trust import read_realm_trust, sign_realm_trust
from keypost.protocol.signing import sign_statement
from support.clock import START
from support.realm import REALM, SimulatedRealm, seeded_signer
from vectors.generator.files import VectorFile, flipped

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT, NEW_ROOT, STRANGER = seeded_signer(1), seeded_signer(3), seeded_signer(9)


def statement(**changes: Any) -> pb.RealmTrust:
    """Return a trust statement of the simulated realm with some fields changed."""
    made = pb.RealmTrust.FromString(SimulatedRealm().signed_trust().realm_trust)
    for name, value in changes.items():
        if isinstance(value, list):
            made.ClearField(name)  # type: ignore[arg-type]  # the name of a field
            getattr(made, name).extend(value)
        else:
            setattr(made, name, value)
    return made


def _input(
    signed: pb.SignedRealmTrust, previous: pb.SignedRealmTrust | None = None, now: int = START
) -> dict[str, Any]:
    return {
        "realm": REALM,
        "root_keys": [ROOT.public_key_der.hex()],
        "now": now,
        "previous": previous.SerializeToString().hex() if previous else None,
        "signed_realm_trust": signed.SerializeToString().hex(),
    }


def realm_trust_file() -> VectorFile:
    file = VectorFile(
        "realm_trust",
        "A SignedRealmTrust as a client receives it. `root_keys` are the bundle's; `previous` is the SignedRealmTrust "
        "that the client accepted before, whose root keys count instead.",
        "Realm trust",
        deterministic=True,
    )
    first = sign_realm_trust(statement(), ROOT)
    _good(file, first)
    both = [pb.RootKey(public_key_der=key.public_key_der) for key in (ROOT, NEW_ROOT)]
    second = sign_realm_trust(statement(sequence=2, root_keys=both), ROOT)
    third = sign_realm_trust(statement(sequence=3, root_keys=both[1:]), NEW_ROOT)
    file.good("the same again", **_input(first, first), sequence=1)
    file.good("a second root key is announced", **_input(second, first), sequence=2)
    file.good("the second root key signs, the first is gone", **_input(third, second), sequence=3)
    file.good("a millisecond before it ends", **_input(first, now=START + 400 * DAY - 1), sequence=1)
    file.fails("REALM_TRUST_REFUSED", "signed by a key that was never announced", **_input(third, first))
    file.fails("REALM_TRUST_REFUSED", "expired", **_input(first, now=START + 400 * DAY))
    _refused(file)
    file.fails("REALM_TRUST_REGRESSED", "an older one", **_input(first, second))
    other = sign_realm_trust(statement(until_time=START + DAY), ROOT)
    file.fails("REALM_TRUST_REGRESSED", "another one of the same sequence", **_input(other, first))
    _malformed(file)
    return file


def _good(file: VectorFile, signed: pb.SignedRealmTrust) -> None:
    trust = read_realm_trust(signed, realm=REALM, root_keys=[ROOT.public_key_der], now=START)
    file.good(
        "the first",
        **_input(signed),
        sequence=trust.sequence,
        statement=signed.realm_trust.hex(),
        record_keys=[key.fingerprint.hex() for key in trust.record_keys],
        until_time=trust.until_time,
        settle=trust.constants.settle,
        age_limit=trust.constants.age_limit,
    )


def _refused(file: VectorFile) -> None:
    file.fails("REALM_TRUST_REFUSED", "signed by a stranger", **_input(sign_realm_trust(statement(), STRANGER)))
    file.fails("REALM_TRUST_REFUSED", "of another realm", **_input(sign_realm_trust(statement(realm="evil.org"), ROOT)))
    edits: dict[str, Callable[[pb.SignedRealmTrust], None]] = {
        "an altered statement": lambda signed: setattr(signed, "realm_trust", flipped(signed.realm_trust, -1)),
        "an altered signature": lambda signed: setattr(signed, "signature", flipped(signed.signature)),
        "a signature a byte short": lambda signed: setattr(signed, "signature", signed.signature[:-1]),
        "signed under another label": lambda signed: setattr(
            signed, "signature", sign_statement(ROOT, USER_KEYS, signed.realm_trust)
        ),
        "signed without a label": lambda signed: setattr(signed, "signature", ROOT.sign(signed.realm_trust)),
    }
    for name, edit in edits.items():
        signed = sign_realm_trust(statement(), ROOT)
        edit(signed)
        file.fails("SIGNATURE_INVALID", name, **_input(signed))


def _malformed(file: VectorFile) -> None:
    no_constant = statement()
    no_constant.constants.rotation_period = 0
    no_suite = statement()
    del no_suite.constants.allowed_suites[:]
    broken = {
        "no root key": statement(root_keys=[]),
        "no record key": statement(record_keys=[]),
        "a constant is missing": no_constant,
        "no suite is allowed": no_suite,
    }
    for name, made in broken.items():
        file.fails("MALFORMED_STATEMENT", name, **_input(sign_realm_trust(made, ROOT)))
    junk = pb.SignedRealmTrust(
        realm_trust=b"\xff",
        signature=sign_statement(ROOT, b"keypost/v1/realm-trust", b"\xff"),
        root_key_fingerprint=ROOT.fingerprint,
    )
    file.fails("MALFORMED_STATEMENT", "signed bytes that are no message", **_input(junk))
