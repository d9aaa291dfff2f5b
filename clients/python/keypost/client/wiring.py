"""Puts a client's parts together; the only place that knows them all."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keypost.client.approving import Approving
from keypost.client.backing_up import BackingUp
from keypost.client.elsewhere import Elsewhere
from keypost.client.enrolling import Enrolling
from keypost.client.files import Files
from keypost.client.first_key import FirstKey
from keypost.client.handing_out import HandingOut
from keypost.client.identities import Identities
from keypost.client.identity import Identity, PairSigner
from keypost.client.joining import Joining
from keypost.client.pump import Pump
from keypost.client.receiving import Receiving
from keypost.client.records import Records
from keypost.client.renewing import Renewing
from keypost.client.restoring import Restoring
from keypost.client.retiring import Retiring
from keypost.client.revoking import Revoking
from keypost.client.sending import Sending
from keypost.client.trusting import Trust
from keypost.client.waiting import Waiting
from keypost.errors import KeypostError
from keypost.transport.ca_client import CaClient
from keypost.transport.channels import open_channel
from keypost.transport.delivery_client import DeliveryClient
from keypost.transport.directory_client import DirectoryClient
from keypost.transport.tokens import TokenSource

if TYPE_CHECKING:
    import grpc.aio

    from keypost.client.context import Context
    from keypost.client.profiles import Bundles
    from keypost.transport.retries import Retries


@dataclass(frozen=True)
class Parts:
    """The parts of a client."""

    context: Context
    identity: Identity
    trust: Trust
    records: Records
    identities: Identities
    enrolling: Enrolling
    joining: Joining
    approving: Approving
    revoking: Revoking
    renewing: Renewing
    backing_up: BackingUp
    restoring: Restoring
    sending: Sending
    files: Files
    receiving: Receiving
    waiting: Waiting
    retiring: Retiring
    handing_out: HandingOut
    elsewhere: Elsewhere
    delivery: DeliveryClient
    retries: Retries
    tokens: tuple[TokenSource, ...]
    channels: tuple[grpc.aio.Channel, ...]
    bundles: Bundles
    newer: asyncio.Event
    """Set when a newer record was kept: what waits may be opened now."""

    def pump(self, *, follow: bool) -> Pump:
        """Return what keeps a stream open."""
        return Pump(
            self.context,
            self.delivery,
            self.receiving,
            self.waiting,
            self.retiring,
            self.retries.backoff,
            follow=follow,
        )

    async def close(self) -> None:
        """Drop keys and tokens, then close channels and store; nothing that fails keeps another from it."""
        with suppress(KeypostError):
            await self.sending.close()
        self.identity.forget()
        for tokens in self.tokens:
            tokens.forget()
        try:
            await asyncio.gather(*(channel.close() for channel in self.channels), return_exceptions=True)
        finally:
            await self.context.store.close()


def wire(context: Context, bundles: Bundles, retries: Retries) -> Parts:
    """Return the parts of a client; nothing connects yet."""
    bundle = bundles.current
    identity, newer = Identity(context.store), asyncio.Event()
    tokens = TokenSource(context.realm, lambda: PairSigner(identity.current), context.clock)
    targets = bundle.endpoints.ca, bundle.endpoints.directory, bundle.endpoints.delivery
    channels = tuple(open_channel(target, bundle.tls_roots_pem) for target in targets)
    traces = context.traces
    ca = CaClient(channels[0], retries, endpoint=targets[0], traces=traces)
    directory = DirectoryClient(channels[1], retries, tokens, endpoint=targets[1], traces=traces)
    trust = Trust(context, bundles.root_keys, [directory.get_realm_trust, ca.get_realm_trust])
    # Whoever asks as the pending key may come to it when another has made that the current one.
    pending_tokens = TokenSource(
        context.realm, lambda: PairSigner(identity.ring.pending or identity.current), context.clock
    )
    pending_directory = DirectoryClient(channels[1], retries, pending_tokens, endpoint=targets[1], traces=traces)

    async def settle() -> None:
        await renewing.settle()

    records = Records(context, identity, trust, directory, pending_directory, newer.set, settle=settle)
    backing_up = BackingUp(context)
    renewing = Renewing(context, identity, ca, records, trust, backing_up)
    delivery = DeliveryClient(channels[2], retries, tokens, endpoint=targets[2], on_refused=settle, traces=traces)
    receiving = Receiving(context, identity, trust, records)
    first_key = FirstKey(context, identity, ca, records)
    enrolling = Enrolling(context, identity, ca, records, trust, first_key)
    sending = Sending(context, identity, trust, records, delivery, retries, settle=settle)
    return Parts(
        context=context,
        identity=identity,
        trust=trust,
        records=records,
        identities=Identities(context, identity, records),
        enrolling=enrolling,
        joining=Joining(context, identity, records, enrolling, first_key),
        approving=Approving(context, identity, ca, records, trust),
        revoking=Revoking(context, identity, ca, records),
        renewing=renewing,
        backing_up=backing_up,
        restoring=Restoring(context, identity, records, renewing),
        sending=sending,
        files=Files(context, sending),
        receiving=receiving,
        waiting=Waiting(context, receiving),
        retiring=Retiring(context, identity, trust, records),
        handing_out=HandingOut(context),
        elsewhere=Elsewhere(context, identity, records, delivery),
        delivery=delivery,
        retries=retries,
        tokens=(tokens, pending_tokens),
        channels=channels,
        bundles=bundles,
        newer=newer,
    )
