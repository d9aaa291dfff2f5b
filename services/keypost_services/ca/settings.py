"""Settings of the CA: ``KEYPOST_CA_*``."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # pydantic reads it
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, FilePath, SecretStr
from pydantic_settings import SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from keypost.clock import DAY, HOUR
from keypost_services.runtime.config import ServiceSettings

_DAYS_MOST = 398
_RESET_HOURS_MOST = 30 * 24


def check_database(url: str) -> str:
    """Return a database URL; raises ValueError if it is none, or of a database that this version cannot use."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ValueError("must be a database URL, such as sqlite:////var/lib/keypost/ca.db") from error
    if parsed.get_backend_name() != "sqlite":
        raise ValueError("must be of SQLite, such as sqlite:////var/lib/keypost/ca.db")
    if not parsed.database or parsed.database == ":memory:":
        raise ValueError("must name a file, such as sqlite:////var/lib/keypost/ca.db")
    return url


class CaSettings(ServiceSettings):
    """What the CA can be told."""

    model_config = SettingsConfigDict(env_prefix="KEYPOST_CA_")

    database: Annotated[str, AfterValidator(check_database)] = Field(
        description="URL of the database, such as sqlite:////var/lib/keypost/ca.db (one CA process at a time)."
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
    sign_in: Literal["code", "open"] = Field(
        description="code: enrolment needs a one-time code of `keypost-ca code`. open: anybody enrols as anybody; for "
        "development alone.",
        default="code",
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

    @property
    def reset_delay(self) -> int:
        """How long after its announcement an identity reset may take place, milliseconds."""
        return self.reset_delay_hours * HOUR

    @property
    def key_lifetime(self) -> int:
        """The longest lifetime of device keys that is granted, milliseconds."""
        return self.key_lifetime_days * DAY
