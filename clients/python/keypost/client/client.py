"""The client: what an application holds in its hands."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Self

from keypost.client.arguments import (
    check_code,
    check_id_token,
    check_identity_change,
    check_limit,
    check_received,
    check_suite,
    check_unlock,
    read_message,
    read_path,
)
from keypost.client.backup_calls import BackupCalls
from keypost.client.context import Context
from keypost.client.device_calls import DeviceCalls
from keypost.client.file_calls import FileCalls
from keypost.client.identity_calls import IdentityCalls
from keypost.client.outbox_calls import OutboxCalls
from keypost.client.restoring import stale
from keypost.client.sign_in_calls import SignInCalls
from keypost.client.starting import open_parts, prune, start
from keypost.clock import system_clock
from keypost.delivery.v1 import envelope_pb2
from keypost.errors import InvalidArgumentError, KeypostError
from keypost.protocol.errors import DeviceKeyStolenError, IdentityChangedError, KeyRevokedError
from keypost.protocol.identifiers import check_username
from keypost.protocol.suites import STRONG, Suite
from keypost.tracing import Traces
from keypost.transport.channels import check_not_forked
from keypost.transport.retries import Retries

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path
    from types import TracebackType

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from opentelemetry.trace import TracerProvider

    from keypost.client.context import IdentityChange
    from keypost.client.pump import Pump
    from keypost.client.results import OnEvent, Received, Sent, SetAside, WaitingElsewhere
    from keypost.client.store_worker import StoreWorker
    from keypost.client.wiring import Parts
    from keypost.clock import Clock
    from keypost.keys.v1 import realm_trust_pb2
    from keypost.keystore.unlock import Unlock
    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import Key, KeyRecord
    from keypost.protocol.steps import Observer

HOUSEKEEPING = 60.0
"""Seconds between looks at what waits and whether a renewal is due, while receiving."""
DRAIN = 5.0
"""Seconds that closing waits for calls under way."""


def _generate(suite: Suite) -> RSAPrivateKey:
    return suite.generate_private_key()


class Client(BackupCalls, DeviceCalls, FileCalls, IdentityCalls, OutboxCalls, SignInCalls):
    """Sends and receives end-to-end encrypted messages for one device of a user.

    Open one with ``Client.open``; use it as an async context manager. One client at a time uses a profile. It does not
    survive a fork: open one in each process, the first one after forking.
    """

    @classmethod
    async def open(  # noqa: PLR0913  # all but two have a default
        cls,
        profile: Path,
        *,
        unlock: Unlock,
        bundle: Path | realm_trust_pb2.Bundle | None = None,
        observer: Observer | None = None,
        on_event: OnEvent | None = None,
        clock: Clock = system_clock,
        minimum_suite: Suite = STRONG,
        on_identity_change: IdentityChange = "block",
        automatic_renewal: bool = True,
        retries: Retries | None = None,
        generate: Callable[[Suite], RSAPrivateKey] = _generate,
        tracer_provider: TracerProvider | None = None,
    ) -> Self:
        """Open a profile, or make it on first use, and finish what a crash interrupted.

        Args:
            profile: The folder of the profile.
            unlock: What unlocks (or is to unlock) its key store.
            bundle: The bundle to start from; needed the first time, later only to change endpoints.
            observer: Sees each step of the source document as it happens.
            on_event: Hears what no call returns: messages that wait or were set aside, suspicions, warnings.
            clock: The time.
            minimum_suite: Every key that takes part must reach it.
            on_identity_change: What to do when a peer who was not verified has another identity: ``block`` until the
                application accepts it, or ``warn``, which takes it over and tells it as an event of kind ``error``.
                ``warn`` stops nobody who can make the CA sign another identity.
            automatic_renewal: Renew the key by itself at two thirds of its lifetime.
            retries: Deadlines and retries.
            generate: Makes private keys.
            tracer_provider: Where OpenTelemetry's spans go; None: to the provider of the whole process, if the
                application has set one.

        Returns:
            The client, unlocked. The realm's trust is verified; the own key may not be enrolled yet.

        Raises:
            KeyStoreError: the profile cannot be opened or made.
            InvalidArgumentError: an argument cannot be right, such as a bundle that is none, or of another realm; or
                this process was forked from one that had a client.
            UnreachableError: no service can be reached, and no trust statement is held that may be relied upon.
            ProtocolError: the realm's trust does not verify.
        """
        check_not_forked()
        check_unlock(unlock)
        check_suite(minimum_suite, "minimum_suite")
        check_identity_change(on_identity_change)

        def context_of(realm: str, store: StoreWorker) -> Context:
            return Context(
                realm=realm,
                store=store,
                clock=clock,
                minimum_suite=minimum_suite,
                observer=observer,
                on_event=on_event,
                generate=generate,
                random=os.urandom,
                on_identity_change=on_identity_change,
                traces=Traces(tracer_provider),
            )

        folder = read_path(profile, "profile")
        parts = await open_parts(folder, unlock, bundle, retries or Retries(), context_of)
        return await cls._started(parts, automatic_renewal=automatic_renewal)

    @classmethod
    async def _started(cls, parts: Parts, *, automatic_renewal: bool) -> Self:
        client = cls(parts, automatic_renewal=automatic_renewal)
        try:
            await start(parts)
        except BaseException:
            await client.close()
            raise
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def enroll(
        self, username: str, *, code: str | None = None, id_token: str | None = None, suite: Suite = STRONG
    ) -> Address:
        """Make this device one of ``username``: generate its key pair and publish the public key (step 1).

        It may be called again after a failure: the same key is asked for again. For a device that is enrolled for
        this user already it does nothing.

        Args:
            username: The user.
            code: The one-time code.
            id_token: An ID token of the realm's issuer, with the nonce that ``sign_in_nonce`` returns. Without it and
                without a code, the realm must have open sign-in.
            suite: The suite of the key.

        Returns:
            The address of this device.

        Raises:
            InvalidArgumentError: an argument cannot be right, or this profile is another user's.
            SuiteRefusedError: the suite is below the minimum or not allowed in the realm.
            DeviceKeyStolenError: the record shows a successor that is not this device's: it stops for good.
            KeyRevokedError: its key was recorded, and revoked before this device knew.
            RefusedError: the CA refused; SIGN_IN_REFUSED, APPROVAL_REQUIRED and others.
            UnreachableError: no answer.
        """
        async with self._working(copy_too=True):
            check_username(username)
            check_code(code)
            check_id_token(id_token, code)
            check_suite(suite)
            is_new = self._parts.identity.ring.current is None
            address = await self._parts.enrolling.enroll(username, code, id_token, suite)
            await self._parts.restoring.take_over()
            if is_new:
                await self._parts.elsewhere.tell()
            return address

    async def send(self, username: str, body: str | bytes, *, media_type: str | None = None) -> Sent:
        """Send a message to all devices of a user (steps 2 to 7), after all earlier ones to that user.

        Many calls at once go out together, in the order of the calls. The other devices of the own user get a copy
        each (``Received.copy_to``); what becomes of that is no part of the outcome.

        While a service is away it is tried again, for ``retries.patience`` seconds. When the outcome is still not known
        then, or may be another later (keys that changed on the way), the message stays in the outbox and goes out later
        by itself, before the next one to that user: do not send it again. An event of kind ``waiting`` with its
        ``message_id`` says so. So it is, without an event, when the call is cancelled.

        Args:
            username: The recipient.
            body: A text, or bytes; at most 224 KiB (send more as a file).
            media_type: What it is, in at most 255 characters; by default UTF-8 text or plain bytes.

        Returns:
            What became of it.

        Raises:
            NotEnrolledError: this profile has no key yet.
            InvalidArgumentError: an argument cannot be right, or the recipient is oneself; nothing was sent or stored.
            ProtocolError: a rule about keys is broken, such as IDENTITY_CHANGED: nothing was sent.
            RefusedError: a service refused, such as USER_NOT_FOUND or MAILBOX_FULL.
            UnreachableError: no answer.
        """
        async with self._working():
            check_username(username)
            message = read_message(body, media_type)
            return await self._parts.sending.send(username, envelope_pb2.Content(message=message))

    async def rotate(self, username: str) -> Sent:
        """Negotiate a new session key with a user now, and tell his devices by an empty message."""
        async with self._working():
            check_username(username)
            content = envelope_pb2.Content(key_update=envelope_pb2.KeyUpdate())
            return await self._parts.sending.send(username, content, new_session=True)

    async def receive(self, *, follow: bool = True) -> AsyncGenerator[Received]:
        """Yield messages: those in the local inbox, then what arrives (steps 8 to 14).

        A message counts as handled when the iterator is advanced past it, or by ``set_handled``; else it is handed
        out again later, marked ``redelivered``. After five times it is set aside. What cannot be opened does not end
        the iteration: it is reported to ``on_event``. Only what may be sealed to another copy of this device waits in
        the mailbox until its own record can be had.

        Args:
            follow: Go on for ever; otherwise end when the backlog is handed out.

        Raises:
            NotEnrolledError: this profile has no key yet.
            RefusedError: RECEIVER_DISPLACED (another receiver of this device took over) and others.
            UnreachableError: without ``follow``, delivery stays away.
            ProtocolError: this device can go on no longer, such as DEVICE_KEY_STOLEN.
        """
        self._check_open()
        if self._tasks:
            raise InvalidArgumentError("this client is receiving already: end the other iteration", field="receive")
        await self._parts.restoring.take_over()
        if self._parts.restoring.holds_history_alone:
            async for message in self._history():
                yield message
        _ = self._parts.identity.current
        await prune(self._parts)
        # What only fetches what waits, and ends, would never come to it otherwise.
        await self._renew_if_due()
        pump = self._parts.pump(follow=follow)
        pumping, housekeeping = asyncio.create_task(pump.run()), asyncio.create_task(self._keep_house(pump))
        pumping.add_done_callback(lambda task: pump.stop() if task.cancelled() else None)
        self._tasks = {pumping, housekeeping}
        try:
            async with self._parts.renewing.asking_whether_replaced():
                async for message in self._parts.handing_out.messages(pump, follow=follow):
                    yield message
                    self._check_open()
        finally:
            await self._stop_receiving()

    async def _history(self) -> AsyncGenerator[Received]:
        """Yield what a stale backup holds, then raise: nothing more comes before this profile enrols anew."""
        pump = self._parts.pump(follow=False)
        pump.failure = stale()
        async for message in self._parts.handing_out.messages(pump, follow=False):
            yield message
            self._check_open()

    async def set_handled(self, message: Received) -> None:
        """Say that a message is handled, without waiting for the iterator to be advanced past it."""
        async with self._working(copy_too=True):
            check_received(message)
            await self._parts.handing_out.set_handled(message)

    async def retry_set_aside(self) -> int:
        """Try what was set aside again, such as after the minimum suite was changed or the application was mended.

        What could not be opened is opened; what was handed out five times and never handled is handed out again, five
        times at most.

        Returns:
            How many messages it gave; ``receive`` hands them out.

        Raises:
            KeypostError: nobody could be asked.
        """
        async with self._working():
            count = await self._parts.handing_out.bring_back() + await self._parts.waiting.retry_set_aside()
            self._parts.newer.set()
            return count

    async def list_set_aside(self, *, limit: int = 1000) -> tuple[SetAside, ...]:
        """Return the messages that were set aside, those that could not be opened before those that never were handled.

        Args:
            limit: How many at most, the oldest first.
        """
        async with self._working(copy_too=True):
            check_limit(limit)
            unopened = await self._parts.waiting.list_set_aside(limit)
            return (*unopened, *await self._parts.handing_out.list_set_aside(limit - len(unopened)))

    async def renew(self) -> Key:
        """Replace this device's key by a new one (the eight steps); the old one is kept as long as it may be needed.

        Returns:
            The new key, as the record shows it.

        Raises:
            NotEnrolledError: this profile has no key yet.
            DeviceKeyStolenError: the record shows a successor that is not this device's: it stops for good.
            RefusedError: the CA refused.
            UnreachableError: no answer; call it again, the same new key is asked for.
        """
        async with self._working(copy_too=True):
            if (key := await self._parts.restoring.take_over()) is not None:
                return key
            await self._parts.restoring.check_ready()
            return await self._parts.renewing.renew()

    async def keys(self, username: str) -> KeyRecord:
        """Return the verified record of a user's keys, as the directory shows it now.

        Raises:
            ProtocolError: the record breaks a rule.
            RefusedError: USER_NOT_FOUND and others.
            UnreachableError: no answer.
        """
        async with self._working():
            check_username(username)
            return await self._parts.records.get(username, refresh=True)

    async def waiting_elsewhere(self) -> tuple[WaitingElsewhere, ...]:
        """Return for which other devices of this user messages wait, and how many: this device cannot read them.

        A message is sealed to the devices that its recipient has when it is sent. A device that came later learns here
        what waits for the others; an event MESSAGES_FOR_OTHER_DEVICES tells a new one by itself.

        Raises:
            NotEnrolledError: this profile has no key yet.
            ProtocolError: the own record breaks a rule.
            RefusedError: a service refused.
            UnreachableError: no answer.
        """
        async with self._working():
            return await self._parts.elsewhere.waiting()

    async def close(self) -> None:
        """End what runs, let calls under way finish, close the profile and drop the keys; again is no error.

        Every later call raises InvalidArgumentError, and so does an iteration that is advanced past a message: it comes
        again. One that waits for the next message ends. Whoever is cancelled while it closes leaves a client that goes
        on closing. How far the keys are gone: docs/secrets.md.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            await self._stop_receiving()
            async with asyncio.timeout(DRAIN):
                await self._idle.wait()
        except TimeoutError:
            pass
        finally:
            await self._parts.close()

    async def _keep_house(self, pump: Pump) -> None:
        """Retry what waits whenever a newer record is known, and now and then; renew when it is time."""
        parts = self._parts
        while True:
            parts.newer.clear()
            await self._check_self(pump)
            try:
                await self._renew_if_due()
                parts.sending.begin_flush()
                await parts.waiting.retry()
            except KeypostError as error:
                # The pump meets the same failure and decides; here it is only a matter of trying again.
                parts.context.tell("warning", error.reason, f"not now: {error}")
            pump.changed.set()
            try:
                async with asyncio.timeout(HOUSEKEEPING):
                    await parts.newer.wait()
            except TimeoutError:
                continue

    async def _check_self(self, pump: Pump) -> None:
        """Look at the own record as often as it ends: delivery may go on serving a device that has none any more."""
        try:
            await self._parts.retiring.check_self()
        except (KeyRevokedError, DeviceKeyStolenError, IdentityChangedError) as error:
            pump.fail(error)
        except KeypostError:
            # The pump meets the same failure and decides.
            return

    async def _stop_receiving(self) -> None:
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
