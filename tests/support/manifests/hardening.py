"""The restricted Pod Security Standard, and what else keeps pods from doing more than they should."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from support.manifests.resources import Manifests, Pod

_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi)?")
_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
_HOST = ("hostNetwork", "hostPID", "hostIPC")


def restricted_problems(manifests: Manifests) -> list[str]:
    """Return what the restricted Pod Security Standard refuses, and whether the namespace asks for it."""
    problems = [f"{pod.name}: {problem}" for pod in manifests.pods for problem in _pod_problems(pod)]
    labels = [each["metadata"].get("labels", {}) for each in manifests.of_kind("Namespace")]
    if [each.get("pod-security.kubernetes.io/enforce") for each in labels] != ["restricted"]:
        problems.append("the namespace does not ask for the restricted standard")
    return problems


def privilege_problems(manifests: Manifests) -> list[str]:
    """Return the pods that can call Kubernetes, write where they should not, or share an account."""
    problems = []
    for pod in manifests.pods:
        if pod.spec.get("automountServiceAccountToken") is not False:
            problems.append(f"{pod.name}: is given a token for Kubernetes")
        if pod.spec.get("enableServiceLinks") is not False:
            problems.append(f"{pod.name}: is given a variable for every Service, which may look like a setting")
        problems += [
            f"{pod.name}: may write to its image's files"
            for container in pod.containers
            if not container.get("securityContext", {}).get("readOnlyRootFilesystem")
        ]
        if pod.is_ours and pod.spec.get("serviceAccountName") != pod.name:
            problems.append(f"{pod.name}: has no account of its own")
    problems += [
        f"ServiceAccount {account['metadata']['name']}: hands out tokens"
        for account in manifests.of_kind("ServiceAccount")
        if account.get("automountServiceAccountToken") is not False
    ]
    return problems


def resource_problems(manifests: Manifests) -> list[str]:
    """Return the containers that ask for nothing, or may take everything, of a machine."""
    problems = []
    for pod in manifests.pods:
        for container in pod.containers:
            for side in ("requests", "limits"):
                given = container.get("resources", {}).get(side, {})
                problems += [
                    f"{pod.name}: {side}.{what} is {given.get(what)}"
                    for what in ("cpu", "memory")
                    if not _QUANTITY.fullmatch(str(given.get(what)))
                ]
    return problems


def image_problems(manifests: Manifests) -> list[str]:
    """Return the images whose content may be another one tomorrow, and parts of Keypost of different versions."""
    images = [(pod, container["image"]) for pod in manifests.pods for container in pod.containers]
    loose = [
        f"{pod.name}: {image} does not say which"
        for pod, image in images
        if "@sha256:" not in image and (":" not in image.rpartition("/")[2] or image.endswith(":latest"))
    ]
    ours = {image for pod, image in images if pod.is_ours}
    return loose + ([f"different versions of Keypost: {sorted(ours)}"] if len(ours) > 1 else [])


def _pod_problems(pod: Pod) -> Iterator[str]:
    own = pod.spec.get("securityContext", {})
    yield from (f"{name} is set" for name in _HOST if pod.spec.get(name))
    for volume in pod.spec.get("volumes", []):
        yield from (f"a volume of kind {kind}" for kind in set(volume) - {"name"} - _VOLUMES)
    for container in pod.containers:
        yield from _container_problems(own, container.get("securityContext", {}))
        yield from ("a port of the machine" for port in container.get("ports", []) if port.get("hostPort"))


def _container_problems(pod: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[str]:
    both = {**pod, **container}
    if container.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if container.get("privileged"):
        yield "it is privileged"
    capabilities = container.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "it keeps capabilities"
    if both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0:
        yield "it may be root"
    if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "it has no seccomp profile"
