"""Runs vectors about hashes, suites, envelopes and tokens through ``keypost.protocol``."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from keypost.delivery.v1 import envelope_pb2
from keypost.keys.v1 import key_info_pb2, realm_trust_pb2
from keypost.protocol import encoding, padding, rsa
from keypost.protocol import envelope as envelopes
from keypost.protocol import negotiation as steps
from keypost.protocol.continuity import pin
from keypost.protocol.extension import DeviceKey, Session, key_id_of
from keypost.protocol.identifiers import Address, conversation_of
from keypost.protocol.key_info import GOOD, Key
from keypost.protocol.key_requests import DeviceKeyPair, read_key_request
from keypost.protocol.realm_trust import read_realm_trust
from keypost.protocol.sessions import check_statement
from keypost.protocol.suites import WEAK, suite_named
from keypost.protocol.tokens import verify_token
from keypost.protocol.validity import Policy
from support.realm import SimulatedRealm

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from keypost.protocol.envelope import SealedEnvelope
    from keypost.protocol.key_info import KeyRecord
    from vectors.core.statements import Case, Shared


def unhex(case: Case, *names: str) -> list[bytes]:
    return [bytes.fromhex(case[name]) for name in names]


def pae(case: Case, _: Shared) -> None:
    assert encoding.pae(*(bytes.fromhex(piece) for piece in case["pieces"])).hex() == case["encoding"]


def padding_(case: Case, _: Shared) -> None:
    if "size" in case:
        assert padding.padded_size(case["size"]) == case["padded_size"]
        return
    content = padding.unpad(bytes.fromhex(case["padded"]))
    assert content.hex() == case["content"]
    assert padding.pad(content).hex() == case["padded"]


def keys(case: Case, _: Shared) -> None:
    private_key = rsa.private_key_from_der(bytes.fromhex(case["private_key_der"]))
    der = rsa.public_key_der(private_key)
    assert der.hex() == case["public_key_der"]
    assert encoding.fingerprint(der).hex() == case["fingerprint"]
    suite_named(case["suite"]).load_public_key(der)


def key_id(case: Case, _: Shared) -> None:
    address = Address.parse(case["creator"])
    fingerprint, session_key = unhex(case, "creator_fingerprint", "session_key")
    name = key_id_of(
        case["realm"],
        suite_named(case["suite"]),
        DeviceKey(address, fingerprint),
        conversation_of(address.username, case["peer"]),
        case["session_create_time"],
        session_key,
    )
    assert name.hex() == case["key_id"]


def message_key(case: Case, _: Shared) -> None:
    fingerprint, session_key, name = unhex(case, "sender_fingerprint", "session_key", "key_id")
    sender = DeviceKey(Address.parse(case["sender"]), fingerprint)
    session = Session(case["realm"], ("alice", "bob"), suite_named(case["suite"]), name, sender, 1, session_key)
    assert session.message_key(sender).hex() == case["message_key"]


def associated_data(case: Case, _: Shared) -> None:
    assert envelopes.associated_data(*unhex(case, "header", "extension")).hex() == case["associated_data"]


# Loading checks the primes, which takes longer than anything else here.
_loaded = cache(rsa.private_key_from_der)


def _private_key(shared: Shared, name: str) -> RSAPrivateKey:
    return _loaded(bytes.fromhex(shared["keys"][name]["private_key_der"]))


def suites(case: Case, shared: Shared) -> None:
    _OPERATIONS[case["operation"]](case, shared)


def _open(case: Case, shared: Shared) -> None:
    suite = suite_named(case["suite"])
    opened = suite.check_session_key(suite.open(_private_key(shared, case["key"]), *unhex(case, "sealed_key")))
    assert opened.hex() == case["session_key"]


def _verify(case: Case, shared: Shared) -> None:
    suite, private_key = suite_named(case["suite"]), _private_key(shared, case["key"])
    statement, signature = unhex(case, "statement", "signature")
    suite.verify(private_key.public_key(), case["label"].encode(), statement, signature)
    if suite is WEAK:
        assert suite.sign(private_key, case["label"].encode(), statement) == signature


def _verify_extension(case: Case, shared: Shared) -> None:
    suite, private_key = suite_named(case["suite"]), _private_key(shared, case["key"])
    extension, session_key, signature = unhex(case, "extension", "session_key", "signature")
    hashed = encoding.sha256(session_key)
    suite.verify_extension(private_key.public_key(), extension, hashed, signature)
    if suite is WEAK:
        assert suite.sign_extension(private_key, extension, hashed) == signature


def _verify_endorsement(case: Case, shared: Shared) -> None:
    suite, private_key = suite_named(case["suite"]), _private_key(shared, case["key"])
    key_request, der, signature = unhex(case, "key_request", "new_public_key_der", "signature")
    hashed = suite.endorsement_hash(key_request, der)
    suite.verify_endorsement(private_key.public_key(), hashed, signature)
    assert hashed.hex() == case["endorsement_hash"]
    if suite is WEAK:
        assert suite.sign_endorsement(private_key, hashed) == signature


def _decrypt(case: Case, _: Shared) -> None:
    suite = suite_named(case["suite"])
    key, nonce, ciphertext, data = unhex(case, "message_key", "nonce", "ciphertext", "associated_data")
    content = suite.decrypt(key, nonce, ciphertext, data)
    assert content.hex() == case["content"]
    assert suite.encrypt(key, nonce, content, data) == ciphertext


_OPERATIONS: dict[str, Callable[[Case, Shared], None]] = {
    "open": _open,
    "verify": _verify,
    "verify_extension": _verify_extension,
    "verify_endorsement": _verify_endorsement,
    "decrypt": _decrypt,
}


def _sender_record(case: Case, shared: Shared, username: str) -> KeyRecord:
    """Take step 8 at the time at which the shared key info is fresh."""
    signed = realm_trust_pb2.SignedRealmTrust.FromString(bytes.fromhex(shared["realm_trust"]))
    roots, now = [bytes.fromhex(der) for der in shared["root_keys"]], shared["record_time"]
    trust = read_realm_trust(signed, realm=shared["realm"], root_keys=roots, now=now)
    info = key_info_pb2.KeyInfo.FromString(bytes.fromhex(shared["key_info"][case["sender_key_info"]]))
    return steps.step_8_obtain_sender_key_info(info, trust=trust, username=username, now=now, previous=None)


def negotiation(case: Case, shared: Shared) -> None:
    made = envelope_pb2.Envelope.FromString(bytes.fromhex(case["envelope"]))
    sealed = envelopes.read_envelope(made)
    me = Address.parse(case["recipient"])
    private_key = _private_key(shared, case["recipient_key"])
    der = rsa.public_key_der(private_key)
    suite = suite_named(shared["keys"][case["recipient_key"]]["suite"])
    pair = DeviceKeyPair(me, suite, private_key, der)
    envelopes.check_addressed(sealed, shared["realm"], me, {pair.fingerprint})
    session, content = _steps(case, shared, sealed, pair)
    expected = case["steps"]
    assert content.hex() == expected["14"]["content"]
    assert session.key.hex() == expected["11"]["session_key"]
    assert session.key_id.hex() == expected["12"]["key_id"]
    sent = steps.step_7_attach_to_message(
        sealed.header,
        envelope_pb2.Content.FromString(content),
        session=session,
        signed_extension=sealed.signed_extension,
        sealed_keys=sealed.sealed_keys,
        nonce=sealed.nonce,
    )
    assert sent == made


def _steps(case: Case, shared: Shared, sealed: SealedEnvelope, pair: DeviceKeyPair) -> tuple[Session, bytes]:
    """Take steps 8 to 14 in the order in which the client takes them."""
    signed = sealed.signed_extension
    extension = signed.extension
    username = case["sender_key_info"].rpartition(": ")[2]
    record = _sender_record(case, shared, username)
    trusted = realm_trust_pb2.SignedRealmTrust.FromString(bytes.fromhex(shared["realm_trust"]))
    policy = Policy(SimulatedRealm().constants, suite_named(case["minimum_suite"]))
    assert realm_trust_pb2.RealmTrust.FromString(trusted.realm_trust).constants == policy.constants.to_message()
    key = steps.step_9_check_sender_key(
        record, pin(record, WEAK), extension, accept_time=case["accept_time"], now=case["now"], policy=policy
    )
    sealed_key = steps.step_10_extract_sealed_key(sealed, pair)
    session_key = steps.step_11_decrypt_session_key(sealed_key, pair, extension)
    hashed, session = steps.step_12_hash_session_key(session_key, extension)
    steps.step_13_verify_signature(key, signed, hashed)
    if "known_statement" in case:
        check_statement(bytes.fromhex(case["known_statement"]), signed.statement)
    content = steps.step_14_decrypt_message(sealed, session)
    return session, content.SerializeToString()


def tokens(case: Case, shared: Shared) -> None:
    info = shared["keys"][case["key"]]
    private_key = _private_key(shared, case["key"])
    suite = suite_named(info["suite"])
    pair = DeviceKeyPair(Address.parse(case["address"]), suite, private_key, bytes.fromhex(info["public_key_der"]))
    signed = SimulatedRealm().signed_request(pair, key_info_pb2.KEY_REQUEST_KIND_ENROLL)
    key = Key(read_key_request(signed), GOOD, 1, 1)
    assert verify_token(case["token"], key, case["audience"], case["now"]) == case["expire_time"]
