"""A replica of a service that says who it is, and notes which certificate its callers show."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
from cryptography import x509

from keypost_services.embedded.certificates import TlsRoot, service_names

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from keypost_services.embedded.certificates import Issued

REALM = "example.org"
CALL, HOLD, WATCH = "/replica/Call", "/replica/Hold", "/replica/Watch"


def serial_of(certificate_pem: bytes) -> int:
    return x509.load_pem_x509_certificate(certificate_pem).serial_number


class Replica(grpc.GenericRpcHandler):
    """Serves three methods: one that answers, one that waits first, and a stream that waits before its end.

    Attributes:
        port: Where it serves.
        serials: The serial numbers of the certificates that callers have shown, a call each.
        entered: Set once a call waits.
        go_on: What they wait for.
    """

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.port = 0
        self.serials: list[int] = []
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method == WATCH:
            return grpc.unary_stream_rpc_method_handler(self._watch)
        waits = handler_call_details.method == HOLD

        async def answer(_request: bytes, context: Any) -> bytes:
            self._note(context)
            if waits:
                self.entered.set()
                await self.go_on.wait()
            return self.name

        return grpc.unary_unary_rpc_method_handler(answer)

    async def _watch(self, _request: bytes, context: Any) -> AsyncIterator[bytes]:
        self._note(context)
        yield self.name
        await self.go_on.wait()
        yield self.name

    def _note(self, context: Any) -> None:
        (certificate,) = context.auth_context()["x509_pem_cert"]
        self.serials.append(serial_of(certificate))


class ReplicaRoot:
    """Issues what replicas of the CA and their callers show."""

    def __init__(self) -> None:
        self._root = TlsRoot("service root")
        self.root_pem = self._root.root_pem

    def issue(self, service: str) -> Issued:
        return self._root.issue(service, service_names(REALM, service))

    @contextlib.asynccontextmanager
    async def replica(self, name: bytes, *, address: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Replica]:
        """Serve a replica as long as the block runs."""
        issued, replica = self.issue("ca"), Replica(name)
        credentials = grpc.ssl_server_credentials(
            [(issued.private_key_pem, issued.certificate_pem)], self.root_pem, require_client_auth=True
        )
        server = grpc.aio.server(handlers=[replica])
        replica.port = server.add_secure_port(f"{address}:{port}", credentials)
        await server.start()
        try:
            yield replica
        finally:
            replica.go_on.set()
            await server.stop(None)
