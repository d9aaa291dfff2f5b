"""A server with a service's TLS in a process of its own: ``python -m support.crowded_server CERTIFICATE KEY [OUT…]``.

Prints its port. Each OUT is a defence to take out: ``function=instead``, as ``defences.toml`` names them.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

import grpc.aio

from keypost_services.runtime.logs import make_logger
from keypost_services.runtime.tls import TlsFiles, follow, server_credentials
from support.defences import Defence


async def serve(certificate: str, private_key: str) -> None:
    """Serve until the process ends."""
    server = grpc.aio.server()
    files = TlsFiles(Path(certificate), Path(private_key))
    credentials = server_credentials(follow(files, make_logger("crowded", "error", "json", sys.stderr)))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    print(port, flush=True)  # noqa: T201  # for whoever started this process
    await server.wait_for_termination()


if __name__ == "__main__":
    with contextlib.ExitStack() as stack:
        for out in sys.argv[3:]:
            function, _, instead = out.partition("=")
            stack.enter_context(Defence(function, instead=instead).out())
        asyncio.run(serve(*sys.argv[1:3]))
