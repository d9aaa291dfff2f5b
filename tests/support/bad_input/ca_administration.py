"""The methods of administrators, with what may stand in their requests."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from keypost.ca.v1 import administration_service_pb2 as pb
from keypost.keys.v1 import key_info_pb2 as keys_pb
from keypost.protocol.administrators import sign_administrators_revocation
from keypost.protocol.encoding import REVOCATION, pae
from support.bad_input.ca_statements import AHEAD, MOST_BYTES, NO_SUCH_KEY, NOT_SINCE, REASONS, REVOKED, TAKEN
from support.bad_input.rules import (
    OK,
    USERNAME,
    Rule,
    device_id,
    form,
    invalid,
    number,
    one_of,
    refused,
    size,
    size_between,
    statement,
    username,
)
from support.bad_input.surface import Exchange, made, unary
from support.ca_service import REALM

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc.aio

    from support.ca_service import CaUnderTest

SERVICE = "/keypost.ca.v1.AdministrationService/"
METHODS = (
    "CreateOneTimeCode",
    "ListOneTimeCodes",
    "WithdrawOneTimeCodes",
    "GetUser",
    "ListUsers",
    "RevokeKey",
    "AllowReset",
    "CancelReset",
    "ListAuditEntries",
)
NAMES = tuple(SERVICE + name for name in METHODS)
NOT_FOUND = refused("there is no such user", "NOT_FOUND/USER_NOT_FOUND", ok=True)
NOBODY = refused("there is no such user", "NOT_FOUND/USER_NOT_FOUND")
NO_CODE = refused("there is no such code", "NOT_FOUND/CODE_NOT_FOUND")
UNSIGNED = refused("the certificate's key did not sign this", "PERMISSION_DENIED/REVOCATION_REFUSED")
DAY = 24 * 60 * 60 * 1000
REVOKE_RULES = {
    "revocation": Rule(one_of()),
    REVOKED: Rule(statement(keys_pb.Revocation, REALM), UNSIGNED),
    f"{REVOKED}.realm": Rule(one_of(REALM)),
    f"{REVOKED}.username": Rule(username, NOBODY),
    f"{REVOKED}.device_id": Rule(device_id, NO_SUCH_KEY),
    f"{REVOKED}.fingerprint": Rule(size(32), NO_SUCH_KEY),
    f"{REVOKED}.reason": Rule(one_of(*REASONS), NOT_SINCE | OK),
    f"{REVOKED}.revision": Rule(number(), TAKEN | OK),
    f"{REVOKED}.since_time": Rule(number(0), AHEAD | OK),
    "revocation.signature": Rule(size_between(1, 72), UNSIGNED),
    "revocation.signer_fingerprint": Rule(size(32), UNSIGNED),
}


def token_of(content: bytes) -> str:
    """Return a page token with this content."""
    return base64.urlsafe_b64encode(content).decode()


def in_token(text: str) -> bytes | None:
    """Return what is in a page token, None if it is none."""
    if not re.fullmatch(r"[A-Za-z0-9_-]*={0,2}", text, re.ASCII) or len(text) % 4 or len(text) > 256:
        return None
    content = base64.urlsafe_b64decode(text)
    return content if token_of(content) == text else None


def username_token(text: str) -> bool:
    """Hold for a token that names a user, and for none."""
    content = in_token(text)
    return text == "" or (content is not None and re.fullmatch(USERNAME.encode(), content) is not None)


def sequence_token(text: str) -> bool:
    """Hold for a token that names an entry, and for none."""
    content = in_token(text)
    return text == "" or (content is not None and len(content) == 8 and content[0] < 128)


def code_token(text: str) -> bool:
    """Hold for a token that names a one-time code, and for none."""
    content = in_token(text)
    if content is None or text == "":
        return text == ""
    return len(content) > 40 and content[32] < 128 and re.fullmatch(USERNAME.encode(), content[40:]) is not None


def no_user_or(value: str) -> bool:
    """Hold for a username, and for none."""
    return value == "" or username(value)


PAGE_SIZE = Rule(number(0, 256))
USERS_RULES = {"page_size": PAGE_SIZE, "page_token": Rule(username_token)}
ENTRIES_RULES = {
    "username": Rule(no_user_or),
    "from_time": Rule(number(0)),
    "after_sequence": Rule(number(0)),
    "until_time": Rule(number(0)),
    "page_size": PAGE_SIZE,
    "page_token": Rule(sequence_token),
}
CODE_RULES = {"username": Rule(username), "lifetime": Rule(lambda value: value == 0 or 60_000 <= value <= 30 * DAY)}
CODES_RULES = {"username": Rule(no_user_or), "page_size": PAGE_SIZE, "page_token": Rule(code_token)}
WITHDRAWAL_RULES = {
    "username": Rule(username, NO_CODE | OK),
    "code_id": Rule(form("[0-9a-f]{16}"), NO_CODE | OK),
    # With all of them meant, none may be named.
    "all": Rule(one_of(0), named="code_id"),
}
USER_RULES = {"username": Rule(username, NOT_FOUND)}
TOKENS = ["YQ==", "YR==", "YQ", "YQ=", "-___", "+///", token_of(b"Alice"), token_of(b"a" * 129), token_of(bytes(7))]
BAD_CODES = [token_of(bytes(32) + b"\xff" * 8 + b"a"), token_of(bytes(40)), token_of(bytes(40) + b"\xff")]
BAD_SEQUENCES = [token_of(b"\xff" * 8), token_of(b"\x80" + bytes(7)), token_of(bytes(9))]


class Requests:
    """Makes requests that the CA accepts, each of a user of its own."""

    def __init__(self, ca: CaUnderTest, names: Iterator[str]) -> None:
        self._ca = ca
        self._names = names
        self._withdrawal: pb.WithdrawOneTimeCodesRequest | None = None
        key = ca.access().private_key
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key

    async def user(self) -> str:
        """Enrol a user; return the name."""
        return (await self._ca.enroll(next(self._names))).address.username

    async def get(self) -> pb.GetUserRequest:
        return pb.GetUserRequest(username=await self.user())

    async def withdraw(self) -> pb.WithdrawOneTimeCodesRequest:
        # The same each time: it is answered as the first time.
        if self._withdrawal is None:
            name, administrator = next(self._names), await self._ca.administrator()
            await administrator.create_code(name, DAY)
            (code,) = [code async for code in administrator.codes(name)]
            self._withdrawal = pb.WithdrawOneTimeCodesRequest(username=name, code_id=code.code_id)
        return self._withdrawal

    async def allow(self) -> pb.AllowResetRequest:
        return pb.AllowResetRequest(username=await self.user())

    async def cancel(self) -> pb.AdministrationServiceCancelResetRequest:
        return pb.AdministrationServiceCancelResetRequest(username=await self.user())

    async def revoke(self) -> pb.RevokeKeyRequest:
        pair = await self._ca.enroll(next(self._names))
        revocation = keys_pb.Revocation(
            realm=REALM,
            username=pair.address.username,
            device_id=pair.address.device_id,
            fingerprint=pair.fingerprint,
            reason=keys_pb.REVOCATION_REASON_COMPROMISED,
            revision=2,
            since_time=self._ca.clock(),
        )
        return pb.RevokeKeyRequest(revocation=sign_administrators_revocation(revocation, self._key))

    def seal(self, request: Any, path: str) -> None:
        """Sign what was put into the statement, as the administrator would."""
        if path.startswith(f"{REVOKED}."):
            data = pae(REVOCATION, request.revocation.revocation)
            request.revocation.signature = self._key.sign(data, ec.ECDSA(hashes.SHA256()))


def of_administrators(channel: grpc.aio.Channel, ca: CaUnderTest, names: Iterator[str]) -> dict[str, Exchange]:
    """Return the exchanges of these methods."""
    requests = Requests(ca, names)
    code, codes, withdraw, get, users, revoke, allow, cancel, entries = (unary(channel, name) for name in NAMES)
    bounds = {REVOKED: (MOST_BYTES, invalid(REVOKED))}
    tokens = {"page_token": TOKENS}
    exchanges = (
        Exchange(code, made(pb.CreateOneTimeCodeRequest(username="alice", lifetime=DAY)), CODE_RULES),
        Exchange(
            codes,
            made(pb.ListOneTimeCodesRequest(username="alice", page_size=2, page_token=token_of(bytes(40) + b"a"))),
            CODES_RULES,
            extra={"page_token": TOKENS + BAD_CODES},
        ),
        Exchange(withdraw, requests.withdraw, WITHDRAWAL_RULES),
        Exchange(get, requests.get, USER_RULES),
        Exchange(users, made(pb.ListUsersRequest(page_size=2, page_token=token_of(b"a"))), USERS_RULES, extra=tokens),
        Exchange(revoke, requests.revoke, REVOKE_RULES, requests.seal, bounds=bounds),
        Exchange(allow, requests.allow, USER_RULES),
        Exchange(cancel, requests.cancel, USER_RULES),
        Exchange(
            entries,
            made(pb.ListAuditEntriesRequest(username="alice", page_size=2, page_token=token_of(bytes(8)))),
            ENTRIES_RULES,
            extra={"page_token": TOKENS + BAD_SEQUENCES},
        ),
    )
    return dict(zip(NAMES, exchanges, strict=True))
