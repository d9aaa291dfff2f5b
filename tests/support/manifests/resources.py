"""Questions to a rendering: which pods there are, what selects them, what they are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from support.manifests.rendering import Resource

NAMESPACE = "keypost"
_WORKLOADS = ("Deployment", "StatefulSet", "Job")


def name_of(resource: Resource) -> str:
    """Return how reports name a resource."""
    return f"{resource['kind']} {resource['metadata']['name']}"


@dataclass(frozen=True)
class Pod:
    """The pods of one workload.

    Attributes:
        workload: The Deployment, StatefulSet or Job.
    """

    workload: Resource

    @property
    def name(self) -> str:
        """The workload's name."""
        return str(self.workload["metadata"]["name"])

    @property
    def kind(self) -> str:
        """The workload's kind."""
        return str(self.workload["kind"])

    @property
    def labels(self) -> dict[str, str]:
        """The labels of its pods."""
        return dict(self.workload["spec"]["template"]["metadata"]["labels"])

    @property
    def spec(self) -> dict[str, Any]:
        """What its pods are."""
        return dict(self.workload["spec"]["template"]["spec"])

    @property
    def containers(self) -> list[dict[str, Any]]:
        """Its containers."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        """The ports that it serves, by name."""
        return {
            port["name"]: port["containerPort"]
            for container in self.spec["containers"]
            for port in container.get("ports", [])
        }

    @property
    def is_ours(self) -> bool:
        """Whether Keypost runs in it, and no store."""
        return all(container["image"].split(":")[0] == "keypost" for container in self.containers)


class Manifests:
    """A rendering.

    Args:
        resources: Its resources.
    """

    def __init__(self, resources: list[Resource]) -> None:
        self.resources = resources

    def of_kind(self, kind: str) -> list[Resource]:
        """Return the resources of a kind."""
        return [resource for resource in self.resources if resource["kind"] == kind]

    def find(self, kind: str, name: str) -> Resource | None:
        """Return a resource, if it is there."""
        return next((found for found in self.of_kind(kind) if found["metadata"]["name"] == name), None)

    @property
    def pods(self) -> list[Pod]:
        """The pods of all workloads."""
        return [Pod(resource) for kind in _WORKLOADS for resource in self.of_kind(kind)]

    @property
    def services(self) -> list[Pod]:
        """The pods of Keypost's services."""
        return [pod for pod in self.pods if pod.kind == "Deployment"]

    def pods_of(self, service: Resource) -> list[Pod]:
        """Return the pods that a Service selects."""
        selector = service["spec"].get("selector") or {}
        return [pod for pod in self.pods if selector and selector.items() <= pod.labels.items()]

    def keys_of(self, kind: str, name: str) -> set[str] | None:
        """Return the keys of a ConfigMap or Secret of the rendering; None: it is not there."""
        found = self.find(kind, name)
        return None if found is None else {*(found.get("data") or {}), *(found.get("stringData") or {})}


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return whether a label selector selects what has these labels; an empty one selects all.

    Raises:
        ValueError: it has an operator that is not known here.
    """
    wanted = selector.get("matchLabels") or {}
    return wanted.items() <= dict(labels).items() and all(
        _holds(rule, labels) for rule in selector.get("matchExpressions") or []
    )


def _holds(rule: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value = labels.get(rule["key"])
    match rule["operator"]:
        case "In":
            return value in rule["values"]
        case "NotIn":
            return value not in rule["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise ValueError(f"an operator that is not known here: {rule['operator']}")


def strings_in(value: object) -> Iterator[str]:
    """Yield every string within a resource."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from strings_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings_in(part)
