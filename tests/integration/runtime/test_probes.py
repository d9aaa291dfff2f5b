from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost.delivery.v1 import delivery_service_pb2_grpc
from keypost_services.runtime.certificate_ends import PUBLIC, CertificateEnds
from keypost_services.runtime.errors import ServiceError
from keypost_services.runtime.health import Health
from keypost_services.runtime.heartbeat import Heartbeat
from keypost_services.runtime.method_table import METHODS, anyone
from keypost_services.runtime.metrics import HealthMetrics
from keypost_services.runtime.probes import Probes
from keypost_services.runtime.probes_grpc import serve_health
from keypost_services.runtime.probes_http import serve_http
from keypost_services.runtime.tls import TlsFiles, follow
from support.directory import silent_log
from support.probing import answered
from support.service import SEND, SERVICE, error_info, serving
from support.tls import issue_tls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Never

    from google.protobuf.message import Message

    from support.service import ServiceUnderTest

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING


async def get(service: ServiceUnderTest, path: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{service.running.metrics_port}{path}"

    def fetch() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(fetch)


async def test_calls_and_refusals_are_counted(tmp_path: Path) -> None:
    async def refuse(_request: Any, _context: Any) -> Any:
        raise ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "MAILBOX_FULL", "full")

    async with (
        serving(tmp_path, methods={SEND: anyone()}, metrics_listen="127.0.0.1:0") as service,
        service.public_channel() as channel,
    ):
        stub = delivery_service_pb2_grpc.DeliveryServiceStub(channel)
        await stub.Send(pb.SendRequest())
        service.servicer.on_send = refuse
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Send(pb.SendRequest())
        service.running.runtime.health.set_degraded("cache", "away")
        status, text = await get(service, "/metrics")
    assert status == 200
    for line in (
        f'keypost_calls_total{{code="OK",method="{SEND}"}} 1.0',
        f'keypost_calls_total{{code="RESOURCE_EXHAUSTED",method="{SEND}"}} 1.0',
        f'keypost_refusals_total{{method="{SEND}",reason="MAILBOX_FULL"}} 1.0',
        f'keypost_call_seconds_count{{method="{SEND}"}} 2.0',
        f'keypost_calls_under_way{{method="{SEND}"}} 0.0',
        'keypost_degraded{part="cache"} 1.0',
    ):
        assert line in text


async def test_probes_over_http(tmp_path: Path) -> None:
    async with serving(tmp_path, metrics_listen="127.0.0.1:0") as service:
        health = service.running.runtime.health
        assert await get(service, "/live") == (200, '{"live": true}')
        assert await get(service, "/started") == (200, '{"started": true}')
        assert await get(service, "/ready") == (200, '{"ready": true, "degraded": {}}')
        health.set_degraded("cache", "away")
        assert (await get(service, "/ready"))[0] == 200
        health.set_degraded("mailboxes", "away", blocks=True)
        status, text = await get(service, "/ready")
        assert status == 503
        assert json.loads(text) == {
            "ready": False,
            "degraded": {"cache": "away", "mailboxes": "away"},
            "why": "nothing can be served without: mailboxes",
        }
        health.set_serving(serving=False)
        assert json.loads((await get(service, "/ready"))[1])["why"] == "it ends"
        assert [(await get(service, path))[0] for path in ("/live", "/started", "/nothing")] == [200, 200, 404]


def answer_of(port: int, path: str, host: str = "127.0.0.1") -> int:
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def hold_the_loop_until(port: int, path: str, status: int) -> None:
    """Hold the event loop, in which this is called, until a probe answers so."""
    end = time.monotonic() + 20
    while answer_of(port, path) != status:
        assert time.monotonic() < end, "a loop that hangs was not noticed"


async def test_probes_over_grpc_without_tls(tmp_path: Path) -> None:
    async with serving(tmp_path, health_listen="127.0.0.1:0") as service:
        health, port = service.running.runtime.health, service.running.health_port
        assert port is not None

        async def answers() -> list[bool]:
            return [await asyncio.to_thread(answered, port, name) for name in ("", "startup", "readiness", "liveness")]

        assert await answers() == [True, True, True, True]
        health.set_degraded("cache", "away")
        assert await answers() == [True, True, True, True]
        health.set_degraded("mailboxes", "away", blocks=True)
        assert await answers() == [False, True, False, True]


@pytest.mark.parametrize(
    ("method", "message", "why"),
    [
        ("/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(service="cache"), "the probes are startup"),
        (
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest(service="x" * 300),
            "eceived message larger than max",
        ),
        ("/grpc.health.v1.Health/Watch", health_pb2.HealthCheckRequest(), "Method not implemented!"),
        (f"/{SERVICE}/Send", pb.SendRequest(), "Method not found!"),
        (b"/\xff", pb.SendRequest(), "Method not found!"),
    ],
)
async def test_the_port_of_the_probes_answers_nothing_else(
    tmp_path: Path, method: str | bytes, message: Message, why: str
) -> None:
    # The type says str, and then no name could be sent that is no UTF-8.
    name: Any = method

    def ask(port: int | None) -> str:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary(name, request_serializer=type(message).SerializeToString)
            with pytest.raises(grpc.RpcError) as caught:
                call(message, timeout=10)
        error: Any = caught.value
        return str(error.details())

    async with serving(tmp_path, health_listen="127.0.0.1:0") as service:
        assert why in await asyncio.to_thread(ask, service.running.health_port)
        assert await asyncio.to_thread(answered, service.running.health_port or 0, "liveness")


@contextmanager
def questions_that_do_not_come(port: int, count: int) -> Iterator[list[Any]]:
    """Begin calls, each on a connection of its own, and never send their message; yield the calls."""
    silent = threading.Event()

    def nothing() -> Iterator[Never]:
        silent.wait()
        yield from ()

    with ExitStack() as stack:
        stack.callback(silent.set)
        own = [("grpc.use_local_subchannel_pool", 1)]
        channels = [stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", options=own)) for _ in range(count)]
        calls: list[Any] = [
            channel.stream_unary("/grpc.health.v1.Health/Check").future(nothing()) for channel in channels
        ]
        yield calls


def well_probes() -> Probes:
    metrics = HealthMetrics(CollectorRegistry())
    health = Health(silent_log(), metrics)
    health.set_serving(serving=True)
    return Probes(health, Heartbeat(metrics.loop_lag.observe))


async def test_questions_that_do_not_come_hold_up_no_probe() -> None:
    async with serve_health("127.0.0.1:0", well_probes(), connection_seconds=600) as port:

        def ask() -> bool:
            with questions_that_do_not_come(port, 40):
                # Several: the first may be answered before those calls have come.
                return all(answered(port, "liveness") for _ in range(50))

        assert await asyncio.to_thread(ask)


async def test_questions_that_do_not_come_are_ended() -> None:
    async with serve_health("127.0.0.1:0", well_probes(), connection_seconds=0.2) as port:

        def wait() -> set[grpc.StatusCode]:
            with questions_that_do_not_come(port, 40) as calls:
                return {call.exception(timeout=30).code() for call in calls}

        assert await asyncio.to_thread(wait) == {grpc.StatusCode.UNAVAILABLE}


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_an_ipv6_address_is_listened_at() -> None:
    probes = well_probes()
    async with serve_http("[::1]:0", CollectorRegistry(), probes) as port, serve_health("[::1]:0", probes):
        assert await asyncio.to_thread(answer_of, port, "/live", "[::1]") == 200


async def test_a_loop_that_hangs_is_noticed_and_one_that_runs_again_too() -> None:
    registry = CollectorRegistry()
    metrics = HealthMetrics(registry)
    health = Health(silent_log(), metrics)
    health.set_serving(serving=True)
    heartbeat = Heartbeat(metrics.loop_lag.observe, hung_seconds=2.0)
    beating = asyncio.create_task(heartbeat.run())
    probes = Probes(health, heartbeat)
    async with serve_http("127.0.0.1:0", registry, probes) as port, serve_health("127.0.0.1:0", probes) as grpc_port:
        async with asyncio.timeout(20):
            while await asyncio.to_thread(answer_of, port, "/live") != 200:
                pass
        # The loop, in which this runs, stands still all the while.
        hold_the_loop_until(port, "/live", 503)
        assert [answer_of(port, path) for path in ("/live", "/ready", "/started")] == [503, 503, 200]
        assert [answered(grpc_port, name) for name in ("liveness", "readiness", "startup")] == [False, False, True]

        def all_well() -> bool:
            over_http = [answer_of(port, path) for path in ("/live", "/ready")]
            return over_http == [200, 200] and answered(grpc_port, "liveness")

        async with asyncio.timeout(20):
            while not await asyncio.to_thread(all_well):
                pass
    beating.cancel()
    assert (registry.get_sample_value("keypost_loop_lag_seconds_sum") or 0) > 1


async def test_certificates_say_when_they_end(tmp_path: Path) -> None:
    async with serving(tmp_path, metrics_listen="127.0.0.1:0") as service:
        settings, metrics = service.running.runtime.settings, service.running.runtime.metrics
        health = service.running.runtime.health
        port = follow(TlsFiles(settings.tls_certificate, settings.tls_private_key), service.running.runtime.log)
        look = CertificateEnds(settings, {PUBLIC: port}, service.running.runtime.health_metrics, health).look
        name, labels = "keypost_certificate_end_time_seconds", {"certificate": "tls_certificate"}
        await look()
        (certificate, *_) = x509.load_pem_x509_certificates(settings.tls_certificate.read_bytes())
        assert metrics.get_sample_value(name, labels) == certificate.not_valid_after_utc.timestamp()
        assert health.degraded == {}
        # Half a renewal: the new certificate is there, and its key is not. Served is the old one.
        own = settings.tls_certificate.read_bytes()
        settings.tls_certificate.write_bytes(issue_tls().certificate_pem)
        await look()
        assert set(health.degraded) == {"certificates"}
        assert metrics.get_sample_value(name, labels) == certificate.not_valid_after_utc.timestamp()
        settings.tls_certificate.write_bytes(own)
        await look()
        assert health.degraded == {}
        assert settings.internal_tls_root is not None
        settings.internal_tls_root.write_text("no certificate")
        await look()
        assert set(health.degraded) == {"certificates"}


async def test_health_over_grpc(tmp_path: Path) -> None:
    async with serving(tmp_path, methods=METHODS) as service, service.public_channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            assert (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING
        service.running.runtime.health.set_degraded("cache", "away")
        assert (await stub.Check(health_pb2.HealthCheckRequest(service="cache"))).status == NOT_SERVING
        assert set((await stub.List(health_pb2.HealthListRequest())).statuses) == {
            *("", "startup", "readiness", "liveness", SERVICE),
            *("cache", "certificates"),
        }
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="nothing"))
    assert (caught.value.code(), error_info(caught.value).reason) == (grpc.StatusCode.NOT_FOUND, "HEALTH_NAME_UNKNOWN")


async def list_services(channel: grpc.aio.Channel) -> set[str]:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    answers = [answer async for answer in stub.ServerReflectionInfo(iter([request]), timeout=10)]
    return {service.name for service in answers[0].list_services_response.service}


async def test_reflection_only_where_it_is_switched_on(tmp_path: Path) -> None:
    async with serving(tmp_path, reflection=True) as service, service.public_channel() as channel:
        assert SERVICE in await list_services(channel)
    async with serving(tmp_path) as service, service.public_channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await list_services(channel)
    assert error_info(caught.value).reason == "METHOD_NOT_ADMITTED"


async def test_a_draining_service_refuses_new_calls(tmp_path: Path) -> None:
    async with serving(tmp_path, methods={SEND: anyone()}) as service, service.public_channel() as channel:
        service.running.calls.drain()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await delivery_service_pb2_grpc.DeliveryServiceStub(channel).Send(pb.SendRequest())
    assert (caught.value.code(), error_info(caught.value).reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
