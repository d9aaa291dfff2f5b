"""What a further device needs for its key request, handed over by hand (docs/spec.md, "Invitations and requests")."""

from __future__ import annotations

from dataclasses import dataclass, field

from keypost.clock import MINUTE
from keypost.errors import InvalidArgumentError
from keypost.keys.v1 import invitation_pb2
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.encoding import LARGEST_NUMBER, parse
from keypost.protocol.errors import MalformedStatementError
from keypost.protocol.identifiers import Address, check_realm
from keypost.protocol.key_requests import FINGERPRINT_BYTES, MOST_NONCE_BYTES, KeyRequest, read_key_request
from keypost.protocol.texts import TextKind, from_text, to_text

LIFETIME = 10 * MINUTE
"""How long the CA's nonce is good."""


@dataclass(frozen=True)
class Invitation:
    """An invitation that is well-formed. It proves nothing: who holds it must have it from a device of the user.

    Attributes:
        realm: The realm.
        address: The further device.
        ca_nonce: For its key request.
        epoch: For its key request.
        revision: For its key request.
        create_time: By the CA's clock, Unix milliseconds.
        parent_fingerprint: The key that is to vouch, 32 bytes.
        root: Fingerprint of the root of the user's tree, 32 bytes.
    """

    realm: str
    address: Address
    ca_nonce: bytes = field(repr=False)
    epoch: int
    revision: int
    create_time: int
    parent_fingerprint: bytes
    root: bytes

    @property
    def expire_time(self) -> int:
        """Until when the CA takes a request that answers it, Unix milliseconds."""
        return self.create_time + LIFETIME

    @property
    def text(self) -> str:
        """The invitation as it is handed over."""
        message = invitation_pb2.Invitation(
            realm=self.realm,
            username=self.address.username,
            device_id=self.address.device_id,
            ca_nonce=self.ca_nonce,
            epoch=self.epoch,
            revision=self.revision,
            current_time=self.create_time,
            parent_fingerprint=self.parent_fingerprint,
            root_fingerprint=self.root,
        )
        return to_text(TextKind.INVITATION, message.SerializeToString(deterministic=True))


def read_invitation(text: str) -> Invitation:
    """Return the invitation that a text carries.

    Raises:
        InvalidArgumentError: it carries none, whole and as it was handed out.
    """
    data = from_text(TextKind.INVITATION, text)
    try:
        return _read(parse(invitation_pb2.Invitation, data, "invitation"))
    except (InvalidArgumentError, MalformedStatementError) as error:
        raise InvalidArgumentError(f"the invitation is not well-formed: {error}", field="invitation") from error


def _read(message: invitation_pb2.Invitation) -> Invitation:
    check_realm(message.realm)
    if not 1 <= message.revision <= LARGEST_NUMBER or not 1 <= message.current_time <= LARGEST_NUMBER - LIFETIME:
        raise MalformedStatementError("revision or time is out of bounds")
    if not message.epoch or len(message.ca_nonce) > MOST_NONCE_BYTES:
        raise MalformedStatementError("epoch or nonce is out of bounds")
    if {len(message.parent_fingerprint), len(message.root_fingerprint)} != {FINGERPRINT_BYTES}:
        raise MalformedStatementError(f"a fingerprint has {FINGERPRINT_BYTES} bytes")
    return Invitation(
        realm=message.realm,
        address=Address(message.username, message.device_id),
        ca_nonce=message.ca_nonce,
        epoch=message.epoch,
        revision=message.revision,
        create_time=message.current_time,
        parent_fingerprint=message.parent_fingerprint,
        root=message.root_fingerprint,
    )


def request_to_text(signed: pb.SignedKeyRequest) -> str:
    """Return a signed key request as it is handed over to the device that invited."""
    return to_text(TextKind.REQUEST, signed.SerializeToString(deterministic=True))


def read_request_text(text: str) -> KeyRequest:
    """Return the key request that a text carries; its possession is verified, nothing else.

    Raises:
        InvalidArgumentError: the text carries none, whole and as it was shown.
        ProtocolError: as :func:`keypost.protocol.key_requests.read_key_request`.
    """
    data = from_text(TextKind.REQUEST, text)
    return read_key_request(parse(pb.SignedKeyRequest, data, "SignedKeyRequest"))
