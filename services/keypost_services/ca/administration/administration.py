"""What administrators may do to users. Who calls is admitted already; what they do, the audit log keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.protocol.administrators import verify_administrators_revocation
from keypost.protocol.errors import KeyRefusedError, SignatureInvalidError
from keypost_services.ca import errors
from keypost_services.ca.acts import code_made, codes_withdrawn
from keypost_services.ca.audit import Actor, ActorKind
from keypost_services.ca.authority import origin_of_call
from keypost_services.ca.codes import draw_code
from keypost_services.ca.store import ENDED, CodeFilter
from keypost_services.runtime.requests import user_not_found

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from keypost.protocol.revocations import Revocation
    from keypost_services.ca.audit import AuditEntry
    from keypost_services.ca.authority import Authority
    from keypost_services.ca.codes import MadeCode
    from keypost_services.ca.reset import Resets
    from keypost_services.ca.revocation import Revocations
    from keypost_services.ca.store import AuditFilter, DrawnCode, OneTimeCode, User, UserSummary


@dataclass(frozen=True)
class AdministratorSignatory:
    """An administrator, who signs with the private key of the certificate that the channel has shown.

    Attributes:
        name: Who.
        public_key_der: The certificate's key: SubjectPublicKeyInfo in DER.
        revocation: What is said to be signed with it.
    """

    name: str
    public_key_der: bytes
    revocation: Revocation

    def verify(self, user: User | None) -> User:
        """Verify that the very key of the certificate signed."""
        if user is None:
            raise user_not_found(self.revocation.address.username)
        try:
            verify_administrators_revocation(self.revocation, self.public_key_der)
        except (SignatureInvalidError, KeyRefusedError) as error:
            raise errors.administrator_refused(str(error)) from error
        return user

    def check_may_act(self, user: User, now: int) -> None:
        """Let every administrator act for every user."""

    def actor(self, user: User) -> Actor:
        """Return the administrator, with what was signed."""
        del user
        return Actor(ActorKind.ADMINISTRATOR, self.name, self.revocation.signed.SerializeToString(deterministic=True))


class Administration:
    """Acts for administrators.

    Args:
        authority: Store, policy and the like.
        revocations: Withdraws keys.
        resets: Announces and stops identity resets.
        realm: What one-time codes are bound to (``codes.realm_hash``).
        random: Returns that many random bytes.
    """

    def __init__(
        self,
        authority: Authority,
        revocations: Revocations,
        resets: Resets,
        realm: bytes,
        random: Callable[[int], bytes],
    ) -> None:
        self._authority = authority
        self._revocations = revocations
        self._resets = resets
        self._realm = realm
        self._random = random

    async def create_code(self, administrator: str, username: str, lifetime: int) -> MadeCode:
        """Draw a one-time code, good for ``lifetime`` milliseconds; only its hash stays."""
        now = self._authority.clock()
        made, kept = draw_code(self._random, username, now + lifetime, self._realm)
        act = code_made(kept, actor_of(administrator), now, origin_of_call())
        self._authority.tell(await self._authority.store.add_code(kept, act))
        return made

    async def list_codes(self, username: str | None, limit: int, after: OneTimeCode | None) -> Sequence[DrawnCode]:
        """Return at most ``limit`` one-time codes that are open, after one: of a user, or of all."""
        wanted = CodeFilter(username, open_at=self._authority.clock())
        return await self._authority.store.list_codes(wanted, limit, after)

    async def withdraw_codes(self, administrator: str, username: str, code_id: bytes) -> Sequence[bytes]:
        """Withdraw a one-time code, or all of a user's that are open; return the hashes of what is withdrawn.

        Args:
            administrator: Who does it.
            username: The user.
            code_id: How the hash of the code begins; empty: all.

        Raises:
            ServiceError: As ``WithdrawOneTimeCodes`` in the protos.
        """
        act = codes_withdrawn(username, actor_of(administrator), self._authority.clock(), origin_of_call())
        entries = await self._authority.store.withdraw_codes(act, code_id)
        self._authority.tell(entries)
        if code_id and not entries:
            return [await self._withdrawn_before(username, code_id)]
        return [entry.act.evidence for entry in entries]

    async def _withdrawn_before(self, username: str, code_id: bytes) -> bytes:
        """Return the hash of a code that is not open since it was withdrawn; say why another one is not."""
        found = await self._authority.store.list_codes(CodeFilter(username, code_id), 1)
        if not found:
            raise errors.code_not_found()
        code = found[0].code
        if code.used_fingerprint:
            key = await self._authority.store.find_key(code.used_fingerprint)
            raise errors.code_used("" if key is None else key.device_id)
        if code.expire_time != ENDED:
            raise errors.code_expired()
        return code.code_hash

    async def find_user(self, username: str) -> User:
        """Return a user.

        Raises:
            ServiceError: USER_NOT_FOUND.
        """
        user = await self._authority.find_user(username)
        if user is None:
            raise user_not_found(username)
        return user

    async def list_users(self, after_username: str, limit: int) -> Sequence[UserSummary]:
        """Return at most ``limit`` users after a name."""
        return await self._authority.store.list_users(after_username, limit)

    async def list_audit_entries(self, after_sequence: int, limit: int, wanted: AuditFilter) -> Sequence[AuditEntry]:
        """Return at most ``limit`` entries after a number."""
        return await self._authority.store.list_audit_entries(after_sequence, limit, wanted)

    async def revoke(self, revocation: Revocation, administrator: AdministratorSignatory) -> User:
        """Withdraw a key.

        Raises:
            ServiceError: As ``RevokeKey`` in the protos.
        """
        await self._revocations.revoke(revocation, administrator)
        return await self.find_user(revocation.address.username)

    async def allow_reset(self, administrator: str, username: str) -> User:
        """Allow an identity reset at once.

        Raises:
            ServiceError: As ``AllowReset`` in the protos.
        """
        await self._resets.open_now(username, actor_of(administrator))
        return await self.find_user(username)

    async def cancel_reset(self, administrator: str, username: str) -> User:
        """Stop an identity reset.

        Raises:
            ServiceError: As ``CancelReset`` in the protos.
        """
        await self._resets.call_off(username, actor_of(administrator))
        return await self.find_user(username)


def actor_of(administrator: str) -> Actor:
    """Return how the audit log names an administrator."""
    return Actor(ActorKind.ADMINISTRATOR, administrator)
