"""The source document's key negotiation: fourteen steps, fourteen functions, in order (docs/spec.md, "Negotiation").

All are pure: what they need is passed in, what they find is returned or raised. Client A, who sends, does steps 2 to 7;
client B, who receives, steps 8 to 14.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.protocol.continuity import Pins, check_successor
from keypost.protocol.encoding import sha256
from keypost.protocol.envelope import Header, SealedEnvelope, associated_data, read_content
from keypost.protocol.errors import KeyIdMismatchError, NotForThisDeviceError, SuiteRefusedError
from keypost.protocol.extension import DeviceKey, Extension, Session, SignedExtension
from keypost.protocol.key_info import Key, KeyRecord, read_key_info
from keypost.protocol.key_requests import DeviceKeyPair, sign_possession
from keypost.protocol.validity import Policy, Times, check_can_open, check_can_send

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from keypost.keys.v1 import key_info_pb2
    from keypost.protocol.identifiers import Address
    from keypost.protocol.realm_trust import RealmTrust
    from keypost.protocol.suites import Suite

    Random = Callable[[int], bytes]


def step_1_publish_public_key(
    request: key_info_pb2.KeyRequest, key_pair: DeviceKeyPair
) -> key_info_pb2.SignedKeyRequest:
    """Return what the device sends to the CA: its new public key, signed by it.

    Args:
        request: The key request with all fields filled in.
        key_pair: The pair that the device generated.
    """
    return sign_possession(request, key_pair)


def step_2_obtain_recipient_key_info(
    key_info: key_info_pb2.KeyInfo, *, trust: RealmTrust, username: str, now: int, previous: KeyRecord | None
) -> KeyRecord:
    """Verify the recipient's key info and return the record to keep.

    Args:
        key_info: The directory's answer.
        trust: The realm's trust.
        username: The recipient.
        now: Unix milliseconds.
        previous: The newest record of this user seen before.

    Raises:
        ProtocolError: as :func:`keypost.protocol.key_info.read_key_info` and
            :func:`keypost.protocol.continuity.check_successor`.
    """
    record = read_key_info(key_info, trust=trust, username=username, now=now, previous=previous)
    return check_successor(previous, record, trust.constants) if previous else record


def step_3_check_recipient_keys(
    record: KeyRecord, policy: Policy, now: int, *, exclude: Address | None = None
) -> tuple[Key, ...]:
    """Return the recipient's keys to seal to; raises as :func:`keypost.protocol.validity.check_can_send`."""
    return check_can_send(record, policy, now, exclude=exclude)


def step_4_generate_session_key(suite: Suite, random: Random) -> bytes:
    """Return a new session key: 16 or 32 bytes from the operating system's generator (``os.urandom``)."""
    return suite.check_session_key(random(suite.session_key_bytes))


def step_5_encrypt_session_key(session_key: bytes, recipients: Sequence[Key]) -> tuple[pb.SealedKey, ...]:
    """Return the session key sealed to each of the recipient's keys, in the form of that key's suite."""
    return tuple(
        pb.SealedKey(fingerprint=key.fingerprint, sealed_key=key.suite.seal(key.public_key, session_key))
        for key in recipients
    )


def step_6_sign_session_key(
    session: Session,
    signer: DeviceKeyPair,
    *,
    recipients: Sequence[Key],
    sender_revision: int,
    recipient_revision: int,
    sign_time: int,
) -> SignedExtension:
    """Hash the session key and return the extension statement, signed by the sender.

    Raises:
        SuiteRefusedError: the signer's key is not of the session's suite: it must create a session of its own.
    """
    if signer.suite is not session.suite:
        raise SuiteRefusedError(f"a session of {session.suite.name} is answered under by keys of that suite alone")
    extension = Extension(
        realm=session.realm,
        suite=session.suite,
        key_id=session.key_id,
        creator=session.creator,
        session_create_time=session.create_time,
        signer=DeviceKey.of(signer),
        sign_time=sign_time,
        recipient_username=recipients[0].address.username,
        sender_revision=sender_revision,
        recipient_revision=recipient_revision,
        recipient_devices=tuple(DeviceKey.of(key) for key in recipients),
    )
    statement = extension.to_bytes()
    signature = signer.suite.sign_extension(signer.private_key, statement, sha256(session.key))
    return SignedExtension(extension, statement, signature)


def step_7_attach_to_message(
    header: Header,
    content: pb.Content,
    *,
    session: Session,
    signed_extension: SignedExtension,
    sealed_keys: Sequence[pb.SealedKey],
    nonce: bytes,
) -> pb.Envelope:
    """Return the envelope to send: the encrypted message with the sealed keys and the signature.

    Args:
        header: The header; it must agree with the extension.
        content: The plaintext.
        session: The session to encrypt under.
        signed_extension: The sender's statement (step 6).
        sealed_keys: The sealed session keys (step 5).
        nonce: 12 random bytes, never used before.
    """
    header_bytes = header.to_bytes()
    ciphertext = session.suite.encrypt(
        session.message_key(signed_extension.extension.signer),
        nonce,
        content.SerializeToString(),
        associated_data(header_bytes, signed_extension.statement),
    )
    return pb.Envelope(
        header=header_bytes,
        key_extension=signed_extension.to_message(sealed_keys),
        nonce=nonce,
        ciphertext=ciphertext,
    )


def step_8_obtain_sender_key_info(
    key_info: key_info_pb2.KeyInfo, *, trust: RealmTrust, username: str, now: int, previous: KeyRecord | None
) -> KeyRecord:
    """Verify the sender's key info and return the record to keep; as step 2, by the recipient."""
    return step_2_obtain_recipient_key_info(key_info, trust=trust, username=username, now=now, previous=previous)


def step_9_check_sender_key(
    record: KeyRecord,
    pins: Pins,
    extension: Extension,
    *,
    accept_time: int,
    now: int,
    policy: Policy,
    retired: bool = False,
) -> Key:
    """Return the sender's key if what it signed may be opened.

    Args:
        record: The sender's record.
        pins: What is remembered of the sender's keys: those of the identity that was accepted.
        extension: The statement in the message.
        accept_time: When delivery accepted the message.
        now: The receiver's clock.
        policy: What the receiver accepts.
        retired: See :func:`keypost.protocol.validity.check_can_open`.

    Raises:
        KeyUnknownError: the record does not name the key, or it is not of the identity that was accepted.
        NotForThisDeviceError: the record names it for another device.
        SuiteRefusedError: the key is not of the session's suite.
        ProtocolError: as :func:`keypost.protocol.validity.check_can_open`.
    """
    key = record.get(extension.signer.fingerprint)
    pins.check_known(key)
    _check_signer(key, extension)
    times = Times(extension.session_create_time, extension.sign_time, accept_time, now)
    check_can_open(key, record, times, policy, retired=retired)
    return key


def _check_signer(key: Key, extension: Extension) -> None:
    """Raise unless ``key`` is of the device that the statement names, and of the session's suite."""
    if key.address != extension.signer.address:
        raise NotForThisDeviceError("the extension names a key of another device as its sender's")
    if key.suite is not extension.suite:
        raise SuiteRefusedError(f"a session of {extension.suite.name} is sent under by keys of that suite alone")


def step_10_extract_sealed_key(sealed: SealedEnvelope, key_pair: DeviceKeyPair) -> bytes:
    """Return the session key as sealed to ``key_pair``; signature and statement stand in ``sealed.signed_extension``.

    Raises:
        NotForThisDeviceError: there is none for this key, or the statement does not list the key.
    """
    if DeviceKey.of(key_pair) in sealed.signed_extension.extension.recipient_devices:
        for sealed_key in sealed.sealed_keys:
            if sealed_key.fingerprint == key_pair.fingerprint:
                return sealed_key.sealed_key
    raise NotForThisDeviceError("the message has no session key sealed to this device's key")


def step_11_decrypt_session_key(sealed_key: bytes, key_pair: DeviceKeyPair, extension: Extension) -> bytes:
    """Return the session key.

    Raises:
        SessionKeyRefusedError: it does not open, or has not exactly the length that the session's suite has.
    """
    return extension.suite.check_session_key(key_pair.suite.open(key_pair.private_key, sealed_key))


def step_12_hash_session_key(session_key: bytes, extension: Extension) -> tuple[bytes, Session]:
    """Return the SHA-256 of the session key (32 bytes), and the session that it belongs to.

    Raises:
        KeyIdMismatchError: key_id, recomputed, is not the one that the statement names.
    """
    session = Session.create(
        extension.realm,
        extension.conversation,
        extension.suite,
        extension.creator,
        extension.session_create_time,
        session_key,
    )
    _check_key_id(session, extension)
    return sha256(session_key), session


def _check_key_id(session: Session, extension: Extension) -> None:
    if not hmac.compare_digest(session.key_id, extension.key_id):
        raise KeyIdMismatchError("the session key does not belong to the key_id of the message")


def step_13_verify_signature(sender_key: Key, signed: SignedExtension, session_key_hash: bytes) -> None:
    """Verify that the sender signed the hash of the session key.

    Raises:
        SignatureInvalidError: the sender did not.
    """
    sender_key.suite.verify_extension(sender_key.public_key, signed.statement, session_key_hash, signed.signature)


def step_14_decrypt_message(sealed: SealedEnvelope, session: Session) -> pb.Content:
    """Return the content of the message.

    Raises:
        DecryptionError: it was altered, or sealed for another header, extension or session.
        ContentRefusedError: it is no content, or has no place in this conversation.
    """
    signer = sealed.signed_extension.extension.signer
    content = session.suite.decrypt(
        session.message_key(signer), sealed.nonce, sealed.ciphertext, sealed.associated_data
    )
    return read_content(content, session.conversation)
