"""The calls of a client about its user's devices."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING

from keypost.client.arguments import check_code, check_id_token, check_suite, read_reason
from keypost.client.base import ClientBase
from keypost.client.device_names import check_name, read_names, write_name
from keypost.client.results import Devices
from keypost.errors import InvalidArgumentError
from keypost.protocol.identifiers import check_device_id, check_username
from keypost.protocol.suites import STRONG, Suite

if TYPE_CHECKING:
    from keypost.client.results import JoinRequest, RevocationReason
    from keypost.protocol.identifiers import Address
    from keypost.protocol.invitations import Invitation
    from keypost.protocol.key_info import Key, KeyRecord
    from keypost.protocol.key_requests import KeyRequest


class DeviceCalls(ClientBase):
    """Further devices, their names and their end; the identity reset."""

    async def invite(self) -> Invitation:
        """Invite a further device of this user, for ten minutes: hand its ``text`` to that device.

        Whoever gets the text can ask, no more: ``approve`` decides. Another change of this user's keys ends it.

        Returns:
            The invitation; nothing is recorded yet.

        Raises:
            NotEnrolledError: this profile has no key yet.
            EndorsementError: this device's key is of the weak suite.
            RefusedError: the CA refused.
            UnreachableError: no answer.
        """
        async with self._working():
            await self._renew_if_due()
            return await self._parts.approving.invite()

    async def join(self, invitation: str, suite: Suite = STRONG) -> JoinRequest:
        """Ask to become a further device of the user who invites: generate a key pair, and sign a request.

        Hand the request's ``text`` to the device that invited, which passes it to ``approve``; meanwhile await
        ``joined``. The same invitation again gives the same request, after a restart too.

        Args:
            invitation: The text of the invitation.
            suite: The suite of the key.

        Returns:
            What the other device is to approve.

        Raises:
            InvalidArgumentError: the text is no invitation as it was handed out, or of another realm; or this profile
                is a device already.
            InvitationExpiredError: it is older than ten minutes.
            DeviceKeyStolenError: this profile was approved before, and somebody has renewed its key: it stops for good.
            KeyRevokedError: it was approved before, and revoked since.
            SuiteRefusedError: the suite is below the minimum or not allowed in the realm.
        """
        async with self._working(copy_too=True):
            check_suite(suite)
            return await self._parts.joining.join(invitation, suite)

    async def joined(self) -> Address:
        """Wait until the other device has approved, and return the address of this device.

        It may be cancelled and called again, after a restart too. Before the device sends anything, people should
        compare safety numbers on both devices.

        Raises:
            NotEnrolledError: ``join`` was not called.
            IdentityChangedError: the user's keys do not descend from the root that the invitation names.
            InvitationExpiredError: nobody approved in time.
            DeviceKeyStolenError: it was approved, and somebody has renewed its key: it stops for good.
            KeyRevokedError: it was approved, and revoked since.
            RefusedError: the directory refused; or the time is over, and the CA could not say what became of the key.
            UnreachableError: the time is over, and the CA is not there to say what became of the key.
        """
        for number in count():
            async with self._working(copy_too=True):
                is_new = self._parts.identity.ring.current is None
                if (address := await self._parts.joining.finish()) is not None:
                    await self._parts.restoring.take_over()
                    if is_new:
                        await self._parts.elsewhere.tell()
                    return address
            await asyncio.sleep(self._parts.retries.backoff.delay(number))
        raise AssertionError

    async def read_request(self, request: str) -> KeyRequest:
        """Return what ``approve`` would vouch for: to be shown to a person first.

        Raises:
            KeypostError: as ``approve``.
        """
        async with self._working():
            return await self._parts.approving.read(request)

    async def approve(self, request: str) -> Key:
        """Vouch for a further device of this user: from now on it is one.

        It may be called again after a failure: what is approved already stays so.

        Args:
            request: The text that ``join`` gave on the other device.

        Returns:
            The key of that device, as the record shows it.

        Raises:
            InvalidArgumentError: the text is no request as it was shown.
            EndorsementError: this device may not vouch for it: it does not answer an invitation of this device's
                current key, is for another user, realm or an existing device, or the user's keys changed meanwhile.
            PossessionError: it is not signed by the key that it presents.
            SuiteRefusedError: its suite is below the minimum or not allowed in the realm.
            RefusedError: the CA refused: NONCE_EXPIRED or REVISION_TAKEN (invite anew), TOO_MANY_DEVICES and others.
            UnreachableError: no answer; call it again.
        """
        async with self._working():
            return await self._parts.approving.approve(request)

    async def devices(self) -> Devices:
        """Return the verified record of the own user's keys, with the private names of the devices.

        Raises:
            NotEnrolledError: this profile has no key yet.
            KeypostError: as ``keys``.
        """
        async with self._working():
            me = self._parts.identity.address
            record = await self._parts.records.get(me.username, refresh=True)
            return Devices.of(record, me, await self._parts.context.store.run(read_names))

    async def name_device(self, device_id: str, name: str | None) -> None:
        """Give a device of this user a private name: it stays in this profile, no server or other device sees it.

        Args:
            device_id: The device.
            name: 1 to 64 characters, unlike the other names; None takes the name away.

        Raises:
            InvalidArgumentError: there is no such device, or this is no name.
            NotEnrolledError: this profile has no key yet.
        """
        async with self._working():
            check_device_id(device_id)
            name = None if name is None else check_name(name)
            record = await self._parts.records.get(self._parts.identity.address.username)
            known = frozenset(key.address.device_id for key in record.keys)
            if device_id not in known:
                raise InvalidArgumentError(f"{record.username} has no device {device_id}", field="device_id")
            await self._parts.context.store.transact(write_name, device_id, name, known)

    async def revoke(self, device_id: str, reason: RevocationReason | str, *, since: int | None = None) -> KeyRecord:
        """Withdraw the key of a device of this user for good; it may be this one.

        With ``COMPROMISED`` nothing that the key signed is trusted any more, and devices that it approved after
        ``since`` are withdrawn too.

        Args:
            device_id: The device.
            reason: ``RETIRED``, ``LOST`` or ``COMPROMISED``, or the word in small letters.
            since: For a compromised key, since when it may have been in other hands, Unix milliseconds; None: now.

        Returns:
            The record that shows it.

        Raises:
            InvalidArgumentError: there is no such device, or an argument cannot be right.
            KeyRevokedError: this device is revoked itself.
            RefusedError: the CA refused: KEY_ENDED and others.
            UnreachableError: no answer; call it again.
        """
        async with self._working():
            return await self._parts.revoking.revoke(device_id, read_reason(reason), since)

    async def request_reset(self, username: str, *, code: str | None = None, id_token: str | None = None) -> int:
        """Ask for a new identity of a user whose devices are all out of reach; all of them are told.

        From the time that is returned on (a day later, unless the realm says otherwise), and unless one of them
        cancels it, ``enroll`` makes this profile the user's only device. Peers see a changed identity then.

        Args:
            username: The user.
            code: As in ``enroll``; it is not used up.
            id_token: As in ``enroll``, but with any nonce.

        Returns:
            From when on ``enroll`` may be called, Unix milliseconds.

        Raises:
            RefusedError: the CA refused: SIGN_IN_REFUSED, RESET_NOT_NEEDED (no device is good: enroll) and others.
            UnreachableError: no answer; call it again.
        """
        async with self._working(copy_too=True):
            check_username(username)
            check_code(code)
            check_id_token(id_token, code)
            return await self._parts.enrolling.request_reset(username, code, id_token)

    async def cancel_reset(self) -> KeyRecord:
        """Stop an identity reset of this user that somebody asked for; none is no error.

        Returns:
            The record without the announcement.

        Raises:
            KeyRevokedError: this device is revoked.
            RefusedError: the CA refused.
            UnreachableError: no answer; call it again.
        """
        async with self._working():
            return await self._parts.revoking.cancel_reset()
