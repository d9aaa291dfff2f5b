"""Settings of the directory: ``KEYPOST_DIRECTORY_*``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, FilePath, model_validator
from pydantic_settings import SettingsConfigDict

from keypost_services.runtime.config import ServiceSettings

_SCHEMES = ("redis://", "rediss://", "unix://")


def _redis_url(url: str) -> str:
    if not url.startswith(_SCHEMES):
        raise ValueError("must be a URL of Redis, such as redis://127.0.0.1:6379/0")
    return url


class DirectorySettings(ServiceSettings):
    """What the directory can be told."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix="KEYPOST_DIRECTORY_", extra="ignore", frozen=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    ca: str = Field(description="The CA's internal port: host:port, or a gRPC name such as dns:///ca.internal:8444.")
    bundle: FilePath = Field(description="The realm's bundle (JSON, as `keypost-ca bundle` makes it): its root keys.")
    cache: Annotated[str, AfterValidator(_redis_url)] = Field(
        description="URL of the Redis or Valkey that caches records (role cache: every key has a lifetime)."
    )
    process_cache_megabytes: int = Field(
        description="About how much memory cached records may take in this process.", default=64, ge=1, le=65_536
    )
    cache_timeout_ms: int = Field(description="How long Redis may take to answer.", default=200, ge=10, le=5_000)
    cache_retry_ms: int = Field(
        description="After Redis did not answer, look-ups go on without it for this long.",
        default=1_000,
        ge=10,
        le=60_000,
    )
    ca_timeout_ms: int = Field(description="How long the CA may take to answer.", default=2_000, ge=50, le=30_000)
    ca_retry_ms: int = Field(
        description="After the CA did not answer, it is not asked again for this long.", default=500, ge=10, le=60_000
    )
    negative_ms: int = Field(
        description="How long it is remembered that a user does not exist (an enrolment ends it at once).",
        default=5_000,
        ge=0,
        le=60_000,
    )
    unconfirmed_ms: int = Field(
        description="How long nobody asks again for a revision that the CA did not confirm.",
        default=1_000,
        ge=0,
        le=60_000,
    )
    watch_grace_ms: int = Field(
        description="With the watch of key events down, records older than this are asked for anew at the CA; if it "
        "does not answer, they are served until their next_update.",
        default=30_000,
        ge=16_000,
        le=600_000,
    )
    trust_refresh_ms: int = Field(
        description="How often the realm's trust statement is fetched anew.", default=300_000, ge=1_000, le=86_400_000
    )
    event_buffer: int = Field(
        description="How many key events are kept for delivery services that resume their watch.",
        default=10_000,
        ge=1,
        le=1_000_000,
    )
    start_ms: int = Field(
        description="How long the start waits for the CA before serving degraded.", default=10_000, ge=0, le=600_000
    )

    @model_validator(mode="after")
    def _ca_wants_a_certificate(self) -> Self:
        self.require_internal_tls()
        return self
