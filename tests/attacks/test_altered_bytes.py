"""Every byte of an envelope altered, one after the other: each is noticed, and by the check that is there for it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.errors import KeypostError
from keypost.protocol import negotiation as n
from keypost.protocol.continuity import pin
from keypost.protocol.envelope import check_addressed, read_envelope
from keypost.protocol.suites import STRONG, SUITES, WEAK, Suite
from support.attacks import check_told, check_untold
from support.hostile import flip
from support.realm import SimulatedRealm
from support.talk import Talk, text

if TYPE_CHECKING:
    from support.clock import ManualClock

both = pytest.mark.parametrize("suite", SUITES, ids=str)


@pytest.fixture
def realm(clock: ManualClock) -> SimulatedRealm:
    return SimulatedRealm(clock)


def fates(realm: SimulatedRealm, suite: Suite, part: str) -> Counter[str]:
    """Alter each byte of a part of a message; return how often which reason was given, or that it opened."""
    alice, bob = (Talk(realm, realm.enroll(name, suite)) for name in ("alice", "bob"))
    envelope = alice.write(alice.negotiate("bob"), text("hello"))
    record = realm.key_record("alice")
    holder: Any = envelope
    if part in {"extension", "signature"}:
        holder = envelope.key_extension
    elif part == "sealed_key":
        holder = envelope.key_extension.sealed_keys[0]

    def read() -> str:
        try:
            sealed = read_envelope(pb.Envelope.FromString(envelope.SerializeToString()))
            check_addressed(sealed, realm.realm, bob.pair.address, {bob.pair.fingerprint})
            extension = sealed.signed_extension.extension
            pins, now = pin(record, WEAK), realm.clock()
            key = n.step_9_check_sender_key(record, pins, extension, accept_time=now, now=now, policy=bob.policy)
            session_key = n.step_11_decrypt_session_key(
                n.step_10_extract_sealed_key(sealed, bob.pair), bob.pair, extension
            )
            digest, session = n.step_12_hash_session_key(session_key, extension)
            n.step_13_verify_signature(key, sealed.signed_extension, digest)
            n.step_14_decrypt_message(sealed, session)
        except KeypostError as error:
            return error.reason
        return "OPENED"

    assert read() == "OPENED"
    counted: Counter[str] = Counter()
    value = getattr(holder, part)
    for at in range(len(value)):
        setattr(holder, part, flip(value, at))
        counted[read()] += 1
    assert counted.total() == len(value)
    return counted


def check_all_stopped(told: Counter[str], reason: str) -> None:
    """Demand that nothing opened, and that everything was refused for one reason."""
    assert not told["OPENED"]
    check_told(sorted(told), reason)
    check_untold(sorted(set(told) - {reason}))


@both
def test_any_byte_of_the_header(realm: SimulatedRealm, suite: Suite) -> None:
    assert not fates(realm, suite, "header")["OPENED"]


def test_any_byte_of_the_extension(realm: SimulatedRealm) -> None:
    """In the default suite the signature covers it, so nothing is decrypted even."""
    told = fates(realm, STRONG, "extension")
    assert not told["OPENED"]
    check_untold(["DECRYPTION_FAILED"] * told["DECRYPTION_FAILED"])


def test_any_byte_of_the_extension_in_the_source_documents_suite(realm: SimulatedRealm) -> None:
    """There the signature does not cover it: the encryption of the message does."""
    assert not fates(realm, WEAK, "extension")["OPENED"]


@both
def test_any_byte_of_the_signature(realm: SimulatedRealm, suite: Suite) -> None:
    check_all_stopped(fates(realm, suite, "signature"), "SIGNATURE_INVALID")


@both
def test_any_byte_of_the_sealed_key(realm: SimulatedRealm, suite: Suite) -> None:
    check_all_stopped(fates(realm, suite, "sealed_key"), "SESSION_KEY_REFUSED")


@both
def test_any_byte_of_the_nonce(realm: SimulatedRealm, suite: Suite) -> None:
    check_all_stopped(fates(realm, suite, "nonce"), "DECRYPTION_FAILED")


@both
def test_any_byte_of_the_ciphertext(realm: SimulatedRealm, suite: Suite) -> None:
    check_all_stopped(fates(realm, suite, "ciphertext"), "DECRYPTION_FAILED")


def test_two_messages_of_two_senders_under_one_nonce(realm: SimulatedRealm) -> None:
    """Under one key, two ciphertexts with one nonce tell the difference of their plaintexts."""
    alice, bob = (Talk(realm, realm.enroll(name)) for name in ("alice", "bob"))
    one = alice.write(alice.negotiate("bob"), text("one"))
    _, session = bob.read(one)
    two = bob.write(bob.offer("alice", session), text("two"))
    assert one.nonce == two.nonce
    difference = bytes(a ^ b for a, b in zip(one.ciphertext[:256], two.ciphertext[:256], strict=True))
    plain = [STRONG.pad(text(body).SerializeToString()) for body in ("one", "two")]
    assert difference != bytes(a ^ b for a, b in zip(*plain, strict=True))
