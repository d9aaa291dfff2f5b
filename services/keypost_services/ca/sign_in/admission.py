"""Admission: whichever kinds of sign-in the CA takes, with one refusal for all that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost_services.ca import errors
from keypost_services.ca.sign_in.port import SignInRefusedError
from keypost_services.runtime.errors import SourceAwayError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from structlog.typing import FilteringBoundLogger

    from keypost_services.ca.sign_in.port import Grant, Kind, Proof, SignIn


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
            self._log.info("sign_in_refused", kind=proof.kind.value, cause=refused.cause, username=username)
            raise errors.sign_in_refused() from None
        except SourceAwayError as away:
            self._log.warning("sign_in_unavailable", kind=proof.kind.value, why=str(away))
            raise errors.sign_in_unavailable() from away

    def _sign_in(self, kind: Kind) -> SignIn:
        if kind not in self._kinds:
            raise SignInRefusedError("KIND_NOT_TAKEN")
        return self._kinds[kind]
