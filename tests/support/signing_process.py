"""A key in another process, behind a socket: what a key management service would be to the CA.

``python -m support.signing_process SOCKET SEED`` signs what comes over the Unix socket: four bytes of length and the
data; the answer is the signature, or nothing.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from keypost_services.ca.trust.signing import SignerAwayError
from support.realm import seeded_signer

if TYPE_CHECKING:
    from pathlib import Path

SIGNATURE_BYTES = 64
LONGEST = 1024 * 1024
ANSWER_SECONDS = 5.0


class SocketSigner:
    """A record signer whose key is in another process.

    Args:
        socket: Where that process listens.
        public_key_der: The key's public half.
    """

    def __init__(self, socket: Path, public_key_der: bytes) -> None:
        self._socket = socket
        self._public_key_der = public_key_der

    @property
    def public_key_der(self) -> bytes:
        return self._public_key_der

    async def sign(self, data: bytes) -> bytes:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._ask(data)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise SignerAwayError(f"the signing process does not answer: {type(error).__name__}") from error

    async def _ask(self, data: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            writer.write(len(data).to_bytes(4, "big") + data)
            await writer.drain()
            return await reader.readexactly(SIGNATURE_BYTES)
        finally:
            writer.close()
            await writer.wait_closed()


async def serve(socket: str, seed: int) -> None:
    """Sign for whoever may open the socket."""
    signer = seeded_signer(seed)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(4), "big")
        if length <= LONGEST:
            writer.write(signer.sign(await reader.readexactly(length)))
        writer.close()

    server = await asyncio.start_unix_server(answer, socket)
    print("serving", flush=True)  # noqa: T201  # whoever started it waits for this
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
