"""Probes, scraping and alerts, against what the services answer and count."""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

from prometheus_client import CollectorRegistry

from keypost_services.runtime.health import Health
from keypost_services.runtime.heartbeat import Heartbeat
from keypost_services.runtime.logs import make_logger
from keypost_services.runtime.metrics import HealthMetrics
from keypost_services.runtime.probes import Probes
from keypost_services.runtime.probes_http import application
from support.manifests.resources import name_of, selects
from support.metrics_page import names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.manifests.rendering import Resource
from support.manifests.resources import Manifests, Pod


def probe_problems(manifests: Manifests) -> list[str]:
    """Return the probes that are missing, that nothing answers, or that do not tell what they should."""
    return [f"{pod.name}: {problem}" for pod in manifests.services for problem in _probe_problems(pod)]


def scrape_problems(manifests: Manifests) -> list[str]:
    """Return the ServiceMonitors that find nothing, or nothing that is served."""
    return [
        f"{name_of(monitor)}: {problem}"
        for monitor in manifests.of_kind("ServiceMonitor")
        for problem in _scrape_problems(manifests, monitor)
    ]


def rule_problems(manifests: Manifests) -> list[str]:
    """Return the metrics that alerts ask for and that no service has, and the jobs that nobody is."""
    rules = [
        rule
        for each in manifests.of_kind("PrometheusRule")
        for group in each["spec"]["groups"]
        for rule in group["rules"]
    ]
    jobs = {service["metadata"].get("labels", {}).get("app.kubernetes.io/name") for service in _watched(manifests)}
    known = names()
    problems = []
    for rule in rules:
        called = rule.get("alert") or rule["record"]
        asked = set(re.findall(r"\bkeypost_[a-z_]+", rule["expr"]))
        problems += [f"{called}: no service has the metric {name}" for name in sorted(asked - known)]
        named = set(re.findall(r'job="([^"]+)"', rule["expr"]))
        problems += [f"{called}: there is no job {job}" for job in sorted(named - jobs)]
        if "alert" in rule:
            problems += [
                f"{called}: has no {part}" for part in ("summary", "runbook_url") if part not in rule["annotations"]
            ]
    return problems


class State(enum.Enum):
    """What a service can be in."""

    STARTING = "starting"
    SERVING = "serving"
    UNREADY = "unready"
    HUNG = "hung"


# Which states each probe must notice, and no other.
_NOTICED = {
    "startupProbe": {State.STARTING},
    "readinessProbe": {State.STARTING, State.UNREADY, State.HUNG},
    "livenessProbe": {State.HUNG},
}


def answer(name: str, state: State) -> bool | None:
    """Return what a service in this state answers a probe of this name with on its port for health; None: nothing."""
    probe = _probes(state).answers.get(name)
    return None if probe is None else probe()[0]


def _probes(state: State) -> Probes:
    health = Health(make_logger("probed", "critical", "json"), HealthMetrics(CollectorRegistry()))
    health.set_serving(serving=state is not State.STARTING)
    if state is State.UNREADY:
        health.set_degraded("mailboxes", "away", blocks=True)
    return Probes(health, Heartbeat(lambda _: None, hung_seconds=0.0 if state is State.HUNG else 10.0))


def _probe_problems(pod: Pod) -> Iterator[str]:
    for container in pod.spec["containers"]:
        for name, noticed in _NOTICED.items():
            probe = container.get(name)
            if probe is None:
                yield f"it has no {name}"
            elif "grpc" not in probe:
                yield f"{name}: does not ask by gRPC"
            else:
                yield from (f"{name}: {problem}" for problem in _answer_problems(pod, probe["grpc"], noticed))


def _answer_problems(pod: Pod, asked: dict[str, Any], noticed: set[State]) -> Iterator[str]:
    if asked["port"] != pod.ports.get("health"):
        yield f"nothing answers without TLS on port {asked['port']}"
    service = asked.get("service", "")
    if answer(service, State.SERVING) is None:
        yield f"nothing answers {service!r}"
    elif {state for state in State if answer(service, state) is False} != noticed:
        yield f"{service!r} does not tell it"


def _watched(manifests: Manifests) -> list[Resource]:
    return [
        service
        for monitor in manifests.of_kind("ServiceMonitor")
        for service in manifests.of_kind("Service")
        if selects(monitor["spec"]["selector"], service["metadata"].get("labels", {}))
        and service["metadata"]["namespace"] in monitor["spec"]["namespaceSelector"]["matchNames"]
    ]


def _scrape_problems(manifests: Manifests, monitor: Resource) -> Iterator[str]:
    pods = {pod.name for service in _watched(manifests) for pod in manifests.pods_of(service)}
    yield from (f"does not ask {pod.name}" for pod in manifests.services if pod.name not in pods)
    for endpoint in monitor["spec"]["endpoints"]:
        if not _is_scraped_at(endpoint.get("path", "/metrics")):
            yield f"nothing is counted at {endpoint['path']}"
        for service in _watched(manifests):
            if endpoint["port"] not in [port["name"] for port in service["spec"]["ports"]]:
                yield f"{name_of(service)} has no port {endpoint['port']}"


def _is_scraped_at(path: str) -> bool:
    told: list[str] = []
    environ: dict[str, Any] = {"PATH_INFO": path}
    setup_testing_defaults(environ)

    def start(_status: str, headers: list[tuple[str, str]], *_: object) -> Any:
        told.append(dict(headers)["Content-Type"])

    list(application(CollectorRegistry(), _probes(State.SERVING))(environ, start))
    return told[0].startswith("text/plain")
