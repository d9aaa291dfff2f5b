"""How a service refuses a call, for simulated services: exactly one ErrorInfo, RetryInfo where waiting helps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from keypost.delivery.v1 import delivery_service_pb2 as delivery_pb

if TYPE_CHECKING:
    import grpc.aio


async def refuse(
    context: grpc.aio.ServicerContext[Any, Any],
    code: grpc.StatusCode,
    reason: str,
    *,
    retry_after_ms: int | None = None,
    domain: str = "keypost",
    infos: int = 1,
    text: str = "",
    named: str = "",
    **metadata: str,
) -> NoReturn:
    info = error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata)
    details = [_packed(info) for _ in range(infos)]
    if retry_after_ms is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(retry_after_ms)
        details.append(_packed(retry))
    message = text or f"{reason.lower()} it is"
    status = status_pb2.Status(code=code.value[0], message=message, details=details)
    trailing = rpc_status.to_status(status).trailing_metadata
    name = (("x-request-id", named),) if named else ()
    await context.abort(code, message, trailing_metadata=(*trailing, *name))
    raise AssertionError


def refusal_of(code: grpc.StatusCode, message: str, status: bytes) -> delivery_pb.Refusal:
    """Return the refusal of one envelope of a stream that says what a status says."""
    refusal = delivery_pb.Refusal(code=code.value[0], message=message)
    for detail in status_pb2.Status.FromString(status).details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            refusal.reason = info.reason
            refusal.metadata.update(info.metadata)
        elif detail.Unpack(retry):
            refusal.retry_after = retry.retry_delay.ToMilliseconds()
    return refusal


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
