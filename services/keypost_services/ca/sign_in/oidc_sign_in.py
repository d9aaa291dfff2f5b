"""Sign-in by an OpenID Connect ID token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost_services.ca.sign_in.id_tokens import check_nonce, check_username, peek_kid, verify_id_token
from keypost_services.ca.sign_in.port import Grant, Proof, SignInRefusedError
from keypost_services.ca.store import Identity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost.clock import Clock
    from keypost_services.ca.sign_in.id_tokens import Expected, IdToken
    from keypost_services.ca.sign_in.issuer import Issuer
    from keypost_services.ca.store import Store


class OidcSignIn:
    """Admits whom an issuer knows by the username, and always the same one.

    Args:
        issuer: Whose tokens they are.
        expected: What a token must say.
        store: Where it stands who signed in as a user first.
        clock: Tells the time.
    """

    def __init__(self, issuer: Issuer, expected: Expected, store: Store, clock: Clock) -> None:
        self._issuer = issuer
        self._expected = expected
        self._store = store
        self._clock = clock

    async def admit(self, username: str, proof: Proof, fingerprint: bytes | None) -> Grant:
        """Admit a token of the issuer for this username and, where a key is to be recorded, for that key."""
        if proof.id_token is None:
            raise SignInRefusedError("NO_ID_TOKEN")
        token = await self._verify(proof.id_token)
        check_username(token, username)
        if fingerprint is not None:
            check_nonce(token, fingerprint)
        identity = Identity(username, self._expected.issuer, token.subject)
        _check_same(identity, await self._store.find_identities(identity))
        return Grant(identity=identity)

    async def _verify(self, id_token: str) -> IdToken:
        key = await self._issuer.find_key(peek_kid(id_token))
        if key is None:
            raise SignInRefusedError("UNKNOWN_KEY")
        return verify_id_token(id_token, key, self._expected, self._clock())


def _check_same(identity: Identity, kept: Sequence[Identity]) -> None:
    """Refuse another subject as this user, and this subject as another user: names at an issuer may be given anew."""
    if any(one != identity for one in kept):
        raise SignInRefusedError("ANOTHER_IDENTITY")
