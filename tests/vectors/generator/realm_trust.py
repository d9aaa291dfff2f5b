"""Vectors of RealmTrust."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keypost.clock import DAY
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.protocol.encoding import USER_KEYS
from keypost.protocol.realm_trust import MOST_EARLIER, read_realm_trust, sign_realm_trust
from keypost.protocol.signing import sign_statement
from support.clock import START
from support.realm import REALM, SimulatedRealm, seeded_signer
from vectors.generator.files import VectorFile, flipped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from keypost.protocol.signing import Ed25519Signer

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
    signed: pb.SignedRealmTrust,
    previous: pb.SignedRealmTrust | None = None,
    now: int = START,
    earlier: Sequence[pb.SignedRealmTrust] = (),
) -> dict[str, Any]:
    return {
        "realm": REALM,
        "root_keys": [ROOT.public_key_der.hex()],
        "now": now,
        "previous": previous.SerializeToString().hex() if previous else None,
        "earlier": [one.SerializeToString().hex() for one in earlier],
        "signed_realm_trust": signed.SerializeToString().hex(),
    }


def realm_trust_file() -> VectorFile:
    file = VectorFile(
        "realm_trust",
        "A SignedRealmTrust as a client receives it. `root_keys` are the bundle's; `previous` is the SignedRealmTrust "
        "that the client accepted before, whose root keys count instead. `earlier` are the statements that came with "
        "it, by which root keys handed over, oldest first.",
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
    _chains(file, first, second, third)
    return file


def _chains(
    file: VectorFile, first: pb.SignedRealmTrust, second: pb.SignedRealmTrust, third: pb.SignedRealmTrust
) -> None:
    late = START + 380 * DAY
    fourth = sign_realm_trust(statement(sequence=4, root_keys=[_key(NEW_ROOT)], until_time=START + 500 * DAY), NEW_ROOT)
    old_second = sign_realm_trust(statement(sequence=2, root_keys=[_key(ROOT), _key(NEW_ROOT)], until_time=START), ROOT)
    file.good("followed from the bundle", **_input(fourth, earlier=[second, third]), sequence=4)
    file.good("followed from the statement before", **_input(fourth, first, earlier=[second, third]), sequence=4)
    file.good("what is known already is passed over", **_input(fourth, third, earlier=[second, third]), sequence=4)
    file.good("the statement on the way has expired", **_input(fourth, now=late, earlier=[old_second]), sequence=4)
    strange = sign_realm_trust(statement(sequence=2, root_keys=[_key(STRANGER)]), STRANGER)
    file.good("what a stranger signed is passed over", **_input(second, earlier=[strange]), sequence=2)
    _broken_chains(file, first, second, fourth)


def _broken_chains(
    file: VectorFile, first: pb.SignedRealmTrust, second: pb.SignedRealmTrust, fourth: pb.SignedRealmTrust
) -> None:
    file.fails("REALM_TRUST_REFUSED", "the way is missing", **_input(fourth, first))
    strange = sign_realm_trust(statement(sequence=2, root_keys=[_key(NEW_ROOT)]), STRANGER)
    file.fails("REALM_TRUST_REFUSED", "a stranger leads the way", **_input(fourth, first, earlier=[strange]))
    forged = sign_realm_trust(statement(sequence=2, root_keys=[_key(NEW_ROOT)]), STRANGER)
    forged.root_key_fingerprint = ROOT.fingerprint
    file.fails("SIGNATURE_INVALID", "the way is forged", **_input(fourth, first, earlier=[forged]))
    foreign = sign_realm_trust(statement(sequence=2, realm="evil.org", root_keys=[_key(NEW_ROOT)]), ROOT)
    file.fails("REALM_TRUST_REFUSED", "the way leads through another realm", **_input(fourth, first, earlier=[foreign]))
    file.fails(
        "REALM_TRUST_REGRESSED", "the way leads back", **_input(second, first, earlier=[second, _third_of(ROOT)])
    )
    too_many = [second] * (MOST_EARLIER + 1)
    file.fails("REALM_TRUST_REFUSED", "65 statements", **_input(fourth, first, earlier=too_many))


def _third_of(root: Ed25519Signer) -> pb.SignedRealmTrust:
    return sign_realm_trust(statement(sequence=3, root_keys=[_key(ROOT), _key(NEW_ROOT)]), root)


def _key(signer: Ed25519Signer) -> pb.RootKey:
    return pb.RootKey(public_key_der=signer.public_key_der)


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
