"""Settings of the directory: ``KEYPOST_DIRECTORY_*``."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, FilePath, model_validator
from pydantic_settings import SettingsConfigDict

from keypost_services.runtime.config import RedisUrl, ServiceSettings
from keypost_services.runtime.setting_files import OR_IN_FILE


class DirectorySettings(ServiceSettings):
    """What the directory can be told."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(env_prefix="KEYPOST_DIRECTORY_")

    ca: str = Field(description="The CA's internal port: host:port, or a gRPC name such as dns:///ca.internal:8444.")
    bundle: FilePath = Field(description="The realm's bundle (JSON, as `keypost-ca bundle` makes it): its root keys.")
    cache_url: RedisUrl = Field(
        description="URL of the Redis or Valkey that caches records (role cache: every key has a lifetime).",
        repr=False,
        json_schema_extra=OR_IN_FILE,
    )
    process_cache_megabytes: int = Field(
        description="About how much memory cached records may take in this process.", default=64, ge=1, le=65_536
    )
    cache_timeout_seconds: float = Field(description="How long Redis may take to answer.", default=0.2, ge=0.01, le=5)
    cache_retry_seconds: float = Field(
        description="After Redis did not answer, look-ups go on without it for this long.", default=1.0, ge=0.01, le=60
    )
    ca_timeout_seconds: float = Field(description="How long the CA may take to answer.", default=2.0, ge=0.05, le=30)
    ca_retry_seconds: float = Field(
        description="After the CA did not answer, it is not asked again for this long.", default=0.5, ge=0.01, le=60
    )
    negative_seconds: float = Field(
        description="How long it is remembered that a user does not exist (an enrolment ends it at once).",
        default=5.0,
        ge=0,
        le=60,
    )
    unconfirmed_seconds: float = Field(
        description="How long nobody asks again for a revision that the CA did not confirm.", default=1.0, ge=0, le=60
    )
    watch_grace_seconds: float = Field(
        description="With the watch of key events down, records older than this are asked for anew at the CA; if it "
        "does not answer, they are served until their next_update.",
        default=30.0,
        ge=16,
        le=600,
    )
    trust_refresh_seconds: float = Field(
        description="How often the realm's trust statement is fetched anew.", default=300.0, ge=1, le=86_400
    )
    event_buffer: int = Field(
        description="How many key events are kept for delivery services that resume their watch.",
        default=10_000,
        ge=1,
        le=1_000_000,
    )
    start_seconds: float = Field(
        description="How long the start waits for the CA before serving degraded.", default=10.0, ge=0, le=600
    )

    @model_validator(mode="after")
    def _ca_wants_a_certificate(self) -> Self:
        self.require_internal_tls()
        return self
