"""A service in a process of its own: ``python -m support.example_service`` (settings: KEYPOST_EXAMPLE_*)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Literal

import typer
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from keypost.ca.v1 import ca_service_pb2 as pb
from keypost.ca.v1 import ca_service_pb2_grpc
from keypost_services.runtime.command_line import service_app
from keypost_services.runtime.config import ServiceSettings
from keypost_services.runtime.errors import StartError
from keypost_services.runtime.health import NOT_SERVING
from keypost_services.runtime.serving import Parts, Runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SERVICE = "keypost.ca.v1.CertificateAuthorityService"


class ExampleSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="KEYPOST_EXAMPLE_")

    behaviour: Literal[
        "answer", "answer-when-draining", "never-answer", "never-start", "refuse-to-start", "leave-work-behind"
    ] = Field(description="What it does.", default="answer-when-draining")


class Servicer(ca_service_pb2_grpc.CertificateAuthorityServiceServicer):
    def __init__(self, runtime: Runtime[ExampleSettings]) -> None:
        self._runtime = runtime

    async def GetRealmTrust(self, _request: Any, _context: Any) -> pb.GetRealmTrustResponse:  # noqa: N802
        self._runtime.log.info("begun")
        if self._runtime.settings.behaviour == "answer":
            return pb.GetRealmTrustResponse()
        if self._runtime.settings.behaviour == "never-answer":
            await asyncio.Event().wait()
        async for state in self._runtime.health.changes(""):
            if state == NOT_SERVING:
                break
        return pb.GetRealmTrustResponse()


@contextlib.asynccontextmanager
async def compose(runtime: Runtime[ExampleSettings]) -> AsyncIterator[Parts]:
    behaviour = runtime.settings.behaviour
    runtime.log.info("composing")
    if behaviour == "refuse-to-start":
        raise StartError("KEYPOST_EXAMPLE_BEHAVIOUR: it was told to refuse")
    if behaviour == "never-start":
        await asyncio.Event().wait()
    deaf = asyncio.create_task(_deaf(), name="deaf") if behaviour == "leave-work-behind" else None
    add = ca_service_pb2_grpc.add_CertificateAuthorityServiceServicer_to_server
    yield Parts([(SERVICE, add, Servicer(runtime))])  # type: ignore[abstract]  # the other methods are not called
    runtime.log.info("taken apart", deaf=deaf is not None)


async def _deaf() -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


app = service_app("example", "An example of a service.", lambda: ExampleSettings, lambda: compose)


@app.command()
def hello() -> None:
    """Say hello."""
    typer.echo("hello")


if __name__ == "__main__":
    app()
