"""Wires the CA together: the one place that knows all its parts."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

from grpc import StatusCode

from keypost.ca.v1.administration_service_pb2_grpc import add_AdministrationServiceServicer_to_server
from keypost.ca.v1.ca_service_pb2_grpc import add_CertificateAuthorityServiceServicer_to_server
from keypost.ca.v1.key_info_service_pb2_grpc import add_KeyInfoServiceServicer_to_server
from keypost.errors import KeypostError
from keypost.protocol.encoding import int_bytes
from keypost.protocol.suites import WEAK
from keypost_services.ca.administration.administration import Administration
from keypost_services.ca.administration.servicer import AdministrationServicer
from keypost_services.ca.approval import Approval
from keypost_services.ca.authority import Authority
from keypost_services.ca.codes import realm_hash
from keypost_services.ca.database import open_store
from keypost_services.ca.decoys import Decoys
from keypost_services.ca.engine import database_file
from keypost_services.ca.enrollment import Enrollment
from keypost_services.ca.events import EventFeed
from keypost_services.ca.key_quality import KeyQuality, load_blocked_keys
from keypost_services.ca.measuring import PART as MEASURING
from keypost_services.ca.measuring import Measuring
from keypost_services.ca.metrics import Metrics
from keypost_services.ca.nonces import SECRET_BYTES, Nonces
from keypost_services.ca.policy import Policy
from keypost_services.ca.records import Records
from keypost_services.ca.renewal import Renewal
from keypost_services.ca.reset import Resets
from keypost_services.ca.revocation import Revocations
from keypost_services.ca.servicer import CertificateAuthorityServicer, KeyInfoServicer
from keypost_services.ca.sign_in.admission import Admission
from keypost_services.ca.sign_in.compose import sign_ins
from keypost_services.ca.sign_in.guarded import guarded
from keypost_services.ca.sign_in.port import Kind
from keypost_services.ca.store import StoreAwayError
from keypost_services.ca.trust.realm import ServedRealm
from keypost_services.ca.trust.realm_files import RealmFilesError
from keypost_services.ca.trust.realm_source import RealmSource
from keypost_services.ca.trust.realm_watch import PART, RealmWatch
from keypost_services.ca.trust.trust_log import TrustLog, this_machine
from keypost_services.runtime.background import keep_running
from keypost_services.runtime.errors import StartError
from keypost_services.runtime.serving import Parts, Runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from structlog.typing import FilteringBoundLogger

    from keypost.protocol.realm_trust import RealmTrust
    from keypost.protocol.steps import Observer, Step
    from keypost_services.ca.settings import CaSettings
    from keypost_services.ca.store import Store
    from keypost_services.ca.trust.realm import Realm

CA_SERVICE = "keypost.ca.v1.CertificateAuthorityService"
KEY_INFO_SERVICE = "keypost.ca.v1.KeyInfoService"
ADMINISTRATION_SERVICE = "keypost.ca.v1.AdministrationService"
NONCE_SECRET = "nonces"  # noqa: S105  # the name of the secret
BEGINNING = "beginning"
DATABASE = "database"
"""The name of that part in the health."""


@asynccontextmanager
async def compose(runtime: Runtime[CaSettings]) -> AsyncIterator[Parts]:
    """Open the CA's files and database, and yield what the server is to serve.

    Raises:
        StartError: A file is missing or wrong, or another CA process uses the database.
    """
    settings = runtime.settings
    files = RealmSource(settings, runtime.clock)
    realm = await asyncio.to_thread(_load_realm, files, settings.realm, runtime.clock())
    _warn(settings, realm.trust, runtime)
    async with AsyncExitStack() as stack:
        metrics = Metrics(runtime.metrics)
        runtime.health.expect(PART, DATABASE)
        store = await stack.enter_async_context(
            open_store(settings.database, settings.database_connections, metrics=metrics)
        )
        trust_log = TrustLog(store, runtime.clock, runtime.log, this_machine())
        feed = EventFeed(store)
        served, policy = ServedRealm(realm), _policy(settings, realm.trust)
        watch = RealmWatch(
            files.load,
            files.state,
            trust_log.enter,
            trust_log.find_contradicting,
            served,
            policy,
            runtime.clock,
            runtime.log,
            runtime.health,
            metrics,
            runtime.health_metrics,
        )
        with suppress(StoreAwayError):  # the watch tries again
            await trust_log.enter(realm.trust)
            await watch.compare()
        keep_running(stack, runtime, PART, lambda: watch.run(settings.realm_poll_seconds))
        parts = await _build(runtime, store, feed, served, policy, realm.first_root_keys)
        _listen(stack, runtime, feed)
        _measure(stack, runtime, store, metrics)
        yield parts


def _listen(stack: AsyncExitStack, runtime: Runtime[CaSettings], feed: EventFeed) -> None:
    """Hear of what other processes change, where there can be others."""
    if database_file(runtime.settings.database) is not None:
        return
    from keypost_services.ca.database_watch import DatabaseWatch  # noqa: PLC0415  # its driver is an extra

    def on_change(why: str | None) -> None:
        runtime.health.set_degraded(DATABASE, why, blocks=True)

    watch = DatabaseWatch(runtime.settings.database, feed.announce, on_change, random.SystemRandom().random)
    keep_running(stack, runtime, DATABASE, watch.run)


def _measure(stack: AsyncExitStack, runtime: Runtime[CaSettings], store: Store, metrics: Metrics) -> None:
    """Count now and then; where nobody listens to the database, that tells whether it is there."""

    def on_change(why: str | None) -> None:
        if database_file(runtime.settings.database) is not None:
            runtime.health.set_degraded(DATABASE, why, blocks=True)

    keep_running(stack, runtime, MEASURING, Measuring(store, runtime.clock, metrics, on_change).run)


def _load_realm(files: RealmSource, name: str, now: int) -> Realm:
    try:
        realm = files.load()
        realm.active(now)
    except (RealmFilesError, KeypostError) as error:
        raise StartError(str(error)) from error
    if realm.trust.realm != name:
        raise StartError(f"KEYPOST_CA_REALM: {files.folder.realm_trust} is of {realm.trust.realm}, not of {name}")
    return realm


def _policy(settings: CaSettings, trust: RealmTrust) -> Policy:
    try:
        return Policy(trust.constants, settings.key_lifetime)
    except ValueError as error:
        raise StartError(f"KEYPOST_CA_KEY_LIFETIME_DAYS: {error}") from error


def _warn(settings: CaSettings, trust: RealmTrust, runtime: Runtime[CaSettings]) -> None:
    if Kind.OPEN in settings.sign_in:
        runtime.log.warning(
            "open_sign_in", why="anybody can enrol as anybody: for development alone, never where it matters"
        )
    if WEAK.id in trust.constants.allowed_suites:
        runtime.log.warning("weak_suite_allowed", suite=WEAK.name, why="broken in practice: for conformance alone")


async def _build(
    runtime: Runtime[CaSettings],
    store: Store,
    feed: EventFeed,
    realm: ServedRealm,
    policy: Policy,
    root_keys: Sequence[bytes],
) -> Parts:
    secret, beginning = await _shared_secrets(store, runtime.clock())
    nonces = Nonces(secret, os.urandom)
    decoys = Decoys(secret, beginning, policy.key_lifetime * 2 // 3)
    records = Records(store, realm, policy, runtime.clock)
    quality = KeyQuality(await asyncio.to_thread(load_blocked_keys, runtime.settings.blocked_keys))
    authority = Authority(store, nonces, policy, quality, records, feed, runtime.clock, runtime.log)
    # Codes are bound to the root keys that the realm began with, which no roll-over changes.
    binding = realm_hash(realm.name, root_keys)
    kinds = guarded(sign_ins(runtime.settings, store, binding, runtime.clock), runtime.limits)
    admission = Admission(kinds, runtime.log)
    revocations, resets = Revocations(authority), Resets(authority, admission, runtime.settings.reset_delay)
    servicer = CertificateAuthorityServicer(
        realm,
        Enrollment(authority, admission, os.urandom),
        Renewal(authority, _log_steps(runtime.log), decoys.next_revision),
        Approval(authority, decoys.next_revision, os.urandom),
        revocations,
        resets,
    )
    administration = Administration(authority, revocations, resets, binding, os.urandom)
    return Parts(
        services=[
            (CA_SERVICE, add_CertificateAuthorityServiceServicer_to_server, servicer),
            (KEY_INFO_SERVICE, add_KeyInfoServiceServicer_to_server, KeyInfoServicer(records, feed)),
            (
                ADMINISTRATION_SERVICE,
                add_AdministrationServiceServicer_to_server,
                AdministrationServicer(administration, realm.name),
            ),
        ],
        device_keys=None,
        error_codes={StoreAwayError: StatusCode.UNAVAILABLE},
    )


async def _shared_secrets(store: Store, now: int) -> tuple[bytes, int]:
    """Return the secret of the nonces, and when the first process began (Unix milliseconds): the same for all."""
    try:
        secret = await store.keep_secret(NONCE_SECRET, os.urandom(SECRET_BYTES))
        beginning = await store.keep_secret(BEGINNING, int_bytes(now))
    except StoreAwayError as error:
        raise StartError(str(error)) from error
    return secret, int.from_bytes(beginning, "big")


def _log_steps(log: FilteringBoundLogger) -> Observer:
    """Return an observer that logs the CA's steps of renewals."""

    def observe(step: Step) -> None:
        log.info("step", list=step.list, step=step.step, title=step.title, actor=step.actor, **step.facts)

    return observe
