"""Settings of delivery: ``KEYPOST_DELIVERY_*``."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, FilePath, model_validator
from pydantic_settings import SettingsConfigDict

from keypost.protocol.envelope import MOST_ENVELOPE_BYTES
from keypost_services.delivery.cluster_url import is_cluster_url, read_cluster_url
from keypost_services.delivery.mailboxes import Durability
from keypost_services.runtime.config import ServiceSettings, check_redis_url, variable_of
from keypost_services.runtime.setting_files import OR_IN_FILE
from keypost_services.runtime.urls import check_https


def _mailboxes_url(url: str) -> str:
    if is_cluster_url(url):
        read_cluster_url(url)
        return url
    return check_redis_url(url)


MailboxesUrl = Annotated[str, AfterValidator(_mailboxes_url)]
"""A Redis or Valkey server, or a cluster of such."""


class DeliverySettings(ServiceSettings):
    """What delivery can be told."""

    model_config = SettingsConfigDict(env_prefix="KEYPOST_DELIVERY_")

    bundle: FilePath = Field(
        description="The realm's bundle file (`keypost-ca bundle`), with the root keys that records are verified from."
    )
    directory: str = Field(
        description="The directory's internal port: host:port, or a gRPC name such as dns:///directory.internal:8444.",
        min_length=1,
    )
    mailboxes_url: MailboxesUrl = Field(
        description="URL of the Redis or Valkey that keeps the mailboxes, redis://host:port, or of a cluster, "
        "redis+cluster://name:password@host:port,host:port (rediss+cluster:// for TLS; some of the nodes are enough). "
        "Every node must have maxmemory-policy noeviction.",
        repr=False,
        json_schema_extra=OR_IN_FILE,
    )
    durability: Durability = Field(
        description="What holds when a sender is told that a message is stored. memory: nothing. process: it survives "
        "the server's process (appendonly yes). fsync: it is on the disk (appendfsync always). replicated: it is on "
        "the disks of the server and of a replica; nothing else survives a fail-over.",
        default=Durability.FSYNC,
    )
    replica_seconds: float = Field(
        description="How long a Send waits for the replica and its disk (durability replicated).",
        default=1.5,
        gt=0,
        le=60,
    )
    mailbox_messages: int = Field(description="How many envelopes a mailbox holds.", default=10_000, ge=1)
    mailbox_bytes: int = Field(
        description="How many bytes of envelopes a mailbox holds.", default=64 * 1024 * 1024, ge=256 * 1024
    )
    mailbox_sender_percent: int = Field(
        description="How much of a mailbox the envelopes of one sending user may take up, percent; the rest is left to "
        "others.",
        default=50,
        ge=1,
        le=100,
    )
    stream_start_seconds: float = Field(
        description="How long a device may take, once it has opened a stream, to say `start`.", default=5.0, gt=0, le=60
    )
    hook_url: Annotated[str, AfterValidator(check_https)] | None = Field(
        description="Where a push gateway is told, by an HTTPS POST, that something waits for a device that is not "
        "connected: its address and how much, nothing else. Without it nobody is told.",
        default=None,
    )
    hook_secret_file: FilePath | None = Field(
        description="File with the secret that signs these wake-ups (Standard Webhooks): whsec_ and 24 to 64 random "
        "bytes in base64. Several, one a line, while one replaces another.",
        default=None,
    )
    hook_tls_roots: FilePath | None = Field(
        description="PEM file: the roots of the gateway's TLS certificate. Without it, the operating system's.",
        default=None,
    )
    hook_interval_seconds: float = Field(
        description="After a device was woken by the gateway, it is left alone for so long.",
        default=60,
        ge=0,
        le=86_400,
    )
    hook_seconds: float = Field(description="How long the gateway may take to answer.", default=5.0, gt=0, le=60)
    cached_users: int = Field(description="How many users' records are kept in memory.", default=10_000, ge=1)

    @model_validator(mode="after")
    def _share_holds_an_envelope(self) -> Self:
        if self.mailbox_bytes * self.mailbox_sender_percent < MOST_ENVELOPE_BYTES * 100:
            variable = variable_of(type(self), "mailbox_sender_percent")
            raise ValueError(
                f"{variable}: so much of a mailbox does not hold an envelope of {MOST_ENVELOPE_BYTES} bytes"
            )
        return self

    @model_validator(mode="after")
    def _hook_is_signed(self) -> Self:
        if bool(self.hook_url) is not bool(self.hook_secret_file):
            names = [variable_of(type(self), name) for name in ("hook_url", "hook_secret_file")]
            raise ValueError(f"{' and '.join(names)} go together")
        return self

    @model_validator(mode="after")
    def _calls_the_directory(self) -> Self:
        self.require_internal_tls()
        return self
