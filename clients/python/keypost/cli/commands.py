"""What each command does with an open client."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from keypost.cli.errors import FileError, UsageError
from keypost.cli.events import OUTBOX, PEERS_KEY, SET_ASIDE
from keypost.cli.file_commands import send_file
from keypost.cli.files import create_new
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.suites import suite_named

if TYPE_CHECKING:
    from keypost.cli.output import Output
    from keypost.cli.perform import Action
    from keypost.cli.sign_in import Proof
    from keypost.client import Client, Outgoing, ReceivedFile, SetAside
    from keypost.protocol.key_info import Key, KeyRecord

DEFAULT_FOLDER = Path("keypost-files")
LARGEST_INPUT = 64 * 1024 * 1024


def enroll(username: str, proof: Proof, suite: str) -> Action:
    """Return the command that enrols."""

    async def action(client: Client, output: Output) -> None:
        id_token = await proof.id_token(client, output, username, suite_named(suite))
        address = await client.enroll(username, code=proof.code, id_token=id_token, suite=suite_named(suite))
        output.result("enrolled", f"You are {address}.", address=str(address), suite=suite)

    return action


def nonce(username: str, suite: str) -> Action:
    """Return the command that says the nonce for an ID token."""

    async def action(client: Client, output: Output) -> None:
        digits = await client.sign_in_nonce(username, suite_named(suite))
        output.result("nonce", digits, username=username, nonce=digits)

    return action


def send(username: str, text: str | None, file: Path | None, media_type: str | None) -> Action:
    """Return the command that sends a text, standard input or a file."""

    async def action(client: Client, output: Output) -> None:
        if file is not None:
            if text is not None:
                raise UsageError("give either a message or --file, not both")
            await send_file(client, output, username, file, media_type)
            return
        body = read_input() if text is None else text
        sent = await client.send(username, body, **({"media_type": media_type} if media_type else {}))
        operations = dict(sent.rsa_operations)
        how = "under a new session key" if sent.new_session else "under the same session key"
        output.result(
            "sent",
            f"Sent to {username}, {how} ({sum(operations.values())} RSA operations).",
            username=username,
            message_id=str(sent.message_id),
            counter=sent.counter,
            accept_time=sent.accept_time,
            key_id=sent.key_id.hex(),
            new_session=sent.new_session,
            rsa_operations=operations,
        )

    return action


def read_input(stream: BinaryIO | None = None) -> str | bytes:
    """Return standard input, as text if it is UTF-8.

    Raises:
        UsageError: there is nothing, or more than 64 MiB.
    """
    body = (stream or sys.stdin.buffer).read(LARGEST_INPUT + 1)
    if not body:
        raise UsageError("there is nothing to send: give the message as an argument, by standard input or by --file")
    if len(body) > LARGEST_INPUT:
        raise UsageError("standard input is too long for one message: send it with --file")
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body


def receive(folder: Path, count: int | None, *, follow: bool) -> Action:
    """Return the command that shows what arrives."""

    async def action(client: Client, output: Output) -> None:
        received = 0
        async with contextlib.aclosing(client.receive(follow=follow or count is not None)) as messages:
            async for message in messages:
                output.message(message)
                if message.file is not None:
                    path = await save(message.file, folder)
                    output.result("file_saved", f"    saved as {path}", path=str(path), size=message.file.size)
                # Now, not when the next one comes: Ctrl-C while waiting must not show this one again.
                await client.set_handled(message)
                received += 1
                if received == count:
                    break
        if not received:
            output.result("nothing", "Nothing waits.")

    return action


def outbox(*, flush: bool) -> Action:
    """Return the command that lists what is on its way, or sends it first."""

    async def action(client: Client, output: Output) -> None:
        left = await client.flush() if flush else await client.outbox()
        rows = [outbox_row(message) for message in left]
        output.table("outbox", f"{len(rows)} message(s) are on their way", OUTBOX, rows)

    return action


def outbox_row(message: Outgoing) -> dict[str, str | int]:
    """Return one row for a message that is on its way."""
    return {
        "username": message.username,
        "message_id": str(message.message_id),
        "counter": message.counter,
        "create_time": message.create_time,
        "size": message.size,
        "copy_to": message.copy_to or "-",
    }


def set_aside(*, retry: bool) -> Action:
    """Return the command that lists what was set aside, or tries it again."""

    async def action(client: Client, output: Output) -> None:
        if not retry:
            rows = [set_aside_row(kept) for kept in await client.list_set_aside()]
            output.table("set_aside", f"{len(rows)} message(s) were set aside", SET_ASIDE, rows)
            return
        messages = await client.retry_set_aside()
        sentence = f"{messages} message(s) of what was set aside wait to be shown: keypost receive"
        output.result("retried", sentence, messages=messages)

    return action


def set_aside_row(kept: SetAside) -> dict[str, str | int]:
    """Return one row for a message that was set aside."""
    return {
        "reason": kept.reason,
        "username": kept.username or "-",
        "accept_time": kept.accept_time,
        "size": kept.size,
        "message_id": "-" if kept.message_id is None else str(kept.message_id),
    }


async def save(file: ReceivedFile, folder: Path) -> Path:
    """Write a received file into ``folder`` under a harmless, unused name; return its path.

    Raises:
        FileError: it cannot be written; nothing half-written stays.
    """
    try:
        path, stream = create_new(folder, file.name)
        try:
            with stream:
                async for chunk in file.chunks():
                    stream.write(chunk)
        except BaseException:
            path.unlink()
            raise
    except OSError as error:
        raise FileError(f"cannot write into {folder}: {error.strerror or error}") from error
    return path


def keys(username: str) -> Action:
    """Return the command that shows the keys of a user."""

    async def action(client: Client, output: Output) -> None:
        record = await client.keys(username)
        is_verified = await client.is_verified(username)
        # Keys of an identity that was accepted before are not of the one that was verified.
        marks = [is_verified and key.request.epoch == record.epoch for key in record.keys]
        rows = [key_row(key) | {"verified": mark} for key, mark in zip(record.keys, marks, strict=True)]
        output.table("keys", title_of(record), PEERS_KEY, rows)

    return action


def title_of(record: KeyRecord) -> str:
    """Return what stands above the keys of a record."""
    return f"{record.username} in {record.realm}: revision {record.revision}, epoch {record.epoch}"


def key_row(key: Key) -> dict[str, str | int | bool]:
    """Return one row for a key; times in milliseconds since 1970, fingerprints in hexadecimal digits."""
    return {
        "device": str(key.address),
        "state": state_name(key.state),
        "suite": key.suite.name,
        "fingerprint": key.fingerprint.hex(),
        "expire_time": key.expire_time,
    }


def state_name(state: int) -> str:
    """Return the state of a key in one word, such as ``good``."""
    return pb.KeyState.Name(pb.KeyState.ValueType(state)).removeprefix("KEY_STATE_").lower()


def renew() -> Action:
    """Return the command that renews the key pair."""

    async def action(client: Client, output: Output) -> None:
        key = await client.renew()
        digits = key.fingerprint.hex()
        output.result("renewed", f"Your new key is {digits[:8]}.", fingerprint=digits, expire_time=key.expire_time)

    return action


def accept(username: str, root: str) -> Action:
    """Return the command that accepts a changed identity."""

    async def action(client: Client, output: Output) -> None:
        try:
            fingerprint = bytes.fromhex(root)
        except ValueError as error:
            raise UsageError("ROOT is the fingerprint in hexadecimal digits, as the error names it") from error
        record = await client.accept_identity(username, fingerprint)
        output.result("accepted", f"The new identity of {username} is accepted.", username=username, epoch=record.epoch)

    return action


def rotate(username: str) -> Action:
    """Return the command that negotiates a new session key."""

    async def action(client: Client, output: Output) -> None:
        sent = await client.rotate(username)
        key_id = sent.key_id.hex()
        output.result("rotated", f"New session key {key_id[:8]} with {username}.", username=username, key_id=key_id)

    return action
