"""Files too large for one envelope: in parts, one of which is in memory at a time for each that is under way."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from keypost.client.results import OCTETS, SentFile
from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.errors import InvalidArgumentError

if TYPE_CHECKING:
    from pathlib import Path

    from keypost.client.context import Context
    from keypost.client.results import Progress
    from keypost.client.sending import Sending

PART_BYTES = 192 * 1024
PARTS_UNDER_WAY = 4
LONGEST_NAME = 255
FILE_ID_BYTES = 16


@dataclass(frozen=True)
class _Plan:
    """What is the same in all parts."""

    file_id: bytes
    name: str
    media_type: str
    count: int
    size: int
    sha256: bytes

    def part(self, index: int, data: bytes) -> pb.Content:
        return pb.Content(
            file_part=pb.FilePart(
                file_id=self.file_id,
                name=self.name,
                media_type=self.media_type,
                index=index,
                count=self.count,
                size=self.size,
                sha256=self.sha256,
                data=data,
            )
        )


async def send_file(
    context: Context,
    sending: Sending,
    recipient: str,
    path: Path,
    *,
    media_type: str = OCTETS,
    progress: Progress | None = None,
) -> SentFile:
    """Send a file in parts of 192 KiB; see Client.send_file."""
    plan = await asyncio.to_thread(_plan, path, media_type, context.random(FILE_ID_BYTES))
    done = 0
    under_way: set[asyncio.Task[int]] = set()

    async def send_part(index: int, data: bytes) -> int:
        await sending.send_in_order(recipient, plan.part(index, data), keep=False)
        return len(data)

    def collect(tasks: set[asyncio.Task[int]]) -> None:
        nonlocal done
        done += sum(task.result() for task in tasks)
        if progress is not None:
            progress(done, plan.size)

    async with sending.ordered(recipient):
        try:
            with path.open("rb") as file:  # read in a thread below
                for index in range(plan.count):
                    data = await asyncio.to_thread(_read_part, file, plan, index)
                    if len(under_way) >= PARTS_UNDER_WAY:
                        finished, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                        collect(finished)
                    under_way.add(asyncio.create_task(send_part(index, data)))
            while under_way:
                finished, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                collect(finished)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
    return SentFile(plan.file_id, plan.size, plan.sha256, plan.count)


def _plan(path: Path, media_type: str, file_id: bytes) -> _Plan:
    name = path.name[:LONGEST_NAME]
    if not _is_text(name):
        raise InvalidArgumentError(f"the name of {path!r} is no text: rename it", field="path")
    try:
        # To open a pipe would wait until somebody writes to it.
        if path.exists() and not path.is_file():
            raise InvalidArgumentError(f"{path} is no file", field="path")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
            size = file.tell()
    except OSError as error:
        raise InvalidArgumentError(f"{path} cannot be read: {error.strerror}", field="path") from error
    count = max(1, -(-size // PART_BYTES))
    return _Plan(file_id, name, media_type, count, size, digest.digest())


def _is_text(name: str) -> bool:
    """Whether a name is Unicode: one in another encoding has surrogates where that is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_part(file: IO[bytes], plan: _Plan, index: int) -> bytes:
    data = file.read(PART_BYTES)
    if len(data) != min(PART_BYTES, plan.size - index * PART_BYTES):
        raise InvalidArgumentError(f"{plan.name} changed while it was sent: send it again", field="path")
    return data
