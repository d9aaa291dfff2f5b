"""The fourteen steps, in both suites, and what breaks each of them."""

from dataclasses import replace
from typing import Any

import pytest

from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.errors import KeypostError
from keypost.keys.v1 import key_info_pb2
from keypost.protocol import negotiation as n
from keypost.protocol.continuity import pin
from keypost.protocol.envelope import check_addressed, read_content, read_envelope
from keypost.protocol.errors import (
    ContentRefusedError,
    HeaderMismatchError,
    KeyIdMismatchError,
    KeyUnknownError,
    MalformedStatementError,
    NotForThisDeviceError,
    OwnMessageError,
    SessionKeyRefusedError,
    SignatureInvalidError,
    SuiteRefusedError,
)
from keypost.protocol.extension import DeviceKey, SignedExtension, read_extension
from keypost.protocol.identifiers import Address
from keypost.protocol.rsa import counted
from keypost.protocol.suites import STRONG, SUITES, WEAK, Suite
from support.realm import SimulatedRealm, device_id
from support.talk import Talk, message_id, text

both = pytest.mark.parametrize("suite", SUITES, ids=str)


@pytest.fixture
def alice(realm: SimulatedRealm) -> Talk:
    return Talk(realm, realm.enroll("alice"))


@pytest.fixture
def bob(realm: SimulatedRealm) -> Talk:
    return Talk(realm, realm.enroll("bob"))


@both
def test_the_fourteen_steps(realm: SimulatedRealm, suite: Suite) -> None:
    alice, bob = (Talk(realm, realm.enroll(name, suite)) for name in ("alice", "bob"))
    offer = alice.negotiate("bob")
    content, session = bob.read(alice.write(offer, text("hello")))
    assert content == text("hello")
    assert session == offer.session
    assert len(session.key) == suite.session_key_bytes


@both
def test_the_answer_comes_under_the_same_session_key(realm: SimulatedRealm, suite: Suite) -> None:
    alice, bob = (Talk(realm, realm.enroll(name, suite)) for name in ("alice", "bob"))
    _, session = bob.read(alice.write(alice.negotiate("bob"), text("hello")))
    answer = bob.offer("alice", session)
    content, same = alice.read(bob.write(answer, text("hello yourself")))
    assert (content, same) == (text("hello yourself"), session)
    assert answer.signed.extension.creator == DeviceKey.of(alice.pair)
    assert not answer.signed.extension.is_creators


def test_a_second_message_needs_no_rsa_to_write(alice: Talk, bob: Talk) -> None:
    offer = alice.negotiate("bob")
    bob.read(alice.write(offer, text("one")))
    with counted() as operations:
        alice.write(offer, text("two"), counter=2, message_id=message_id(2))
    assert operations.total == 0


def test_every_device_of_the_recipient_can_open(realm: SimulatedRealm, alice: Talk, bob: Talk) -> None:
    laptop = Talk(realm, realm.approve(bob.pair))
    envelope = alice.write(alice.negotiate("bob"), text("to all"))
    for device in (bob, laptop):
        assert device.read(envelope)[0] == text("to all")


def test_suites_meet_in_one_session(realm: SimulatedRealm, alice: Talk) -> None:
    weak = Talk(realm, realm.enroll("weak", WEAK))
    _, session = weak.read(alice.write(alice.negotiate("weak"), text("strong session, weak recipient")))
    assert session.suite is STRONG
    with pytest.raises(SuiteRefusedError):
        weak.offer("alice", session)
    _, session = alice.read(weak.write(weak.negotiate("alice"), text("a session of its own")))
    assert session.suite is WEAK


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("realm", "evil.org"),
        ("sender", Address("alice", device_id(99))),
        ("recipient_username", "carol"),
        ("key_id", bytes(32)),
        ("sender_revision", 7),
        ("recipient_revision", 7),
    ],
)
def test_header_and_extension_agree(alice: Talk, bob: Talk, field: str, value: Any) -> None:
    envelope = alice.write(alice.negotiate("bob"), text("hello"), **{field: value})
    with pytest.raises(HeaderMismatchError) as caught:
        bob.read(envelope)
    assert caught.value.metadata["field"] == field


@pytest.mark.parametrize(
    "changes",
    [
        {"message_id": b""},
        {"message_id": bytes(16)},
        {"key_id": b"short"},
        {"counter": 0},
        {"send_time": 0},
        {"sender_revision": 0},
        {"recipient_username": "Bob"},
        {"realm": ""},
    ],
    ids=str,
)
def test_a_header_with_an_impossible_field_is_refused(alice: Talk, bob: Talk, changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedStatementError):
        bob.read(alice.write(alice.negotiate("bob"), text("hello"), **changes))


def changed(offer: Any, **changes: Any) -> pb.KeyExtension:
    extension = replace(offer.signed.extension, **changes)
    return SignedExtension(extension, extension.to_bytes(), b"").to_message([])


@pytest.mark.parametrize(
    "changes",
    [
        {"realm": "Evil"},
        {"key_id": b"short"},
        {"session_create_time": 0},
        {"sign_time": 0},
        {"sender_revision": 0},
        {"recipient_revision": 0},
        {"recipient_username": "carol"},
        {"recipient_devices": ()},
        {"creator": DeviceKey(Address("carol", device_id(1)), bytes(32))},
        {"creator": DeviceKey(Address("alice", device_id(1)), bytes(31))},
        {"signer": DeviceKey(Address("alice", device_id(1)), b"")},
    ],
    ids=str,
)
def test_an_extension_with_an_impossible_field_is_refused(alice: Talk, bob: Talk, changes: dict[str, Any]) -> None:
    del bob
    with pytest.raises(MalformedStatementError):
        read_extension(changed(alice.negotiate("bob"), **changes))


def test_recipient_devices_are_ordered_bounded_and_the_recipients(alice: Talk, bob: Talk) -> None:
    offer = alice.negotiate("bob")
    key = DeviceKey.of(bob.pair)
    stranger = DeviceKey(Address("carol", device_id(200)), bytes(32))
    many = tuple(DeviceKey(Address("bob", device_id(number)), bytes(32)) for number in range(1000, 1101))
    for devices in ((key, key), (key, stranger), many, tuple(reversed(many[:2]))):
        with pytest.raises(MalformedStatementError):
            read_extension(changed(offer, recipient_devices=devices))
    with pytest.raises(MalformedStatementError, match="at most"):
        read_extension(pb.KeyExtension(extension=bytes(20_000)))
    unaddressed = offer.signed.to_message([])
    unaddressed.extension = b""
    with pytest.raises(KeypostError):
        read_extension(unaddressed)


@pytest.mark.parametrize("change", [{"nonce": b"short"}, {"ciphertext": b""}, {"header": bytes(5000)}], ids=str)
def test_an_envelope_is_whole(alice: Talk, bob: Talk, change: dict[str, bytes]) -> None:
    envelope = alice.write(alice.negotiate("bob"), text("hello"))
    for name, value in change.items():
        setattr(envelope, name, value)
    with pytest.raises(MalformedStatementError):
        bob.read(envelope)


def test_what_is_not_for_this_device_is_not_opened(realm: SimulatedRealm, alice: Talk, bob: Talk) -> None:
    carol = Talk(realm, realm.enroll("carol"))
    envelope = alice.write(alice.negotiate("bob"), text("hello"))
    with pytest.raises(NotForThisDeviceError):
        carol.read(envelope)
    with pytest.raises(OwnMessageError):
        alice.read(envelope)
    sealed = read_envelope(envelope)
    with pytest.raises(HeaderMismatchError):
        check_addressed(sealed, "other.org", bob.pair.address, {bob.pair.fingerprint})
    with pytest.raises(NotForThisDeviceError):
        check_addressed(sealed, realm.realm, bob.pair.address, set())
    del envelope.key_extension.sealed_keys[:]
    with pytest.raises(NotForThisDeviceError):
        bob.read(envelope)


def test_a_key_of_another_length_or_name_is_refused(alice: Talk, bob: Talk) -> None:
    for key, error in ((bytes(31), SessionKeyRefusedError), (bytes(32), None)):
        offer = alice.negotiate("bob", key)
        envelope = alice.write(offer, text("hello"))
        if error:
            with pytest.raises(error):
                bob.read(envelope)
        else:
            swapped = n.step_5_encrypt_session_key(bytes([1]) * 32, [alice.record("bob").keys[0]])
            envelope.key_extension.sealed_keys[0].CopyFrom(swapped[0])
            with pytest.raises(KeyIdMismatchError):
                bob.read(envelope)


def test_the_signer_is_a_key_of_the_sender(realm: SimulatedRealm, alice: Talk, bob: Talk) -> None:
    stranger = Talk(realm, realm.new_pair(alice.pair.address))
    with pytest.raises(KeyUnknownError):
        bob.read(stranger.write(stranger.negotiate("bob"), text("hello")))
    laptop = Talk(realm, replace(realm.approve(alice.pair), address=alice.pair.address))
    with pytest.raises(NotForThisDeviceError):
        bob.read(laptop.write(laptop.negotiate("bob"), text("hello")))


def test_a_suite_is_not_lowered_by_the_sender(realm: SimulatedRealm, alice: Talk, bob: Talk) -> None:
    offer = alice.negotiate("bob")
    extension = replace(offer.signed.extension, suite=WEAK)
    record = realm.key_record("alice")
    with pytest.raises(SuiteRefusedError):
        n.step_9_check_sender_key(
            record, pin(record), extension, accept_time=alice.now, now=alice.now, policy=bob.policy
        )


def test_a_session_key_that_opens_but_was_not_signed_by_the_sender(
    realm: SimulatedRealm, alice: Talk, bob: Talk
) -> None:
    mallory = Talk(realm, realm.enroll("mallory"))
    offer = alice.negotiate("bob")
    offer.signed = replace(offer.signed, signature=mallory.offer("bob", replace(offer.session)).signed.signature)
    with pytest.raises(SignatureInvalidError):
        bob.read(alice.write(offer, text("hello")))


@pytest.mark.parametrize("content", [pb.Content(), pb.Content(sent_copy=pb.SentCopy(recipient_username="carol"))])
def test_content_has_its_place(alice: Talk, bob: Talk, content: pb.Content) -> None:
    with pytest.raises(ContentRefusedError):
        bob.read(alice.write(alice.negotiate("bob"), content))


def test_a_sent_copy_is_accepted_from_oneself_alone() -> None:
    copy = pb.Content(sent_copy=pb.SentCopy(recipient_username="carol"))
    assert read_content(copy.SerializeToString(), ("alice", "alice")) == copy
    with pytest.raises(ContentRefusedError):
        read_content(b"\xff", ("alice", "alice"))


def test_a_key_is_published_with_its_signature(realm: SimulatedRealm) -> None:
    pair = realm.new_pair(realm.new_address("alice"))
    realm.record(n.step_1_publish_public_key(realm.request(pair, key_info_pb2.KEY_REQUEST_KIND_ENROLL), pair))
    assert realm.key_record("alice").keys[0].fingerprint == pair.fingerprint


def test_an_older_record_than_the_one_held_is_refused(realm: SimulatedRealm, alice: Talk, bob: Talk) -> None:
    old = realm.key_info("bob")
    realm.renew(bob.pair)
    newer = alice.record("bob")
    with pytest.raises(KeypostError):
        n.step_8_obtain_sender_key_info(old, trust=realm.trust(), username="bob", now=alice.now, previous=newer)


def test_nothing_shows_a_session_key(alice: Talk, bob: Talk) -> None:
    del bob
    offer = alice.negotiate("bob")
    shown = repr(offer) + str(offer.session)
    assert repr(offer.session.key) not in shown
    assert offer.session.key.hex() not in shown


def test_the_key_that_opens_is_one_that_the_statement_lists(realm: SimulatedRealm, alice: Talk, bob: Talk) -> None:
    renewed = Talk(realm, realm.new_pair(bob.pair.address))
    offer = alice.negotiate("bob")
    sealed_key = renewed.pair.suite.seal(renewed.pair.private_key.public_key(), offer.session.key)
    envelope = alice.write(offer, text("hello"))
    envelope.key_extension.sealed_keys[0].fingerprint = renewed.pair.fingerprint
    envelope.key_extension.sealed_keys[0].sealed_key = sealed_key
    with pytest.raises(NotForThisDeviceError):
        renewed.open(read_envelope(envelope))


def test_a_key_that_is_not_pinned_is_not_opened(realm: SimulatedRealm, alice: Talk, bob: Talk) -> None:
    offer = alice.negotiate("bob")
    record = realm.key_record("alice")
    pins = replace(pin(record), members={})
    with pytest.raises(KeyUnknownError):
        n.step_9_check_sender_key(
            record, pins, offer.signed.extension, accept_time=alice.now, now=alice.now, policy=bob.policy
        )
