from __future__ import annotations

import json
import signal
import socket
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keypost.ca.v1 import ca_service_pb2 as pb
from keypost.ca.v1 import ca_service_pb2_grpc
from keypost_services.embedded.certificates import issue
from support.example_process import started
from support.service import REALM, error_info

if TYPE_CHECKING:
    from pathlib import Path


async def end_of(watch: Any) -> grpc.aio.AioRpcError:
    """Return how a watch of the health ends; until then it may say that the service no longer serves."""
    try:
        while (answer := await watch.read()) is not grpc.aio.EOF:
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    except grpc.aio.AioRpcError as error:
        return error
    pytest.fail("the watch was not ended")


async def test_on_sigterm_what_is_under_way_is_answered_and_nothing_more(tmp_path: Path) -> None:
    async with started(tmp_path) as service, await service.channel() as channel:
        ready = json.loads((tmp_path / "ready.json").read_text())
        assert ready["pid"] == service.process.pid
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        call = ca_service_pb2_grpc.CertificateAuthorityServiceStub(channel).GetRealmTrust(pb.GetRealmTrustRequest())
        await service.line("begun")
        service.process.send_signal(signal.SIGTERM)
        assert await call == pb.GetRealmTrustResponse()
        ended = await end_of(watch)
        assert (ended.code(), error_info(ended).reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        code, errors = await service.end()
    assert (code, errors) == (0, "")
    assert service.events.index("stopping") < service.events.index("call") < service.events.index("taken apart")
    assert service.events[-1] == "stopped"
    assert not (tmp_path / "ready.json").exists()


async def test_the_drain_is_bounded(tmp_path: Path) -> None:
    async with (
        started(tmp_path, BEHAVIOUR="never-answer", DRAIN_SECONDS="0.2") as service,
        await service.channel() as channel,
    ):
        call = ca_service_pb2_grpc.CertificateAuthorityServiceStub(channel).GetRealmTrust(pb.GetRealmTrustRequest())
        await service.line("begun")
        service.process.send_signal(signal.SIGINT)
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        assert (await service.end())[0] == 0
    assert "taken apart" in service.events


async def test_work_that_does_not_end_does_not_hold_the_process(tmp_path: Path) -> None:
    async with started(tmp_path, BEHAVIOUR="leave-work-behind") as service:
        await service.line("serving")
        service.process.send_signal(signal.SIGTERM)
        assert (await service.end())[0] == 0
    assert service.events[-2:] == ["stopped", "ended with work left behind"]
    assert service.lines[-1]["tasks"] == ["deaf"]


async def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    async with started(tmp_path, BEHAVIOUR="never-answer") as service, await service.channel() as channel:
        call = ca_service_pb2_grpc.CertificateAuthorityServiceStub(channel).GetRealmTrust(pb.GetRealmTrustRequest())
        await service.line("begun")
        service.process.send_signal(signal.SIGTERM)
        await service.line("stopping")
        service.process.send_signal(signal.SIGTERM)
        assert (await service.end())[0] == 128 + signal.SIGTERM
        call.cancel()
    assert service.events[-1] == "stopped at once"


async def test_a_signal_before_it_serves_ends_it_too(tmp_path: Path) -> None:
    async with started(tmp_path, BEHAVIOUR="never-start") as service:
        await service.line("composing")
        service.process.send_signal(signal.SIGTERM)
        assert await service.end() == (0, "")


async def test_a_service_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    async with started(tmp_path, BEHAVIOUR="refuse-to-start") as service:
        assert await service.end() == (1, "example: KEYPOST_EXAMPLE_BEHAVIOUR: it was told to refuse\n")


async def test_a_wrong_setting_stops_the_start_with_one_line(tmp_path: Path) -> None:
    async with started(tmp_path, REALM="No Realm") as service:
        code, errors = await service.end()
    assert code == 2
    assert errors.startswith("KEYPOST_EXAMPLE_REALM: a realm is")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("variable", ["PUBLIC_LISTEN", "HEALTH_LISTEN", "METRICS_LISTEN"])
async def test_a_port_that_is_taken_is_named(tmp_path: Path, variable: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        async with started(tmp_path, **{variable: listen}) as service:
            code, errors = await service.end()
    assert code == 1
    assert errors.startswith(f"example: KEYPOST_EXAMPLE_{variable}: cannot listen at {listen}")
    assert errors.count("\n") == 1


async def test_a_private_key_that_is_not_the_certificates_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    issue(other, REALM, ["x"])
    async with started(tmp_path, TLS_PRIVATE_KEY=str(other / "x/public.key")) as service:
        code, errors = await service.end()
    assert code == 1
    assert "the private key is not the certificate's" in errors


async def test_help_tells_every_setting_and_further_commands_run(tmp_path: Path) -> None:
    for arguments, texts in (
        (["--help"], ["An example of a service.", "hello  Say hello.", "serve  Serve until SIGTERM."]),
        (["serve", "--help"], ["KEYPOST_EXAMPLE_REALM (required)"]),
        (["hello"], ["hello"]),
    ):
        async with started(tmp_path, *arguments) as service:
            out, _ = await service.process.communicate()
        assert service.process.returncode == 0
        for text in texts:
            assert text in out.decode()
