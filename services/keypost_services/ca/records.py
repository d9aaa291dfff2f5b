"""Records: what the CA says of a user's keys, signed at the moment it is asked (docs/spec.md, "Key info")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.encoding import fingerprint
from keypost.protocol.key_info import sign_user_keys
from keypost_services.ca.convert import entry_message, signed_request_message
from keypost_services.ca.policy import history_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keypost.clock import Clock
    from keypost.protocol.realm_trust import RealmTrust
    from keypost.protocol.signing import Signer
    from keypost_services.ca.policy import Policy
    from keypost_services.ca.store import Store, User


class Records:
    """Signs records of users as they are now."""

    def __init__(self, store: Store, signer: Signer, trust: RealmTrust, policy: Policy, clock: Clock) -> None:
        self._store = store
        self._signer = signer
        self._signer_fingerprint = fingerprint(signer.public_key_der)
        self._trust = trust
        self._policy = policy
        self._clock = clock

    async def find(self, usernames: Sequence[str]) -> Mapping[str, pb.KeyInfo]:
        """Return the key info of those of the users that exist."""
        users = await self._store.find_users(usernames)
        return {name: self.sign(user) for name, user in users.items()}

    async def find_one(self, username: str, history_from: bytes) -> pb.KeyInfo | None:
        """Return the key info of one user, if they exist.

        Args:
            username: The user.
            history_from: From this key on history is wanted (32 bytes); empty: from the root.
        """
        user = (await self._store.find_users([username])).get(username)
        return None if user is None else self.sign(user, history_from)

    def sign(self, user: User, history_from: bytes = b"") -> pb.KeyInfo:
        """Return the key info of a user, signed now.

        Raises:
            UnknownRecordKeyError: The realm no longer lists this CA's record key.
            TrustRefusedError: The realm's trust statement has expired.
        """
        now = user.no_earlier(self._clock())
        entries = self._policy.entries_of(user, now)
        statement = pb.UserKeys(
            realm=self._trust.realm,
            username=user.username,
            epoch=user.epoch,
            revision=user.revision,
            this_update=now,
            next_update=self._next_update(now),
            entries=[entry_message(key) for key in entries],
            reset_time=user.reset_time,
        )
        history = history_of(user, entries, history_from)
        return pb.KeyInfo(
            record=sign_user_keys(statement, self._signer),
            history=[signed_request_message(key) for key in history],
        )

    def _next_update(self, now: int) -> int:
        """Return until when a record of now is good: no longer than what vouches for it."""
        self._trust.check_current(now)
        record_key = self._trust.record_key(self._signer_fingerprint, now)
        lifetime = self._trust.constants.record_lifetime
        return min(now + lifetime, record_key.until_time, self._trust.until_time)
