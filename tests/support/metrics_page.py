"""The tables of docs/metrics.md, made from the metrics themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from keypost_services.ca.metrics import Metrics as CaMetrics
from keypost_services.delivery.metrics import Metrics as DeliveryMetrics
from keypost_services.directory.metrics import Metrics as DirectoryMetrics
from keypost_services.runtime.limits.metrics import LimitMetrics
from keypost_services.runtime.metrics import CallMetrics, HealthMetrics, describe_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

SHARED: Sequence[Callable[[CollectorRegistry], object]] = (CallMetrics, HealthMetrics, LimitMetrics, describe_process)
SERVICES: dict[str, Callable[[CollectorRegistry], object]] = {
    "keypost-ca": CaMetrics,
    "keypost-directory": DirectoryMetrics,
    "keypost-delivery": DeliveryMetrics,
}
VALUES: dict[str, tuple[str, ...]] = {
    "certificate": ("tls_certificate", "internal_tls_certificate", "internal_tls_root", "calling"),
    "instead": ("local", "refused", "uncounted"),
    "kind": ("read", "write"),
    "part": (
        *("limits", "certificates", "heartbeat", "calling"),
        *("database", "realm", "measuring"),
        *("trust", "redis", "ca", "watch"),
        *("mailboxes", "key_events", "emptying", "hook"),
    ),
    "phase": ("live", "backlog"),
    "source": ("ca", "redis"),
    "tier": ("process", "negative", "redis", "ca", "none"),
    "times": ("twice", "often"),
    "why": ("away", "silent", "ended", "cancelled", "gap", "cannot_resume", "fault"),
    "within": ("1d", "7d", "30d"),
}
"""Every value of the labels that have few."""
OTHERS = {
    "code": "a gRPC status, such as `OK` or `UNAVAILABLE`",
    "limit": "a limit's name ([limits](limits.md))",
    "method": "the full name of a method in the protos; `unlisted` for every other one that somebody calls",
    "outcome": "of look-ups and sends: a reason of [errors](errors.md), or `OK`, `accepted`, `duplicate`, `stale`, "
    "`held`; of questions to the CA: `answered`, `away`, `not_asked`; of wake-ups: `sent`, `nothing_waits`, "
    "`failed`, `refused`, `given_up`, `dropped`",
    "reason": "a reason of [errors](errors.md); of streams that ended also `CLIENT`",
    "version": "a version of Keypost",
}
"""What the values of the others are."""
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


class _Listed(CollectorRegistry):
    """Remembers what is registered, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.listed: list[Collector] = []

    def register(self, collector: Collector) -> None:
        super().register(collector)
        self.listed.append(collector)


def table_of_metrics(service: str) -> str:
    """Return the metrics of one service, or (``all``) those that all three have."""
    return f"\n{_table(_registered([SERVICES[service]] if service in SERVICES else SHARED))}\n"


def table_of_labels() -> str:
    """Return the labels and their values."""
    return f"\n{_labels()}\n"


def registry_of_all() -> CollectorRegistry:
    """Return a registry with the metrics of all services, none of them used."""
    return _registered([*SHARED, *SERVICES.values()])


def names() -> set[str]:
    """Return what Prometheus calls the metrics of all services."""
    families = registry_of_all().collect()
    return {f"{family.name}{suffix}" for family in families for suffix in SUFFIXES.get(family.type, ("",))}


def labels_of_all() -> dict[str, tuple[str, ...]]:
    """Return the labels of each metric."""
    return {_family(collector).name: _labels_of(collector) for collector in _collectors(registry_of_all())}


def _registered(kinds: Iterable[Callable[[CollectorRegistry], object]]) -> _Listed:
    registry = _Listed()
    for kind in kinds:
        kind(registry)
    return registry


def _collectors(registry: CollectorRegistry) -> list[Collector]:
    assert isinstance(registry, _Listed)
    return [collector for collector in registry.listed if hasattr(collector, "_labelnames")]


def _family(collector: Collector) -> Metric:
    (family,) = collector.collect()
    return family


def _labels_of(collector: Collector) -> tuple[str, ...]:
    names: tuple[str, ...] = collector._labelnames  # type: ignore[attr-defined]
    return names


def _table(registry: _Listed) -> str:
    rows = [_row(_family(collector), _labels_of(collector)) for collector in _collectors(registry)]
    rows += [
        _row(family, ())
        for collector in registry.listed
        if not hasattr(collector, "_labelnames")
        for family in collector.collect()
    ]
    return "\n".join(["| metric | type | labels | unit | meaning |", "| --- | --- | --- | --- | --- |", *rows, ""])


def _row(family: Metric, labels: Sequence[str]) -> str:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    said = ", ".join(f"`{label}`" for label in labels) or "-"
    return f"| `{name}` | {family.type} | {said} | {_unit(family.name)} | {family.documentation.rstrip('.')} |"


def _unit(name: str) -> str:
    return next((unit for unit in ("seconds", "bytes") if name.endswith(f"_{unit}")), "-")


def _labels() -> str:
    listed = {label: ", ".join(f"`{value}`" for value in values) for label, values in VALUES.items()} | OTHERS
    rows = [f"| `{label}` | {listed[label]} |" for label in sorted(listed)]
    return "\n".join(["| label | values |", "| --- | --- |", *rows, ""])
