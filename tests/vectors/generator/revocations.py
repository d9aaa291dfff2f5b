"""Vectors of revocations, and of cancellations of an identity reset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.encoding import KEY_REQUEST, RESET_CANCELLATION, REVOCATION, pae
from keypost.protocol.revocations import sign_reset_cancellation, sign_revocation
from keypost.protocol.suites import STRONG, WEAK, Suite
from support.clock import START
from support.realm import REALM, SimulatedRealm
from vectors.generator.files import VectorFile, flipped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keypost.protocol.key_requests import DeviceKeyPair

    Signed = pb.SignedRevocation | pb.SignedResetCancellation

LOST, COMPROMISED = pb.REVOCATION_REASON_LOST, pb.REVOCATION_REASON_COMPROMISED
COMMON: dict[str, dict[str, Any]] = {
    "no realm": {"realm": ""},
    "a realm in capitals": {"realm": "Example.org"},
    "a username in capitals": {"username": "Alice"},
    "a short device id": {"device_id": "a" * 15},
    "no revision": {"revision": 0},
    "a revision beyond what a database keeps": {"revision": 2**63},
}
REVOCATIONS: dict[str, dict[str, Any]] = {
    "a short fingerprint": {"fingerprint": bytes(31)},
    "no reason": {"reason": pb.REVOCATION_REASON_UNSPECIFIED},
    "a reset, which is the CA's own reason": {"reason": pb.REVOCATION_REASON_RESET},
    "an unknown reason": {"reason": 99},
    "a time before all times": {"reason": COMPROMISED, "since_time": -1},
    "a time of a key that was not compromised": {"reason": LOST, "since_time": START},
}


def revocations_file() -> VectorFile:
    file = VectorFile(
        "revocations",
        "A SignedRevocation, and the SignedKeyRequest of the key that must have signed it.",
        "Revocations",
    )
    for suite in (STRONG, WEAK):
        _revocations(file, suite)
    root, pair = _signer(STRONG)
    for name, changes in (COMMON | REVOCATIONS).items():
        bad = _hex(sign_revocation(_revocation(pair, **changes), pair))
        file.fails("MALFORMED_STATEMENT", name, revocation=bad, signer=root)
    nothing = pb.SignedRevocation(revocation=b"\xff", signer_fingerprint=pair.fingerprint)
    file.fails("MALFORMED_STATEMENT", "no message", revocation=_hex(nothing), signer=root)
    return file


def reset_cancellations_file() -> VectorFile:
    file = VectorFile(
        "reset_cancellations",
        "A SignedResetCancellation, and the SignedKeyRequest of the key that must have signed it.",
        "Resets",
    )
    for suite in (STRONG, WEAK):
        _cancellations(file, suite)
    root, pair = _signer(STRONG)
    for name, changes in COMMON.items():
        bad = _hex(sign_reset_cancellation(_cancellation(pair, **changes), pair))
        file.fails("MALFORMED_STATEMENT", name, reset_cancellation=bad, signer=root)
    nothing = pb.SignedResetCancellation(reset_cancellation=b"\xff", signer_fingerprint=pair.fingerprint)
    file.fails("MALFORMED_STATEMENT", "no message", reset_cancellation=_hex(nothing), signer=root)
    return file


def _signer(suite: Suite) -> tuple[str, DeviceKeyPair]:
    realm = SimulatedRealm()
    pair = realm.enroll("alice", suite)
    return realm.user("alice").keys[0].request.signed.SerializeToString().hex(), pair


def _hex(signed: Signed) -> str:
    return signed.SerializeToString().hex()


def _revocation(key: DeviceKeyPair, **changes: Any) -> pb.Revocation:
    revocation = pb.Revocation(
        realm=REALM,
        username="alice",
        device_id=key.address.device_id,
        fingerprint=key.fingerprint,
        reason=LOST,
        revision=2,
    )
    for name, value in changes.items():
        setattr(revocation, name, value)
    return revocation


def _cancellation(signer: DeviceKeyPair, **changes: Any) -> pb.ResetCancellation:
    cancellation = pb.ResetCancellation(realm=REALM, username="alice", device_id=signer.address.device_id, revision=3)
    for name, value in changes.items():
        setattr(cancellation, name, value)
    return cancellation


def _revocations(file: VectorFile, suite: Suite) -> None:
    root, pair = _signer(suite)
    for reason, since in ((pb.REVOCATION_REASON_RETIRED, 0), (LOST, 0), (COMPROMISED, 0), (COMPROMISED, START)):
        signed = sign_revocation(_revocation(pair, reason=reason, since_time=since), pair)
        word = pb.RevocationReason.Name(reason).removeprefix("REVOCATION_REASON_").lower()
        file.good(
            f"{suite.name}: {word}{', since then' if since else ''}",
            revocation=_hex(signed),
            signer=root,
            statement=signed.revocation.hex(),
            signed=pae(REVOCATION, signed.revocation).hex(),
            address=str(pair.address),
            fingerprint=pair.fingerprint.hex(),
            reason=word,
            revision=2,
            since_time=since,
        )
    signed = sign_revocation(_revocation(pair), pair)
    altered = _revocation(pair, reason=COMPROMISED).SerializeToString(deterministic=True)

    def bad(statement: bytes, signature: bytes) -> str:
        return _hex(pb.SignedRevocation(revocation=statement, signature=signature, signer_fingerprint=pair.fingerprint))

    _forgeries(file, suite, "revocation", bad, (signed.revocation, signed.signature, altered), (root, pair))


def _cancellations(file: VectorFile, suite: Suite) -> None:
    root, pair = _signer(suite)
    signed = sign_reset_cancellation(_cancellation(pair), pair)
    file.good(
        f"{suite.name}: a cancellation",
        reset_cancellation=_hex(signed),
        signer=root,
        statement=signed.reset_cancellation.hex(),
        signed=pae(RESET_CANCELLATION, signed.reset_cancellation).hex(),
        address=str(pair.address),
        revision=3,
    )
    altered = _cancellation(pair, revision=4).SerializeToString(deterministic=True)

    def bad(statement: bytes, signature: bytes) -> str:
        made = pb.SignedResetCancellation(
            reset_cancellation=statement, signature=signature, signer_fingerprint=pair.fingerprint
        )
        return _hex(made)

    parts = (signed.reset_cancellation, signed.signature, altered)
    _forgeries(file, suite, "reset_cancellation", bad, parts, (root, pair))


def _forgeries(
    file: VectorFile,
    suite: Suite,
    field: str,
    bad: Callable[[bytes, bytes], str],
    parts: tuple[bytes, bytes, bytes],
    signer: tuple[str, DeviceKeyPair],
) -> None:
    statement, signature, altered = parts
    root, pair = signer
    stranger = SimulatedRealm()
    stranger.new_private_key(suite)
    other = stranger.new_pair(pair.address, suite)
    label = {"revocation": REVOCATION, "reset_cancellation": RESET_CANCELLATION}[field]
    forged: Mapping[str, tuple[bytes, bytes]] = {
        "the signature is altered": (statement, flipped(signature, -1)),
        "there is no signature": (statement, b""),
        "signed by another key": (statement, suite.sign(other.private_key, label, statement)),
        "signed under another label": (statement, suite.sign(pair.private_key, KEY_REQUEST, statement)),
        "the statement is altered": (altered, signature),
    }
    for name, (said, by) in forged.items():
        file.fails("SIGNATURE_INVALID", f"{suite.name}: {name}", **{field: bad(said, by)}, signer=root)
