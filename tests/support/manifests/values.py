"""Whether what stands where Kubernetes knows a few words is one of them.

The schemas of Kubernetes' own kinds call such a field a text; only the API server knows the words. Those of the fields
that the tree has are here. Custom resources have theirs in their schemas.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from support.manifests.resources import name_of
from support.manifests.schemas import CUSTOM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from support.manifests.rendering import Resource
    from support.manifests.resources import Manifests

WORDS: Mapping[str, set[str]] = {
    "Deployment.spec.strategy.type": {"Recreate", "RollingUpdate"},
    "Job.spec.template.spec.restartPolicy": {"Never", "OnFailure"},
    "topologySpreadConstraints.whenUnsatisfiable": {"DoNotSchedule", "ScheduleAnyway"},
    "seccompProfile.type": {"Localhost", "RuntimeDefault", "Unconfined"},
    "capabilities.drop": {"ALL"},
    "HorizontalPodAutoscaler.spec.metrics.type": {"ContainerResource", "External", "Object", "Pods", "Resource"},
    "HorizontalPodAutoscaler.spec.metrics.resource.target.type": {"AverageValue", "Utilization"},
    "scaleDown.policies.type": {"Percent", "Pods"},
    "scaleUp.policies.type": {"Percent", "Pods"},
    "PodDisruptionBudget.spec.unhealthyPodEvictionPolicy": {"AlwaysAllow", "IfHealthyBudget"},
    "NetworkPolicy.spec.policyTypes": {"Egress", "Ingress"},
    "ports.protocol": {"SCTP", "TCP", "UDP"},
    "matchExpressions.operator": {"DoesNotExist", "Exists", "In", "NotIn"},
    # Or an address, which no Service of ours asks for.
    "Service.spec.clusterIP": {"None"},
    "Secret.type": {"Opaque"},
    "accessModes": {"ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"},
}
"""By the end of the field's path, which begins with the kind."""
_LIKE_A_WORD = re.compile(r"[A-Z][A-Za-z]+")
_FREE = {"data", "stringData", "annotations", "labels", "matchLabels", "args", "command"}


def value_problems(manifests: Manifests) -> list[str]:
    """Return the words that Kubernetes does not know where they stand, and those of fields not in ``WORDS``."""
    return [
        f"{name_of(resource)}: {problem}"
        for resource in manifests.resources
        if (resource["apiVersion"], resource["kind"]) not in CUSTOM
        for problem in _problems(resource)
    ]


def _problems(resource: Resource) -> Iterator[str]:
    for path, value in _texts_in(resource, resource["kind"]):
        words = next((words for end, words in WORDS.items() if f".{path}".endswith(f".{end}")), None)
        if words is None and _LIKE_A_WORD.fullmatch(value):
            yield f"{path}: nothing here says which words there are beside {value}"
        elif words is not None and value not in words:
            yield f"{path}: {value} is none of {', '.join(sorted(words))}"


def _texts_in(value: object, path: str) -> Iterator[tuple[str, str]]:
    """Yield every text with its path, but for those that anybody may choose."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, list):
        for part in value:
            yield from _texts_in(part, path)
    elif isinstance(value, dict):
        for name, part in value.items():
            # Kinds are looked up by name, where they lead.
            if name not in _FREE and name != "kind":
                yield from _texts_in(part, f"{path}.{name}")
