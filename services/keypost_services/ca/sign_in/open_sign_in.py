"""Sign-in by nothing at all."""

from __future__ import annotations

from keypost_services.ca.sign_in.port import Grant, Kind, Proof, SignInRefusedError


class OpenSignIn:
    """Admits everybody who asks for it: for development alone."""

    async def admit(self, username: str, proof: Proof, fingerprint: bytes | None) -> Grant:
        """Admit a caller without proof; a proof means that the caller expects another CA."""
        del username, fingerprint
        if proof.kind != Kind.OPEN:
            raise SignInRefusedError("NOT_OPEN")
        return Grant()
