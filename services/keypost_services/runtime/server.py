"""What a service's ``__main__`` and its tests need in order to run it."""

from keypost_services.runtime.process import run_service, service_app
from keypost_services.runtime.serving import Compose, Parts, RunningService, Runtime, ServiceEntry, draw_id, running

__all__ = [
    "Compose",
    "Parts",
    "RunningService",
    "Runtime",
    "ServiceEntry",
    "draw_id",
    "run_service",
    "running",
    "service_app",
]
