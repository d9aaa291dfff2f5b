"""The least that a unary call over TLS costs: a server that answers with as many bytes as the request asks for.

``python -m benchmarks.echo PORT CERTIFICATE PRIVATE_KEY READY_FILE`` serves until it is ended. Its event loop is
the one that the services have.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import grpc

METHOD = "/keypost.benchmarks.Echo/Echo"
SIZE_BYTES = 4


class _Echo(grpc.GenericRpcHandler):
    """Answers with zeros: as many as the first four bytes of the request say."""

    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._echo) if handler_call_details.method == METHOD else None

    async def _echo(self, request: bytes, _context: Any) -> bytes:
        return bytes(int.from_bytes(request[:SIZE_BYTES], "big"))


def echo_request(request_bytes: int, response_bytes: int) -> bytes:
    """Return a request of a size that asks for an answer of a size."""
    return response_bytes.to_bytes(SIZE_BYTES, "big") + bytes(request_bytes - SIZE_BYTES)


async def serve(port: str, certificate: str, private_key: str, ready_file: str) -> None:
    """Serve until SIGTERM."""
    key_pem, certificate_pem = Path(private_key).read_bytes(), Path(certificate).read_bytes()  # noqa: ASYNC240
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Echo(),))
    server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([(key_pem, certificate_pem)]))
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await asyncio.to_thread(Path(ready_file).touch)
    await stop.wait()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
