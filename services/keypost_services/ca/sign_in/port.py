"""The port of sign-in: what a caller shows, and what accepting it comes to (docs/spec.md, "Sign-in")."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from keypost_services.ca.codes import id_of

if TYPE_CHECKING:
    from keypost_services.ca.store import Identity


class SignInRefusedError(Exception):
    """A proof is not accepted.

    Attributes:
        cause: An upper-case word for the operator's log, such as ``EXPIRED``; the caller never learns it.
    """

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class Kind(StrEnum):
    """The kinds of proof."""

    CODE = "code"
    OIDC = "oidc"
    OPEN = "open"


_SUBJECT = f"{Kind.OIDC} "


@dataclass(frozen=True)
class Proof:
    """What a caller shows: at most one of these; nothing at all is open sign-in.

    Attributes:
        code: A one-time code in its one form (see ``codes.read_code``).
        id_token: An ID token in the form of a signed JWT, of at most 8 KiB.
    """

    code: str | None = field(default=None, repr=False)
    id_token: str | None = field(default=None, repr=False)

    @property
    def kind(self) -> Kind:
        """Of which kind it is."""
        if self.code is not None:
            return Kind.CODE
        return Kind.OPEN if self.id_token is None else Kind.OIDC


@dataclass(frozen=True)
class Grant:
    """An accepted sign-in.

    Attributes:
        code_hash: The one-time code to be used up by success, None where there is none.
        used_fingerprint: The key that the code was used up for before: only that enrolment may be repeated.
        identity: Who signed in at the issuer; kept by success, where it is the first as this user. None without one.
    """

    code_hash: bytes | None = field(default=None, repr=False)
    used_fingerprint: bytes = b""
    identity: Identity | None = None

    @property
    def kind(self) -> str:
        """How the audit log names the sign-in: its kind, and the beginning of a code's hash or the issuer's subject."""
        if self.identity is not None:
            return f"{_SUBJECT}{self.identity.subject}"
        return f"{Kind.OPEN}" if self.code_hash is None else f"{Kind.CODE} {id_of(self.code_hash)}"


def subject_of(kind: str) -> str:
    """Return the issuer's subject in how the audit log names a sign-in (``Grant.kind``); empty without an issuer."""
    return kind.removeprefix(_SUBJECT) if kind.startswith(_SUBJECT) else ""


class SignIn(Protocol):
    """Decides whether a caller may act as a user."""

    async def admit(self, username: str, proof: Proof, fingerprint: bytes | None) -> Grant:
        """Accept a proof, without using it up.

        Args:
            username: Whom the caller wants to act as.
            proof: What the caller shows.
            fingerprint: The key that is to be recorded by this sign-in (32 bytes), None where none is yet.

        Raises:
            SignInRefusedError: It is not accepted, or is of another kind.
            SourceAwayError: It cannot be judged now.
        """
        ...
