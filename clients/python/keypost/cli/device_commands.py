"""What the commands about the own user's devices do with an open client."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from keypost.cli.asking import confirm, read_pasted
from keypost.cli.commands import key_row, title_of
from keypost.cli.errors import UsageError
from keypost.cli.events import OWN_KEY
from keypost.protocol.suites import STRONG, suite_named

if TYPE_CHECKING:
    from keypost.cli.output import Output
    from keypost.cli.perform import Action
    from keypost.cli.sign_in import Proof
    from keypost.client import Client, Devices
    from keypost.protocol.identifiers import Address
    from keypost.protocol.key_info import KeyRecord

NO_NAME = "-"
COMPARED = 32
"""Digits of a fingerprint that people compare: of eight, whoever exchanges requests could have a key for each ready."""
GROUP = 4


def list_devices() -> Action:
    """Return the command that shows the devices of the own user."""

    async def action(client: Client, output: Output) -> None:
        devices = await client.devices()
        rows = [
            key_row(key) | {"this_device": devices.is_this_device(key), "name": devices.name_of(key) or NO_NAME}
            for key in devices.keys
        ]
        output.table("devices", title_of(devices), OWN_KEY, rows)

    return action


def invite() -> Action:
    """Return the command that invites a further device."""

    async def action(client: Client, output: Output) -> None:
        invitation = await client.invite()
        output.handover(
            "invited",
            f"On the new device, within ten minutes: keypost join INVITATION. This is the invitation, for "
            f"{invitation.address}:",
            invitation.text,
            username=invitation.address.username,
            device=str(invitation.address),
            expire_time=invitation.expire_time,
            invitation=invitation.text,
        )

    return action


def join(invitation: str | None, suite: str, *, wait: bool) -> Action:
    """Return the command that answers an invitation, and waits until it is approved."""

    async def action(client: Client, output: Output) -> None:
        if invitation is not None:
            request = await client.join(invitation, suite_named(suite))
            output.handover(
                "join_requested",
                "On the device that invited: keypost devices approve REQUEST. This is the request of "
                f"{request.address}, whose key is {grouped(request.fingerprint)}:",
                request.text,
                device=str(request.address),
                suite=suite,
                fingerprint=request.fingerprint.hex(),
                request=request.text,
            )
        if wait:
            address = await client.joined()
            digits = await _own_number(client)
            output.result(
                "joined",
                f"You are {address}. Both devices must show the same safety number: {digits}",
                address=str(address),
                digits=digits.replace(" ", ""),
            )

    return action


def approve(given: str | None, *, yes: bool) -> Action:
    """Return the command that vouches for a further device."""

    async def action(client: Client, output: Output) -> None:
        text = read_pasted(given, "request")
        request = await client.read_request(text)
        digits, compared = request.fingerprint.hex(), grouped(request.fingerprint)
        facts = {"device": str(request.address), "suite": request.suite.name, "fingerprint": digits}
        output.result("asked", f"{request.address} asks to be a device of yours; its key is {compared}.", **facts)
        if not yes:
            confirm(f"Does the new device show {compared}, and is it yours?")
        key = await client.approve(text)
        number = await _own_number(client)
        output.result(
            "approved",
            f"{key.address} is a device of yours. Both devices must show the same safety number: {number}",
            device=str(key.address),
            fingerprint=digits,
            digits=number.replace(" ", ""),
        )

    return action


def grouped(fingerprint: bytes) -> str:
    """Return of a key's fingerprint (32 bytes) what people compare: 128 bits, in groups, one word."""
    digits = fingerprint.hex()[:COMPARED]
    return "-".join(digits[at : at + GROUP] for at in range(0, COMPARED, GROUP))


async def _own_number(client: Client) -> str:
    """Return the safety number of the own user, in groups."""
    if client.address is None:  # it has just become a device, or it would have none
        raise AssertionError
    return (await client.safety_number(client.address.username)).grouped


def name(device: str, label: str | None) -> Action:
    """Return the command that gives a device a private name, or takes it away."""

    async def action(client: Client, output: Output) -> None:
        address = find_device(await client.devices(), device)
        await client.name_device(address.device_id, label)
        said = f"{address} has no name any more." if label is None else f"{address} is {label}."
        output.result("named", said, device=str(address), name=label)

    return action


def revoke(device: str, reason: str, since: datetime | None, *, yes: bool) -> Action:
    """Return the command that withdraws a device."""

    async def action(client: Client, output: Output) -> None:
        before = await client.devices()
        address = find_device(before, device)
        if not yes:
            this = "THIS device" if address == client.address else shown(before, address)
            confirm(f"Withdraw {this} for good ({reason})? It cannot be taken back.")
        record = await client.revoke(address.device_id, reason, since=None if since is None else _milliseconds(since))
        ended = _ended(before, record)
        output.result(
            "revoked",
            f"Withdrawn ({reason}): {', '.join(ended) or address}.",
            device=str(address),
            reason=reason,
            revision=record.revision,
            ended=ended,
        )

    return action


def _ended(before: Devices, after: KeyRecord) -> list[str]:
    """Return the devices whose good key has ended in between: a compromised one takes others with it."""
    good = {key.fingerprint for key in before.keys if key.is_good}
    return [str(key.address) for key in after.keys if key.fingerprint in good and not key.is_good]


def _milliseconds(since: datetime) -> int:
    return int(since.replace(tzinfo=since.tzinfo or UTC).timestamp() * 1000)


def reset(username: str, proof: Proof, *, yes: bool) -> Action:
    """Return the command that asks for an identity reset."""

    async def action(client: Client, output: Output) -> None:
        if not yes:
            confirm(
                f"Withdraw ALL devices of {username}, once the time is over? What waits for them can then be read by "
                "nobody, and everybody is told that the identity changed."
            )
        id_token = await proof.id_token(client, output, username, STRONG)
        reset_time = await client.request_reset(username, code=proof.code, id_token=id_token)
        when = datetime.fromtimestamp(reset_time / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
        output.result(
            "reset_announced",
            f"All devices of {username} are told. Unless one of them cancels it, from {when} on: "
            f"keypost enroll {username}",
            username=username,
            reset_time=reset_time,
        )

    return action


def cancel_reset() -> Action:
    """Return the command that stops an identity reset."""

    async def action(client: Client, output: Output) -> None:
        record = await client.cancel_reset()
        said = f"No identity reset of {record.username} is announced."
        output.result("reset_cancelled", said, username=record.username, revision=record.revision)

    return action


def find_device(devices: Devices, text: str) -> Address:
    """Return the device that a text names: by its private name, its id or its address.

    Raises:
        UsageError: there is none.
    """
    for key in devices.keys:
        if text in {devices.name_of(key), key.address.device_id, str(key.address)}:
            return key.address
    raise UsageError(f"{devices.username} has no device {text}", "`keypost devices` lists them; names are private.")


def shown(devices: Devices, address: Address) -> str:
    """Return a device with its private name, if it has one."""
    label = devices.names.get(address.device_id)
    return str(address) if label is None else f"{address} ({label})"
