"""A person as a process of its own whose application traces: told by lines of JSON what to do, and answers likewise.

``python traced_person.py NAME PROFILE BUNDLE COLLECTOR``, with the passphrase in KEYPOST_PASSPHRASE.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from keypost.client import Client
from keypost.keystore import Argon2Cost, Passphrase


def provider_for(name: str, collector: str) -> TracerProvider:
    """Return what an application sets up that hands everything over to a collector."""
    provider = TracerProvider(resource=Resource({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=collector), schedule_delay_millis=100))
    return provider


async def _act(client: Client, act: dict[str, Any]) -> object:
    match act["do"]:
        case "enroll":
            return str(await client.enroll(act["name"]))
        case "renew":
            return (await client.renew()).fingerprint.hex()
        case "send":
            return str((await client.send(act["to"], act["text"])).message_id)
        case "receive":
            return [message.text async for message in client.receive(follow=False)]
    raise ValueError(act)


async def _live(name: str, profile: Path, bundle: Path, collector: str) -> None:
    provider = provider_for(name, collector)
    unlock = Passphrase(os.environ["KEYPOST_PASSPHRASE"], Argon2Cost(memory=64, iterations=1, lanes=1))
    async with await Client.open(profile, unlock=unlock, bundle=bundle, tracer_provider=provider) as client:
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await _act(client, json.loads(line))), flush=True)  # noqa: T201  # its answer
    provider.shutdown()


if __name__ == "__main__":
    asyncio.run(_live(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]))
