"""Admission: whichever kinds of sign-in the CA takes, with one refusal for all that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost_services.ca import errors
from keypost_services.ca.sign_in.port import Kind, SignInRefusedError
from keypost_services.runtime.errors import SourceAwayError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from structlog.typing import FilteringBoundLogger

    from keypost_services.ca.sign_in.port import Grant, Proof, SignIn
    from keypost_services.runtime.errors import ServiceError


class Admission:
    """Admits by the kinds of sign-in that are switched on.

    Args:
        kinds: Who decides, by kind. What is not in it is refused.
        log: Where the operator reads why a sign-in was refused.
    """

    def __init__(self, kinds: Mapping[Kind, SignIn], log: FilteringBoundLogger) -> None:
        self._kinds = kinds
        self._log = log

    async def admit(self, username: str, proof: Proof, fingerprint: bytes | None) -> Grant:
        """Accept a proof, without using it up.

        Args:
            username: Whom the caller wants to act as.
            proof: What the caller shows.
            fingerprint: The key that is to be recorded by this sign-in (32 bytes), None where none is yet.

        Raises:
            ServiceError: SIGN_IN_REFUSED, whatever is wrong; SIGN_IN_UNAVAILABLE.
        """
        try:
            return await self._sign_in(proof.kind).admit(username, proof, fingerprint)
        except SignInRefusedError as refused:
            raise self._refusal(proof.kind, refused.cause, username) from None
        except SourceAwayError as away:
            self._log.warning("sign_in_unavailable", kind=proof.kind.value, why=str(away))
            raise errors.sign_in_unavailable() from away

    def check_unused(self, username: str, grant: Grant) -> None:
        """Check that what a sign-in would use up was not used up before.

        Raises:
            ServiceError: SIGN_IN_REFUSED.
        """
        if grant.used_fingerprint:
            raise self._refusal(Kind.CODE, "USED", username)

    def _refusal(self, kind: Kind, cause: str, username: str) -> ServiceError:
        """Tell the operator why, and return what the caller is told."""
        self._log.info("sign_in_refused", kind=kind.value, cause=cause, username=username)
        return errors.sign_in_refused()

    def _sign_in(self, kind: Kind) -> SignIn:
        if kind not in self._kinds:
            raise SignInRefusedError("KIND_NOT_TAKEN")
        return self._kinds[kind]
