"""What each command about files on their way out does with an open client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.cli.errors import FileError, UsageError
from keypost.cli.events import FILE
from keypost.errors import KeypostError

if TYPE_CHECKING:
    from pathlib import Path

    from keypost.cli.output import Output
    from keypost.cli.perform import Action
    from keypost.client import Client, FileTransfer, SentFile


async def send_file(client: Client, output: Output, username: str, file: Path, media_type: str | None) -> None:
    """Send a file, or go on with it."""
    if not file.is_file():  # noqa: ASYNC240  # one look at the local disk
        raise FileError(f"there is no file {file}")
    options = {"media_type": media_type} if media_type else {}
    try:
        sent = await client.send_file(
            username, file, progress=lambda done, total: output.progress(file.name, done, total), **options
        )
    except KeypostError as error:
        output.close()
        await _tell_what_is_left(client, output, error)
        raise
    output.close()
    _tell_sent(output, username, file.name, sent)


async def _tell_what_is_left(client: Client, output: Output, error: KeypostError) -> None:
    for transfer in await client.file_transfers():
        sentence = (
            f"{transfer.sent} of {transfer.size} bytes of {transfer.name} are sent to {transfer.username}: "
            "`keypost files resume` goes on"
        )
        output.notice("waiting", error.reason, sentence)


def _tell_sent(output: Output, username: str, name: str, sent: SentFile) -> None:
    output.result(
        "file_sent",
        f"Sent {name} to {username}: {sent.size} bytes, SHA-256 {sent.sha256.hex()}.",
        username=username,
        file_id=sent.file_id.hex(),
        name=name,
        size=sent.size,
        sha256=sent.sha256.hex(),
        parts=sent.parts,
    )


def list_files() -> Action:
    """Return the command that lists the files on their way."""

    async def action(client: Client, output: Output) -> None:
        rows = [_row(transfer) for transfer in await client.file_transfers()]
        output.table("files", f"{len(rows)} file(s) on their way", FILE, rows)

    return action


def resume(file_id: str | None) -> Action:
    """Return the command that goes on with one of them, or with all."""

    async def action(client: Client, output: Output) -> None:
        transfers = await client.file_transfers()
        failure: KeypostError | None = None
        for transfer in transfers if file_id is None else [_find(transfers, file_id)]:
            try:
                (sent,) = await client.resume_files(
                    transfer.file_id, progress=lambda now: output.progress(now.name, now.sent, now.size)
                )
            except KeypostError as error:
                output.close()
                output.notice("warning", error.reason, f"{transfer.name} is not sent to {transfer.username}: {error}")
                failure = failure or error
            else:
                output.close()
                _tell_sent(output, transfer.username, transfer.name, sent)
        if failure is not None:
            raise failure
        if not transfers:
            output.result("nothing", "No file is on its way.")

    return action


def cancel(file_id: str) -> Action:
    """Return the command that gives one of them up."""

    async def action(client: Client, output: Output) -> None:
        transfer = _find(await client.file_transfers(), file_id)
        await client.cancel_file(transfer.file_id)
        sentence = f"{transfer.name} is not sent to {transfer.username} any more."
        output.result("file_cancelled", sentence, file_id=transfer.file_id.hex(), name=transfer.name)

    return action


def _row(transfer: FileTransfer) -> dict[str, str | int]:
    return {
        "file_id": transfer.file_id.hex(),
        "username": transfer.username,
        "sent": transfer.sent,
        "size": transfer.size,
        "create_time": transfer.create_time,
        "name": transfer.name,
    }


def _find(transfers: tuple[FileTransfer, ...], file_id: str) -> FileTransfer:
    found = [transfer for transfer in transfers if file_id and transfer.file_id.hex().startswith(file_id.lower())]
    if len(found) != 1:
        raise UsageError("FILE is the file_id of one file, or how it begins: `keypost files` lists them")
    return found[0]
