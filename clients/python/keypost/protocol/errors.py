"""What can be wrong with a statement, a key or a message; each failure is an error of its own.

``not_yet`` tells a receiver how to treat a message that failed so: what may still come right (a record that is stale, a
clock that is ahead) waits and is tried again; everything else is final (docs/spec.md, "Not yet and never").
"""

from __future__ import annotations

from typing import ClassVar

from keypost.errors import KeypostError


class ProtocolError(KeypostError):
    """Base of every failed rule of the protocol."""

    reason = "PROTOCOL_ERROR"
    not_yet: ClassVar[bool] = False


class NotYetError(ProtocolError):
    """Base of failures that a newer record or the passing of time may mend."""

    reason = "NOT_YET"
    not_yet = True


class MalformedStatementError(ProtocolError):
    """Bytes do not parse, or a field has a value that it never has."""

    reason = "MALFORMED_STATEMENT"


class SignatureInvalidError(ProtocolError):
    """A signature is not of the key that it claims."""

    reason = "SIGNATURE_INVALID"


class TrustRefusedError(NotYetError):
    """A RealmTrust statement is expired, of another realm, or not signed by a root key that is trusted."""

    reason = "REALM_TRUST_REFUSED"


class TrustRegressedError(NotYetError):
    """A RealmTrust statement has a lower sequence than one already seen."""

    reason = "REALM_TRUST_REGRESSED"


class UnknownRecordKeyError(NotYetError):
    """A record is signed by a key that RealmTrust does not list now."""

    reason = "UNKNOWN_RECORD_KEY"


class RecordRefusedError(NotYetError):
    """A record is of another realm or user than asked for."""

    reason = "RECORD_REFUSED"


class RecordExpiredError(NotYetError):
    """A record is past its next_update."""

    reason = "RECORD_EXPIRED"


class RecordFromFutureError(NotYetError):
    """A record was made more than five minutes ahead of this machine's clock."""

    reason = "RECORD_FROM_FUTURE"


class RecordRegressedError(NotYetError):
    """A record goes back behind one seen before: a lower revision or epoch; an entry gone back; a key or user gone."""

    reason = "RECORD_REGRESSED"


class EquivocationError(NotYetError):
    """Two records of one revision differ; both are evidence."""

    reason = "EQUIVOCATION"


class GhostDeviceError(NotYetError):
    """A key claims to have entered at a revision whose record, already seen, did not contain it."""

    reason = "GHOST_DEVICE"


class ForkDetectedError(NotYetError):
    """A key has two renewal successors."""

    reason = "FORK_DETECTED"


class TreeBrokenError(NotYetError):
    """Not every key of the epoch descends from one root by valid endorsements."""

    reason = "TREE_BROKEN"


class IdentityChangedError(NotYetError):
    """A user's keys do not descend from those known; the application must accept the new root first."""

    reason = "IDENTITY_CHANGED"


class SafetyNumberDiffersError(ProtocolError):
    """Two sides that compare do not see the same keys."""

    reason = "SAFETY_NUMBER_DIFFERS"


class PossessionError(ProtocolError):
    """A key request is not signed by the key that it presents."""

    reason = "POSSESSION_UNPROVEN"


class EndorsementError(ProtocolError):
    """A key request is not signed by its parent, or its parent may not vouch for it."""

    reason = "ENDORSEMENT_REFUSED"


class SuiteUnknownError(ProtocolError):
    """A suite that this version does not know."""

    reason = "SUITE_UNKNOWN"


class SuiteRefusedError(ProtocolError):
    """A key's suite is below the minimum, or not allowed in the realm."""

    reason = "SUITE_REFUSED"


class KeyRefusedError(ProtocolError):
    """A public key is not of the type, size or exponent that its suite has."""

    reason = "KEY_REFUSED"


class NoUsableDeviceError(NotYetError):
    """A user has no device with a good and unexpired key."""

    reason = "NO_USABLE_DEVICE"


class KeyUnknownError(NotYetError):
    """A key is not in the record of its user."""

    reason = "KEY_UNKNOWN"


class KeyExpiredError(ProtocolError):
    """A key was expired when it was used."""

    reason = "KEY_EXPIRED"


class KeySupersededError(ProtocolError):
    """A key was used after it had been replaced."""

    reason = "KEY_SUPERSEDED"


class KeyRevokedError(ProtocolError):
    """A key was used after it had been revoked, or is compromised."""

    reason = "KEY_REVOKED"


class MessageTooOldError(ProtocolError):
    """A message is older than the age limit."""

    reason = "MESSAGE_TOO_OLD"


class ClockAheadError(NotYetError):
    """A time in a message is more than five minutes ahead of this machine's clock."""

    reason = "CLOCK_AHEAD"


class HeaderMismatchError(ProtocolError):
    """Header and extension of an envelope disagree, or it is of another realm."""

    reason = "HEADER_MISMATCH"


class NotForThisDeviceError(ProtocolError):
    """An envelope is not addressed to this user, or not sealed to a key of this device.

    Attributes:
        unheld_at: Where it names a key of this device that is not held: the revision of the own record that is said to
            show that key. Else None.
    """

    reason = "NOT_FOR_THIS_DEVICE"

    def __init__(self, message: str, *, unheld_at: int | None = None) -> None:
        super().__init__(message)
        self.unheld_at = unheld_at


class OwnMessageError(ProtocolError):
    """An envelope claims to come from the very device that received it."""

    reason = "OWN_MESSAGE"


class SessionKeyRefusedError(ProtocolError):
    """A sealed session key does not open, or has not the length of its suite."""

    reason = "SESSION_KEY_REFUSED"


class KeyIdMismatchError(ProtocolError):
    """A session key does not belong to the key_id that the extension names."""

    reason = "KEY_ID_MISMATCH"


class SecondStatementError(ProtocolError):
    """A signer made a second statement for one session, or a key_id came with another key."""

    reason = "SECOND_STATEMENT"


class DecryptionError(ProtocolError):
    """A ciphertext, its header or its extension is not what the sender sealed."""

    reason = "DECRYPTION_FAILED"


class ContentRefusedError(ProtocolError):
    """A plaintext is not a well-formed content, or has no place in this conversation."""

    reason = "CONTENT_REFUSED"


class CloneSuspectedError(ProtocolError):
    """One device used one counter for two messages: it may exist twice."""

    reason = "CLONE_SUSPECTED"


class DeviceKeyStolenError(ProtocolError):
    """The record shows a successor of this device's key that this device did not ask for. It has stopped."""

    reason = "DEVICE_KEY_STOLEN"


class TokenRefusedError(ProtocolError):
    """A token is malformed, expired, for another service, or of a key that is not good: see ``metadata["cause"]``."""

    reason = "TOKEN_REFUSED"

    def __init__(self, cause: str) -> None:
        super().__init__(f"the token is refused: {cause.lower().replace('_', ' ')}", cause=cause)
