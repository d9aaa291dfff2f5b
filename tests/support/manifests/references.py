"""Whether what names something within a rendering names something that is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support.manifests.given import given_by_the_operator
from support.manifests.resources import NAMESPACE, Pod, name_of, selects

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from support.manifests.rendering import Resource
    from support.manifests.resources import Manifests

_OF_THE_CLUSTER = {"Namespace"}
"""The kinds of the tree that are in no namespace."""


def namespace_problems(manifests: Manifests) -> list[str]:
    """Return the resources that are not in the namespace of Keypost: nothing there finds them, or is held by them."""
    return [
        f"{name_of(each)}: is in the namespace {each['metadata'].get('namespace')}, not {NAMESPACE}"
        for each in manifests.resources
        if each["kind"] not in _OF_THE_CLUSTER and each["metadata"].get("namespace") != NAMESPACE
    ] + [
        f"{name_of(each)}: is not {NAMESPACE}"
        for each in manifests.of_kind("Namespace")
        if each["metadata"]["name"] != NAMESPACE
    ]


def selector_problems(manifests: Manifests) -> list[str]:
    """Return the selectors that select nothing, or not what they should."""
    selecting = [(service, manifests.pods_of(service)) for service in manifests.of_kind("Service")]
    selecting += [
        (budget, _selected(manifests, budget["spec"]["selector"]))
        for budget in manifests.of_kind("PodDisruptionBudget")
    ]
    problems = [
        f"{name_of(each)}: selects {[pod.name for pod in pods]}, not one kind of pods"
        for each, pods in selecting
        if len(pods) != 1
    ]
    for policy in manifests.of_kind("NetworkPolicy"):
        problems += _policy_problems(manifests, policy)
    for pod in manifests.pods:
        problems += _own_selector_problems(pod)
    for scaler in manifests.of_kind("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        if manifests.find(target["kind"], target["name"]) is None:
            problems.append(f"{name_of(scaler)}: there is no {target['kind']} {target['name']}")
    return problems


def kept_up_problems(manifests: Manifests) -> list[str]:
    """Return the services that nothing scales, or that an upgrade of the machines may take away whole."""
    problems = []
    for pod in manifests.services:
        scalers = [each["spec"] for each in manifests.of_kind("HorizontalPodAutoscaler")]
        if [each["scaleTargetRef"]["name"] for each in scalers].count(pod.name) != 1:
            problems.append(f"{pod.name}: has no autoscaler of its own")
        if "replicas" in pod.workload["spec"]:
            problems.append(f"{pod.name}: every apply would undo what the autoscaler has done")
        budgets = [
            each for each in manifests.of_kind("PodDisruptionBudget") if selects(each["spec"]["selector"], pod.labels)
        ]
        if [each["spec"].get("maxUnavailable") for each in budgets] != [1]:
            problems.append(f"{pod.name}: more than one replica may be taken away at once")
    return problems


def port_problems(manifests: Manifests) -> list[str]:
    """Return the ports of Services that their pods do not serve."""
    problems = []
    for service in manifests.of_kind("Service"):
        headless = service["spec"].get("clusterIP") == "None"
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            for pod in manifests.pods_of(service):
                real = pod.ports.get(target) if isinstance(target, str) else target
                if real not in pod.ports.values():
                    problems.append(f"{name_of(service)}: {pod.name} has no port {target}")
                elif headless and real != port["port"]:
                    problems.append(f"{name_of(service)}: its name leads straight to port {real}, not {port['port']}")
    return problems


def given_problems(manifests: Manifests) -> list[str]:
    """Return the Secrets, ConfigMaps and ServiceAccounts that are named and that nobody makes."""
    problems = []
    for pod in manifests.pods:
        account = pod.spec.get("serviceAccountName")
        if account and manifests.find("ServiceAccount", account) is None:
            problems.append(f"{pod.name}: there is no ServiceAccount {account}")
        problems += [
            f"{pod.name}: nobody gives the {kind} {name}"
            for kind, name in _named_by(pod)
            if manifests.find(kind, name) is None and (kind, name) not in given_by_the_operator()
        ]
    return problems


def superfluous_problems(manifests: Manifests) -> list[str]:
    """Return the Secrets and ConfigMaps of a rendering that no pod takes, nor a Grafana that looks for its label."""
    named = {each for pod in manifests.pods for each in _named_by(pod)}
    made = [each for kind in ("Secret", "ConfigMap") for each in manifests.of_kind(kind)]
    return [
        f"{name_of(each)}: nobody takes it"
        for each in made
        if (each["kind"], each["metadata"]["name"]) not in named and not _is_dashboard(each)
    ]


def _is_dashboard(made: Resource) -> bool:
    labels: dict[str, str] = made["metadata"].get("labels", {})
    return labels.get("grafana_dashboard") == "1"


def _selected(manifests: Manifests, selector: Mapping[str, Any]) -> list[Pod]:
    return [pod for pod in manifests.pods if selects(selector, pod.labels)]


def _policy_problems(manifests: Manifests, policy: Resource) -> Iterator[str]:
    if not _selected(manifests, policy["spec"]["podSelector"]):
        yield f"{name_of(policy)}: selects no pod"
    listed = [value for rule in policy["spec"]["podSelector"].get("matchExpressions") or [] for value in rule["values"]]
    names = {pod.labels["app.kubernetes.io/name"] for pod in manifests.pods}
    yield from (f"{name_of(policy)}: there are no pods {name}" for name in listed if name not in names)


def _own_selector_problems(pod: Pod) -> Iterator[str]:
    if pod.kind != "Job" and not selects(pod.workload["spec"]["selector"], pod.labels):
        yield f"{pod.name}: does not select its own pods"
    for spread in pod.spec.get("topologySpreadConstraints", []):
        if not selects(spread["labelSelector"], pod.labels):
            yield f"{pod.name}: spreads other pods than its own"
        # What a Deployment adds to the labels of its pods is known by this name.
        missing = set(spread.get("matchLabelKeys", [])) - {*pod.labels, "pod-template-hash"}
        yield from (f"{pod.name}: spreads by the label {label}, which it does not have" for label in missing)
    if pod.kind == "Deployment" and {each["topologyKey"] for each in pod.spec.get("topologySpreadConstraints", [])} != {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }:
        yield f"{pod.name}: is not spread over machines and zones"


def _named_by(pod: Pod) -> Iterator[tuple[str, str]]:
    for volume in pod.spec.get("volumes", []):
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
    for container in pod.containers:
        yield from (("ConfigMap", source["configMapRef"]["name"]) for source in container.get("envFrom", []))
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {}).get("secretKeyRef")
            if source:
                yield "Secret", source["name"]
