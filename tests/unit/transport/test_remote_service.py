from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from keypost.ca.v1 import ca_service_pb2, ca_service_pb2_grpc
from keypost.directory.v1 import directory_service_pb2 as pb
from keypost.directory.v1 import directory_service_pb2_grpc
from keypost.errors import RefusedError, UnreachableError
from keypost.keys.v1 import key_info_pb2, realm_trust_pb2
from keypost.tracing import Traces, trace_id_of
from keypost.transport.ca_client import CaClient
from keypost.transport.channels import open_channel
from keypost.transport.directory_client import DirectoryClient
from keypost.transport.refusals import Refusal, read_refusal
from keypost.transport.retries import Backoff, Retries
from keypost.transport.tokens import TokenSource
from support.refusing import refuse
from support.tls import TlsFiles, issue_tls

KEY_INFO = key_info_pb2.KeyInfo(record=key_info_pb2.SignedUserKeys(user_keys=b"record"))


class ScriptedDirectory(directory_service_pb2_grpc.DirectoryServiceServicer):
    """Plays a script: each entry refuses one call; after the last one it answers."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.tokens: list[str | None] = []
        self.request_ids: list[str] = []
        self.contexts: list[str] = []
        self.requests: list[Any] = []

    async def _play(self, request: Any, context: Any) -> None:
        self.requests.append(request)
        metadata = dict(context.invocation_metadata())
        self.tokens.append(metadata.get("authorization"))
        self.request_ids.append(metadata["x-request-id"])
        self.contexts.append(metadata.get("traceparent", ""))
        if self.script:
            await self.script.pop(0)(context)

    async def GetKeyInfo(self, request: Any, context: Any) -> pb.GetKeyInfoResponse:  # noqa: N802
        await self._play(request, context)
        return pb.GetKeyInfoResponse(key_info=KEY_INFO)

    async def GetRealmTrust(self, request: Any, context: Any) -> pb.GetRealmTrustResponse:  # noqa: N802
        await self._play(request, context)
        return pb.GetRealmTrustResponse(realm_trust=realm_trust_pb2.SignedRealmTrust(realm_trust=b"t"))

    async def BatchGetKeyInfo(self, request: Any, context: Any) -> pb.BatchGetKeyInfoResponse:  # noqa: N802
        await self._play(request, context)
        results = [pb.LookUpResult(username=name, key_info=KEY_INFO) for name in request.usernames]
        return pb.BatchGetKeyInfoResponse(results=results)

    def add_to(self, server: grpc.aio.Server) -> None:
        directory_service_pb2_grpc.add_DirectoryServiceServicer_to_server(self, server)


def refusal(code: grpc.StatusCode, reason: str, **details: Any) -> Any:
    return lambda context: refuse(context, code, reason, **details)


UNAVAILABLE = refusal(grpc.StatusCode.UNAVAILABLE, "CA_UNAVAILABLE")


class CountingSigner:
    def __init__(self, fingerprint: bytes = b"\1" * 32) -> None:
        self.fingerprint = fingerprint
        self.minted: list[tuple[str, int, int]] = []

    def mint(self, audience: str, now: int, lifetime_ms: int) -> str:
        self.minted.append((audience, now, lifetime_ms))
        return f"token-{len(self.minted)}-{self.fingerprint[0]}"


async def test_a_call_that_may_be_repeated_is_repeated_until_it_succeeds(connect: Any, retries: Retries) -> None:
    service = ScriptedDirectory(UNAVAILABLE, UNAVAILABLE)
    client = DirectoryClient(await connect(service.add_to), retries)
    assert await client.get_key_info("bob", min_revision=7) == KEY_INFO
    assert len(service.requests) == 3
    assert service.requests[0] == pb.GetKeyInfoRequest(username="bob", min_revision=7)


async def test_waits_double_between_attempts_and_stop_at_the_bound(
    connect: Any, retries: Retries, sleeps: list[float]
) -> None:
    service = ScriptedDirectory(*[UNAVAILABLE] * 9)
    client = DirectoryClient(await connect(service.add_to), retries)
    with pytest.raises(RefusedError) as caught:
        await client.get_key_info("bob")
    assert caught.value.reason == "CA_UNAVAILABLE"
    assert caught.value.retriable
    assert sleeps == [0.1, 0.2, 0.4]
    assert len(service.requests) == 4


def test_jitter_is_full_and_bounded() -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    backoff = Backoff(first=0.1, longest=2.0, uniform=uniform)
    assert [backoff.delay(0), backoff.delay(50), backoff.delay(0, retry_after_ms=1500)] == [0.0, 0.0, 1.5]
    assert asked == [(0.0, 0.1), (0.0, 2.0), (0.0, 0.1)]


async def test_the_wait_that_the_service_asks_for_is_honoured(
    connect: Any, retries: Retries, sleeps: list[float]
) -> None:
    limited = refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry_after_ms=2500)
    client = DirectoryClient(await connect(ScriptedDirectory(limited).add_to), retries)
    await client.get_key_info("bob")
    assert sleeps == [2.6]


async def test_a_wait_beyond_the_deadline_is_not_begun(connect: Any, sleeps: Any) -> None:
    limited = refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry_after_ms=60_000)
    service = ScriptedDirectory(limited)
    client = DirectoryClient(await connect(service.add_to), Retries(sleep=sleeps))
    with pytest.raises(RefusedError, match="RATE_LIMITED"):
        await client.get_key_info("bob")
    assert (len(service.requests), sleeps) == (1, [])


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND"),
        (grpc.StatusCode.ABORTED, "REVISION_TAKEN"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "MAILBOX_FULL"),
    ],
)
async def test_a_refusal_that_waiting_does_not_cure_is_raised_at_once(
    connect: Any, retries: Retries, code: grpc.StatusCode, reason: str
) -> None:
    service = ScriptedDirectory(refusal(code, reason, username="bob"))
    client = DirectoryClient(await connect(service.add_to), retries)
    with pytest.raises(RefusedError) as caught:
        await client.get_key_info("bob")
    assert caught.value.reason == reason
    assert caught.value.metadata == {"username": "bob", "request_id": service.request_ids[0]}
    assert not caught.value.retriable
    assert len(service.requests) == 1


@pytest.mark.parametrize("details", [{"domain": "example.com"}, {"infos": 2}, {"infos": 0}, {"reason": "\x1b[31mRED"}])
async def test_a_failure_without_exactly_one_keypost_error_info_is_unexpected(
    connect: Any, retries: Retries, details: dict[str, Any]
) -> None:
    strange = refusal(grpc.StatusCode.NOT_FOUND, **{"reason": "USER_NOT_FOUND", **details})
    client = DirectoryClient(await connect(ScriptedDirectory(strange).add_to), retries)
    with pytest.raises(RefusedError) as caught:
        await client.get_key_info("bob")
    assert caught.value.reason == "UNEXPECTED_ANSWER"


async def test_details_that_contradict_the_status_explain_nothing(connect: Any, retries: Retries) -> None:
    async def garble(context: Any) -> None:
        trailing = (("grpc-status-details-bin", b"\xff\xff garbage"),)
        await context.abort(grpc.StatusCode.INTERNAL, "x", trailing_metadata=trailing)

    client = DirectoryClient(await connect(ScriptedDirectory(garble).add_to), retries)
    with pytest.raises(RefusedError, match="unexpected"):
        await client.get_key_info("bob")


async def test_a_service_cannot_smuggle_control_characters_into_the_sentence(connect: Any, retries: Retries) -> None:
    noisy = refusal(grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND", text="\x1b[31mRED" + "x" * 900)
    client = DirectoryClient(await connect(ScriptedDirectory(noisy).add_to), retries)
    with pytest.raises(RefusedError) as caught:
        await client.get_key_info("bob")
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 700


async def test_a_service_that_does_not_answer_in_time_is_unreachable(connect: Any, sleeps: Any) -> None:
    async def hang(_context: Any) -> None:
        await asyncio.Event().wait()

    retries = Retries(attempts=2, attempt_timeout=0.05, sleep=sleeps)
    service = ScriptedDirectory(hang, hang)
    client = DirectoryClient(await connect(service.add_to), retries)
    with pytest.raises(UnreachableError) as caught:
        await client.get_key_info("bob")
    assert caught.value.metadata["code"] == "DEADLINE_EXCEEDED"
    assert len(sleeps) == 1


async def test_a_call_that_reaches_a_server_which_begins_to_drain_is_repeated(
    connect: Any, retries: Retries, sleeps: list[float]
) -> None:
    """gRPC's core cancels what comes in between its beginning to stop and the client's learning of it."""

    async def cancel(context: Any) -> None:
        await context.abort(grpc.StatusCode.CANCELLED, "CANCELLED")

    service = ScriptedDirectory(cancel)
    assert await DirectoryClient(await connect(service.add_to), retries).get_key_info("bob") == KEY_INFO
    assert len(sleeps) == 1


def test_what_grpc_says_when_it_has_lost_how_a_call_ended_is_no_answer_of_a_service() -> None:
    def read(details: str) -> Refusal:
        nothing = grpc.aio.Metadata()
        return read_refusal(grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, nothing, nothing, details), "delivery")

    assert isinstance(read("Internal error from Core").error, UnreachableError)
    assert isinstance(read("a bug of the service").error, RefusedError)


async def test_a_server_under_another_root_is_not_talked_to(tls: TlsFiles, sleeps: Any) -> None:
    service = ScriptedDirectory()
    server = grpc.aio.server()
    service.add_to(server)
    port = server.add_secure_port("127.0.0.1:0", tls.server_credentials())
    await server.start()
    async with open_channel(f"127.0.0.1:{port}", issue_tls().roots_pem) as channel:
        client = DirectoryClient(channel, Retries(attempts=1, sleep=sleeps), endpoint=f"127.0.0.1:{port}")
        with pytest.raises(UnreachableError, match=f"directory service at 127.0.0.1:{port} does not answer") as caught:
            await client.get_key_info("bob")
    assert caught.value.metadata["endpoint"] == f"127.0.0.1:{port}"
    assert service.requests == []
    await server.stop(None)


async def test_the_token_goes_along_except_where_anybody_may_call(connect: Any, retries: Retries) -> None:
    service, signer = ScriptedDirectory(), CountingSigner()
    tokens = TokenSource("example.org", lambda: signer, lambda: 1_000_000)
    client = DirectoryClient(await connect(service.add_to), retries, tokens)
    await client.get_key_info("bob")
    assert (await client.get_realm_trust()).signed.realm_trust == b"t"
    await client.get_key_info("carol")
    assert service.tokens == ["Bearer token-1-1", None, "Bearer token-1-1"]
    assert signer.minted == [("example.org/directory", 1_000_000, 600_000)]


async def test_a_refused_token_is_replaced_once(connect: Any, retries: Retries) -> None:
    refused = refusal(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED", cause="EXPIRED")
    service, signer = ScriptedDirectory(refused, refused), CountingSigner()
    tokens = TokenSource("example.org", lambda: signer, lambda: 1_000_000)
    client = DirectoryClient(await connect(service.add_to), retries, tokens)
    with pytest.raises(RefusedError, match="TOKEN_REFUSED"):
        await client.get_key_info("bob")
    assert service.tokens == ["Bearer token-1-1", "Bearer token-2-1"]


async def test_a_refused_call_without_tokens_stays_refused(connect: Any, retries: Retries) -> None:
    refused = refusal(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED", cause="MISSING")
    service = ScriptedDirectory(refused)
    with pytest.raises(RefusedError, match="TOKEN_REFUSED"):
        await DirectoryClient(await connect(service.add_to), retries).get_key_info("bob")
    assert len(service.requests) == 1


class EchoingCa(ca_service_pb2_grpc.CertificateAuthorityServiceServicer):
    """Answers each method with something that shows what was asked."""

    async def GetRealmTrust(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        trust = realm_trust_pb2.SignedRealmTrust(realm_trust=b"trust")
        return ca_service_pb2.GetRealmTrustResponse(realm_trust=trust)

    async def BeginEnrollment(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        nonce = request.sign_in.one_time_code.encode()
        return ca_service_pb2.BeginEnrollmentResponse(device_id=request.username, ca_nonce=nonce)

    async def Enroll(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return ca_service_pb2.EnrollResponse(key_info=key_info_pb2.KeyInfo(history=[request.key_request]))

    async def BeginRenewal(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return ca_service_pb2.BeginRenewalResponse(ca_nonce=f"{request.username}/{request.device_id}".encode())

    async def Renew(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return ca_service_pb2.RenewResponse(key_info=key_info_pb2.KeyInfo(history=[request.key_request]))

    async def BeginApproval(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return ca_service_pb2.BeginApprovalResponse(device_id=request.username)

    async def Approve(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return ca_service_pb2.ApproveResponse(key_info=key_info_pb2.KeyInfo(history=[request.key_request]))

    async def Revoke(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        record = key_info_pb2.SignedUserKeys(user_keys=request.revocation.revocation)
        return ca_service_pb2.RevokeResponse(key_info=key_info_pb2.KeyInfo(record=record))

    async def RequestReset(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return ca_service_pb2.RequestResetResponse(reset_time=len(request.username + request.sign_in.one_time_code))

    async def CancelReset(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        record = key_info_pb2.SignedUserKeys(user_keys=request.cancellation.reset_cancellation)
        return ca_service_pb2.CancelResetResponse(key_info=key_info_pb2.KeyInfo(record=record))

    def add_to(self, server: grpc.aio.Server) -> None:
        ca_service_pb2_grpc.add_CertificateAuthorityServiceServicer_to_server(self, server)


async def test_the_ca_client_passes_on_what_it_is_given(connect: Any, retries: Retries) -> None:
    client = CaClient(await connect(EchoingCa().add_to), retries)
    sign_in = ca_service_pb2.SignIn(one_time_code="CODE")
    signed = key_info_pb2.SignedKeyRequest(key_request=b"request", possession=b"signature")
    assert (await client.get_realm_trust()).signed.realm_trust == b"trust"
    begun = await client.begin_enrollment("alice", sign_in)
    assert (begun.device_id, begun.ca_nonce) == ("alice", b"CODE")
    assert (await client.enroll(signed, sign_in)).history[0] == signed
    assert (await client.begin_renewal("alice", "device")).ca_nonce == b"alice/device"
    assert (await client.renew(signed)).history[0] == signed
    assert (await client.begin_approval("alice")).device_id == "alice"
    assert (await client.approve(signed)).history[0] == signed
    assert (await client.request_reset("alice", sign_in)).reset_time == len("aliceCODE")


async def test_the_ca_client_passes_on_what_withdraws(connect: Any, retries: Retries) -> None:
    client = CaClient(await connect(EchoingCa().add_to), retries)
    revocation = key_info_pb2.SignedRevocation(revocation=b"revocation")
    cancellation = key_info_pb2.SignedResetCancellation(reset_cancellation=b"cancellation")
    assert (await client.revoke(revocation)).record.user_keys == b"revocation"
    assert (await client.cancel_reset(cancellation)).record.user_keys == b"cancellation"


class TestTokenSource:
    def test_a_token_is_kept_until_a_minute_before_its_end(self) -> None:
        now, signer = [0], CountingSigner()
        tokens = TokenSource("example.org", lambda: signer, lambda: now[0])
        first = tokens.token("delivery")
        now[0] = 540_000 - 1
        assert tokens.token("delivery") == first
        now[0] = 540_000
        assert tokens.token("delivery") != first

    def test_a_clock_set_back_does_not_lengthen_a_token(self) -> None:
        now, signer = [1_000_000], CountingSigner()
        tokens = TokenSource("example.org", lambda: signer, lambda: now[0])
        first = tokens.token("delivery")
        now[0] = 999_999
        assert tokens.token("delivery") != first

    def test_each_service_gets_its_own(self) -> None:
        signer = CountingSigner()
        tokens = TokenSource("example.org", lambda: signer, lambda: 0)
        assert tokens.token("delivery") != tokens.token("directory")
        assert [audience for audience, _, _ in signer.minted] == [
            "example.org/delivery",
            "example.org/directory",
        ]

    def test_a_renewal_replaces_it(self) -> None:
        signers = [CountingSigner(b"\1" * 32)]
        tokens = TokenSource("example.org", lambda: signers[-1], lambda: 0)
        assert tokens.token("delivery").endswith("-1")
        signers.append(CountingSigner(b"\2" * 32))
        assert tokens.token("delivery").endswith("-2")

    def test_it_does_not_show_a_token(self) -> None:
        tokens = TokenSource("example.org", CountingSigner, lambda: 0)
        token = tokens.token("delivery")
        assert token not in repr(tokens)
        assert token not in repr(tokens._cached)
        tokens.forget()
        assert tokens._cached == {}


async def test_all_attempts_at_a_call_have_one_name_and_the_error_says_it(connect: Any, retries: Retries) -> None:
    service = ScriptedDirectory(*[UNAVAILABLE] * retries.attempts)
    client = DirectoryClient(await connect(service.add_to), retries)
    with pytest.raises(RefusedError) as caught:
        await client.get_key_info("bob")
    await client.get_key_info("bob")
    first, *others, last = service.request_ids
    assert others == [first] * (retries.attempts - 1)
    assert caught.value.metadata["request_id"] == first != last


async def test_an_error_is_named_as_the_service_named_the_call(connect: Any, retries: Retries) -> None:
    async def rename(context: Any) -> None:
        await refuse(context, grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND", named="theirs")

    client = DirectoryClient(await connect(ScriptedDirectory(rename).add_to), retries)
    with pytest.raises(RefusedError) as caught:
        await client.get_key_info("bob")
    assert caught.value.metadata["request_id"] == "theirs"


async def test_each_attempt_is_a_span_and_goes_along(connect: Any, retries: Retries) -> None:
    told = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(told))
    service = ScriptedDirectory(UNAVAILABLE)
    client = DirectoryClient(await connect(service.add_to), retries, traces=Traces(provider))
    with provider.get_tracer("application").start_as_current_span("job") as job:
        await client.get_key_info("bob")
    failed, good, _ = told.get_finished_spans()
    assert [span.name for span in (failed, good)] == ["keypost.directory.v1.DirectoryService/GetKeyInfo"] * 2
    assert [dict(span.attributes or {})["rpc.response.status_code"] for span in (failed, good)] == ["UNAVAILABLE", "OK"]
    ids = [(trace_id_of(context), context.split("-")[2]) for context in service.contexts]
    assert ids == [(f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}") for span in (failed, good)]
    assert {span.parent.span_id for span in (failed, good) if span.parent} == {job.get_span_context().span_id}


async def test_a_process_that_traces_nothing_sends_no_context(connect: Any, retries: Retries) -> None:
    service = ScriptedDirectory()
    await DirectoryClient(await connect(service.add_to), retries).get_key_info("bob")
    assert service.contexts == [""]
