"""Probes a service as Kubernetes does."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def answered(port: int, name: str) -> bool:
    """Return what a probe is answered: a connection of its own, no TLS, one question.

    Raises:
        grpc.RpcError: there was no answer.
    """
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        request = health_pb2.HealthCheckRequest(service=name)
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
