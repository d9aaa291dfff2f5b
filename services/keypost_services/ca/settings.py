"""Settings of the CA: ``KEYPOST_CA_*``."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # pydantic reads it
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, FilePath, SecretStr, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from keypost.clock import DAY, HOUR
from keypost_services.ca.database_url import CONNECTIONS, check_database
from keypost_services.ca.sign_in.port import Kind
from keypost_services.ca.sign_in.urls import check_issuer
from keypost_services.runtime.config import ServiceSettings, variable_of

_DAYS_MOST = 398
_RESET_HOURS_MOST = 30 * 24


def _read_kinds(value: str | tuple[Kind, ...]) -> tuple[Kind, ...]:
    if not isinstance(value, str):
        return value
    known = [kind.value for kind in Kind]
    names = [name.strip() for name in value.split(",")]
    if not set(names) <= set(known) or len(set(names)) != len(names):
        raise ValueError(f"must be one or several of {', '.join(known)}, with commas")
    return tuple(map(Kind, names))


class CaSettings(ServiceSettings):
    """What the CA can be told."""

    model_config = SettingsConfigDict(env_prefix="KEYPOST_CA_")

    database: Annotated[str, AfterValidator(check_database)] = Field(
        description="URL of the database: sqlite:////var/lib/keypost/ca.db (one CA process at a time) or "
        "postgresql://keypost_ca@db.example.org/keypost?sslmode=verify-full (as many as you like).",
        repr=False,
    )
    database_connections: int = Field(
        description="PostgreSQL: how many connections this process has at most, besides one that listens.",
        default=CONNECTIONS,
        ge=2,
        le=200,
    )
    realm_folder: Path = Field(
        description="Folder that `keypost-ca init` made: root.pem (the public half of the root key), realm-trust.json, "
        "earlier/ and the record keys; without root.key, which is offline. What changes in it is taken up at once."
    )
    record_key: Path | None = Field(
        description="File of a private key that signs records, or folder of such files (*.key). Without it, "
        "record*.key in the realm folder.",
        default=None,
    )
    passphrase: SecretStr | None = Field(
        description="Opens the record keys, where they are sealed. Better in a file: KEYPOST_CA_PASSPHRASE_FILE.",
        default=None,
    )
    passphrase_file: FilePath | None = Field(
        description="File whose first line is that passphrase.",
        default=None,
    )
    realm_poll_seconds: float = Field(
        description="How often the realm folder is looked at for what has changed.", default=10.0, ge=0.01, le=3_600
    )
    sign_in: Annotated[tuple[Kind, ...], NoDecode, BeforeValidator(_read_kinds)] = Field(
        description="By what users sign in; several with commas. code: a one-time code of `keypost-ca code`. oidc: an "
        "ID token of an OpenID Connect issuer. open: nothing, anybody enrols as anybody; for development alone.",
        default="code",  # type: ignore[arg-type]  # as it would stand in the environment
    )
    oidc_issuer: Annotated[str, AfterValidator(check_issuer)] | None = Field(
        description="oidc: the issuer's URL, exactly as it names itself, such as https://id.example.org/realms/main.",
        default=None,
    )
    oidc_client_id: str | None = Field(
        description="oidc: the client id that Keypost has at the issuer: the audience of its ID tokens.", default=None
    )
    oidc_username_claim: str = Field(
        description="oidc: the claim that is the username, to the letter. Take one that users cannot choose; email "
        "counts only with email_verified.",
        default="preferred_username",
        min_length=1,
        max_length=128,
    )
    oidc_ca_bundle: FilePath | None = Field(
        description="oidc: PEM file: the roots of the issuer's TLS certificate. Without it, the operating system's.",
        default=None,
    )
    oidc_seconds: float = Field(
        description="oidc: how long the issuer may take to say what its keys are.", default=10.0, gt=0, le=30
    )
    key_lifetime_days: int = Field(
        description="The longest lifetime of device keys that is granted; not above the realm's longest_key_lifetime.",
        default=90,
        ge=1,
        le=_DAYS_MOST,
    )
    blocked_keys: FilePath | None = Field(
        description="A file with fingerprints of keys that are never recorded, since others have their private halves: "
        "one a line, the SHA-256 of the SubjectPublicKeyInfo in 64 hexadecimal digits; # begins a comment.",
        default=None,
    )

    reset_delay_hours: int = Field(
        description="How long after an identity reset was announced to the devices of its user it may take place.",
        default=24,
        ge=1,
        le=_RESET_HOURS_MOST,
    )

    @model_validator(mode="after")
    def _oidc_knows_its_issuer(self) -> Self:
        if Kind.OIDC in self.sign_in:
            self.require_oidc()
        return self

    def require_oidc(self) -> tuple[str, str]:
        """Return issuer and client id.

        Raises:
            ValueError: One is not set.
        """
        if self.oidc_issuer is None or not self.oidc_client_id:
            names = [variable_of(type(self), name) for name in ("oidc_issuer", "oidc_client_id")]
            raise ValueError(f"sign-in by oidc needs {' and '.join(names)}")
        return self.oidc_issuer, self.oidc_client_id

    @property
    def reset_delay(self) -> int:
        """How long after its announcement an identity reset may take place, milliseconds."""
        return self.reset_delay_hours * HOUR

    @property
    def key_lifetime(self) -> int:
        """The longest lifetime of device keys that is granted, milliseconds."""
        return self.key_lifetime_days * DAY
