"""Wires the CA together: the one place that knows all its parts."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from keypost.ca.v1.ca_service_pb2_grpc import add_CertificateAuthorityServiceServicer_to_server
from keypost.ca.v1.key_info_service_pb2_grpc import add_KeyInfoServiceServicer_to_server
from keypost.clock import DAY
from keypost.protocol.encoding import int_bytes
from keypost.protocol.suites import WEAK
from keypost_services.ca.approval import Approval
from keypost_services.ca.authority import Authority
from keypost_services.ca.codes import realm_hash
from keypost_services.ca.database import open_store
from keypost_services.ca.decoys import Decoys
from keypost_services.ca.enrollment import Enrollment
from keypost_services.ca.events import EventFeed
from keypost_services.ca.key_quality import KeyQuality, load_blocked_keys
from keypost_services.ca.nonces import SECRET_BYTES, Nonces
from keypost_services.ca.policy import Policy
from keypost_services.ca.realm_files import RealmFilesError, RealmFolder, load_record_signer, load_trust
from keypost_services.ca.records import Records
from keypost_services.ca.renewal import Renewal
from keypost_services.ca.reset import Resets
from keypost_services.ca.revocation import Revocations
from keypost_services.ca.servicer import CertificateAuthorityServicer, KeyInfoServicer
from keypost_services.ca.sign_in import CodeSignIn, OpenSignIn
from keypost_services.runtime.errors import StartError
from keypost_services.runtime.serving import Parts, Runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from structlog.typing import FilteringBoundLogger

    from keypost.protocol.realm_trust import RealmTrust
    from keypost.protocol.signing import Signer
    from keypost.protocol.steps import Observer, Step
    from keypost_services.ca.settings import CaSettings
    from keypost_services.ca.sign_in import SignIn
    from keypost_services.ca.store import Store

CA_SERVICE = "keypost.ca.v1.CertificateAuthorityService"
KEY_INFO_SERVICE = "keypost.ca.v1.KeyInfoService"
NONCE_SECRET = "nonces"  # noqa: S105  # the name of the secret
BEGINNING = "beginning"
_WARN_BEFORE_END = 30 * DAY


@asynccontextmanager
async def compose(runtime: Runtime[CaSettings]) -> AsyncIterator[Parts]:
    """Open the CA's files and database, and yield what the server is to serve.

    Raises:
        StartError: A file is missing or wrong, or another CA process uses the database.
    """
    settings = runtime.settings
    trust, signer = await asyncio.to_thread(_load_realm, settings, runtime.clock())
    _warn(settings, trust, runtime)
    async with open_store(settings.database) as store:
        yield await _build(runtime, store, trust, signer)


def _load_realm(settings: CaSettings, now: int) -> tuple[RealmTrust, Signer]:
    folder = RealmFolder(settings.realm_folder)
    try:
        trust = load_trust(folder, now)
        signer = load_record_signer(settings.record_key or folder.record_key, trust, now)
    except RealmFilesError as error:
        raise StartError(str(error)) from error
    if trust.realm != settings.realm:
        raise StartError(f"KEYPOST_CA_REALM: {folder.realm_trust} is of {trust.realm}, not of {settings.realm}")
    return trust, signer


def _warn(settings: CaSettings, trust: RealmTrust, runtime: Runtime[CaSettings]) -> None:
    if settings.sign_in == "open":
        runtime.log.warning(
            "open_sign_in", why="anybody can enrol as anybody: for development alone, never where it matters"
        )
    until = min(trust.until_time, *(key.until_time for key in trust.record_keys))
    if until < runtime.clock() + _WARN_BEFORE_END:
        runtime.log.warning("realm_trust_ends_soon", until_time=until)
    if WEAK.id in trust.constants.allowed_suites:
        runtime.log.warning("weak_suite_allowed", suite=WEAK.name, why="broken in practice: for conformance alone")


async def _build(runtime: Runtime[CaSettings], store: Store, trust: RealmTrust, signer: Signer) -> Parts:
    try:
        policy = Policy(trust.constants, runtime.settings.key_lifetime)
    except ValueError as error:
        raise StartError(f"KEYPOST_CA_KEY_LIFETIME_DAYS: {error}") from error
    secret = await store.keep_secret(NONCE_SECRET, os.urandom(SECRET_BYTES))
    nonces = Nonces(secret, os.urandom)
    beginning = int.from_bytes(await store.keep_secret(BEGINNING, int_bytes(runtime.clock())), "big")
    decoys = Decoys(secret, beginning, policy.key_lifetime * 2 // 3)
    records = Records(store, signer, trust, policy, runtime.clock)
    feed = EventFeed(store)
    quality = KeyQuality(await asyncio.to_thread(load_blocked_keys, runtime.settings.blocked_keys))
    authority = Authority(store, nonces, policy, quality, records, feed, runtime.clock)
    sign_in = _sign_in(runtime, store, trust)
    servicer = CertificateAuthorityServicer(
        trust,
        Enrollment(authority, sign_in, os.urandom),
        Renewal(authority, _log_steps(runtime.log), decoys.next_revision),
        Approval(authority, decoys.next_revision, os.urandom),
        Revocations(authority),
        Resets(authority, sign_in, runtime.settings.reset_delay),
    )
    return Parts(
        services=[
            (CA_SERVICE, add_CertificateAuthorityServiceServicer_to_server, servicer),
            (KEY_INFO_SERVICE, add_KeyInfoServiceServicer_to_server, KeyInfoServicer(records, feed)),
        ],
        device_keys=None,
    )


def _sign_in(runtime: Runtime[CaSettings], store: Store, trust: RealmTrust) -> SignIn:
    if runtime.settings.sign_in == "open":
        return OpenSignIn()
    return CodeSignIn(store, realm_hash(trust.realm, trust.root_keys), runtime.clock)


def _log_steps(log: FilteringBoundLogger) -> Observer:
    """Return an observer that logs the CA's steps of renewals."""

    def observe(step: Step) -> None:
        log.info("step", list=step.list, step=step.step, title=step.title, actor=step.actor, **step.facts)

    return observe
