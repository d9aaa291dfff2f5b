"""From a profile to a client at work: its parts, put together, and what a crash interrupted, finished."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from keypost.client.key_requests import warn_if_weak
from keypost.client.profiles import keep_bundle, open_profile, read_bundle
from keypost.client.store_worker import open_worker
from keypost.client.wiring import wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from keypost.client.context import Context
    from keypost.client.store_worker import StoreWorker
    from keypost.client.wiring import Parts
    from keypost.keys.v1 import realm_trust_pb2
    from keypost.keystore.unlock import Unlock
    from keypost.protocol.realm_trust import RealmTrust
    from keypost.transport.retries import Retries


async def open_parts(
    folder: Path,
    unlock: Unlock,
    bundle: Path | realm_trust_pb2.Bundle | None,
    retries: Retries,
    context_of: Callable[[str, StoreWorker], Context],
) -> Parts:
    """Open a profile, or make it on first use, and return the parts of its client; nothing connects yet.

    Args:
        folder: The folder of the profile.
        unlock: What unlocks (or is to unlock) its key store.
        bundle: The bundle to start from, if one is given.
        retries: Deadlines and retries.
        context_of: Returns what all parts share, for the realm and the key store of the profile.

    Raises:
        KeyStoreError: the profile cannot be opened or made.
        InvalidArgumentError: the bundle is none, or of another realm.
    """
    given = None if bundle is None else await asyncio.to_thread(read_bundle, bundle)
    worker, bundles = await open_worker(lambda: open_profile(folder, unlock, given))
    try:
        return wire(context_of(bundles.current.realm, worker), bundles, retries)
    except BaseException:
        await worker.close()
        raise


async def start(parts: Parts) -> None:
    """Verify the realm's trust, and finish what a crash interrupted.

    Raises:
        InvalidArgumentError: the bundle names root keys that the realm's trust does not explain.
        UnreachableError: no service can be reached, and no trust statement is held that may be relied upon.
        ProtocolError: the realm's trust does not verify.
    """
    await parts.identity.reload()
    await _check_bundle(parts, await parts.trust.current())
    warn_if_weak(parts.context, parts.context.minimum_suite)
    await parts.enrolling.resume()
    await parts.renewing.resume()
    await parts.restoring.start()
    await prune(parts)
    if parts.restoring.is_ready:
        parts.sending.begin_flush()


async def prune(parts: Parts) -> None:
    """Erase what is older than the age limit: nothing that old is opened any more."""
    before = parts.context.clock() - parts.trust.held.constants.age_limit
    await parts.context.store.run(lambda store: store.prune(before))


async def _check_bundle(parts: Parts, trust: RealmTrust) -> None:
    bundles = parts.bundles
    bundles.check_explained(trust)
    if bundles.unexplained:
        await parts.context.store.run(lambda store: keep_bundle(store, bundles.current))
