"""Records: what the CA says of a user's keys, signed at the moment it is asked (docs/spec.md, "Key info")."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from keypost.errors import KeypostError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.encoding import USER_KEYS, pae
from keypost_services.ca import errors
from keypost_services.ca.convert import entry_message, signed_request_message
from keypost_services.ca.policy import history_of
from keypost_services.ca.trust.signing import SignerAwayError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keypost.clock import Clock
    from keypost.protocol.realm_trust import RecordKey
    from keypost_services.ca.policy import Policy
    from keypost_services.ca.store import Store, User
    from keypost_services.ca.trust.realm import ServedRealm
    from keypost_services.ca.trust.signing import RecordSigner


class Records:
    """Signs records of users as they are now."""

    def __init__(self, store: Store, realm: ServedRealm, policy: Policy, clock: Clock) -> None:
        self._store = store
        self._realm = realm
        self._policy = policy
        self._clock = clock

    async def find(self, usernames: Sequence[str]) -> Mapping[str, pb.KeyInfo]:
        """Return the key info of those of the users that exist; raises as ``sign``."""
        users = await self._store.find_users(usernames)
        signed = await asyncio.gather(*(self.sign(user) for user in users.values()))
        return dict(zip(users, signed, strict=True))

    async def find_one(self, username: str, history_from: bytes) -> pb.KeyInfo | None:
        """Return the key info of one user, if they exist; raises as ``sign``.

        Args:
            username: The user.
            history_from: From this key on history is wanted (32 bytes); empty: from the root.
        """
        user = (await self._store.find_users([username])).get(username)
        return None if user is None else await self.sign(user, history_from)

    async def sign(self, user: User, history_from: bytes = b"") -> pb.KeyInfo:
        """Return the key info of a user, signed now.

        Raises:
            ServiceError: SIGNING_UNAVAILABLE: no key may sign now, or the one that may cannot.
        """
        now = user.no_earlier(self._clock())
        try:
            record_key, signer = self._realm.active(now)
            return await self._sign(user, record_key, signer, now, history_from)
        except (KeypostError, SignerAwayError) as error:
            raise errors.signing_unavailable() from error

    async def _sign(
        self, user: User, record_key: RecordKey, signer: RecordSigner, now: int, history_from: bytes
    ) -> pb.KeyInfo:
        trust, entries = self._realm.trust, self._policy.entries_of(user, now)
        statement = pb.UserKeys(
            realm=trust.realm,
            username=user.username,
            epoch=user.epoch,
            revision=user.revision,
            this_update=now,
            # No longer than what vouches for the record.
            next_update=min(now + trust.constants.record_lifetime, record_key.until_time, trust.until_time),
            entries=[entry_message(key) for key in entries],
            reset_time=user.reset_time,
        )
        serialised = statement.SerializeToString(deterministic=True)
        record = pb.SignedUserKeys(
            user_keys=serialised,
            signature=await signer.sign(pae(USER_KEYS, serialised)),
            record_key_fingerprint=record_key.fingerprint,
        )
        history = history_of(user, entries, history_from)
        return pb.KeyInfo(record=record, history=[signed_request_message(key) for key in history])
