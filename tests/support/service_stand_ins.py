"""What takes the place of what a service defends by and does more than defend: the same without the defence."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, update

from keypost.protocol import tokens
from keypost.protocol.errors import TokenRefusedError
from keypost_services.ca.sign_in.port import Grant, Proof
from keypost_services.ca.tables import users
from keypost_services.delivery.judging import Judging
from keypost_services.runtime.auth import Caller, CallerKind
from keypost_services.runtime.identity import _uris, service_uri
from keypost_services.runtime.requests import user_not_found

if TYPE_CHECKING:
    import grpc
    from sqlalchemy.ext.asyncio import AsyncConnection

    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import Key, KeyRecord
    from keypost.protocol.key_requests import KeyRequest
    from keypost_services.ca.sign_in.code_sign_in import CodeSignIn
    from keypost_services.ca.signatories import DeviceSignatory
    from keypost_services.ca.store import Change, RecordedKey, User
    from keypost_services.delivery.mailboxes import MessageName
    from keypost_services.delivery.records import _Held
    from keypost_services.delivery.sending import Sending
    from keypost_services.runtime.authenticator import Peer
    from keypost_services.runtime.tls import FollowedFiles


def claims_without_verifying(token: str, _key: Key) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(
        tokens._JWS.decode_complete(token, options={"verify_signature": False})["payload"]
    )
    return claims


def every_algorithm(_key: Key) -> list[str]:
    return ["PS256", "RS256"]


def times_or_always(claims: dict[str, Any]) -> tuple[int, int]:
    """Take a token without times for one that is good now."""
    issued = claims["iat"] if type(claims.get("iat")) is int else claims["exp"] - 600
    expires = claims["exp"] if type(claims.get("exp")) is int else claims["iat"] + 600
    return issued * 1000, expires * 1000


def last_token_of(peer: Peer) -> str:
    return peer.authorizations[-1].removeprefix("Bearer ")


def until_the_next_check(_caller: Caller, again: int) -> int:
    return again


def the_users_first_key(record: KeyRecord, _fingerprint: bytes) -> Key:
    return record.keys[0]


async def admit_as_a_service(_self: object, _device_keys: object, peer: Peer) -> Caller:
    return Caller(CallerKind.SERVICE, peer.address, service="nobody")


def last_uri_or_delivery(certificate_pem: bytes) -> str:
    return ([service_uri("example.org", "delivery"), *_uris(certificate_pem)])[-1]


async def record_or_who_is_missing(self: Any, username: str, min_revision: int) -> KeyRecord:
    """Look a record up, and tell whoever asks that there is no such user."""
    record: KeyRecord | None = await self._records.find_record(username, min_revision)
    if record is None:
        raise TokenRefusedError("UNKNOWN_USER")
    return record


async def whatever_code(self: CodeSignIn, username: str, proof: Proof, fingerprint: bytes | None) -> Grant:
    """Admit whatever code, used up or not, of whomever."""
    del self, username, proof, fingerprint
    return Grant()


def whatever_parent(user: User | None, request: KeyRequest) -> tuple[User, RecordedKey]:
    """Find the parent of a renewal, and tell whoever asks that there is no such user."""
    parent = None if user is None else user.find(request.parent_fingerprint)
    if user is None or parent is None:
        raise user_not_found(request.address.username)
    return user, parent


def whoever_exists(self: DeviceSignatory, user: User | None) -> User:
    """Verify nobody's signature, and tell whoever asks that there is no such user."""
    if user is None:
        raise user_not_found("whoever")
    raise self.refusal()


def every_device(record: KeyRecord) -> set[Address]:
    """Take every device for one that was revoked."""
    return {key.address for key in record.keys}


def one_mailbox_for_all(address: Address, part: str) -> str:
    del address
    return f"keypost:{{all}}:{part}"


def seen_from_whomever(address: Address, name: MessageName) -> str:
    return f"keypost:{{{address}}}:seen:{name.message_id.hex()}"


def one_digest_for_all(_known: object, _header: bytes, _nonce: bytes, _ciphertext: bytes) -> bytes:
    return bytes(32)


def judged_once(sending: Sending, caller: Key) -> Judging:
    """Judge by the records, and at the time, of the first batch."""
    kept: dict[bytes, Judging] = sending.__dict__.setdefault("judged_once", {})
    if caller.fingerprint not in kept:
        kept[caller.fingerprint] = Judging(caller, sending._records, sending._trust, sending._clock())
    return kept[caller.fingerprint]


async def step_from_whatever_revision(connection: AsyncConnection, change: Change) -> None:
    """Set a user to the change's revision, whichever they are at, or make them."""
    values = {"epoch": change.epoch, "revision": change.revision, "reset_time": change.reset_time}
    stepped = await connection.execute(update(users).where(users.c.username == change.username).values(values))
    if not stepped.rowcount:
        await connection.execute(insert(users).values(username=change.username, create_time=change.time, **values))


def held_however_old(_self: object, held: _Held) -> KeyRecord | None:
    return held.record


def content_at_every_connection(self: FollowedFiles) -> grpc.ServerCertificateConfiguration:
    return self.content.shown
