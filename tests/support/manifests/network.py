"""Who reaches whom under a rendering's NetworkPolicies, and who should by the picture of the architecture."""

from __future__ import annotations

import ipaddress
import itertools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from support.manifests.resources import NAMESPACE, selects
from support.pages import ROOT, blocks, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from support.manifests.rendering import Resource
    from support.manifests.resources import Manifests

Flow = tuple[str, str, str, int]
"""Who calls, who is called, protocol, port."""
STORE_PORTS = {"sql": 5432, "cache": 6379, "mailboxes": 6379, "limits": 6379}
"""By the store's name in the picture."""
OPTIONAL = {"issuer": "KEYPOST_CA_OIDC_ISSUER", "push": "KEYPOST_DELIVERY_HOOK_URL"}
"""The setting that names it, by its name in the picture: whoever has none does not call it."""
_EXTRA_PORTS = (("UDP", 53), ("TCP", 53), ("TCP", 443), ("TCP", 4317), ("TCP", 5432), ("TCP", 6379), ("TCP", 1))
_TRACES = re.compile(r"KEYPOST_([A-Z]+)_TRACING_ENDPOINT")
_SHORT = {"keypost-postgres": "sql"}


@dataclass(frozen=True)
class End:
    """One end of a connection.

    Attributes:
        name: As the picture has it.
        namespace: The namespace of a pod; empty for what is no pod.
        labels: Of the pod.
        address: Of what is no pod.
        is_ours: Whether our policies hold for it.
    """

    name: str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    is_ours: bool = False


OUTSIDE = (
    End("device", address="203.0.113.7"),
    End("the internet", address="198.51.100.9"),
    End("a stranger's pod", "strangers", {"app.kubernetes.io/name": "keypost-directory"}),
    End("dns", "kube-system", {"k8s-app": "kube-dns"}),
    End("another pod of kube-system", "kube-system", {"k8s-app": "other"}),
    End("prometheus", "monitoring", {"app.kubernetes.io/name": "prometheus"}),
    End("another pod of monitoring", "monitoring", {"app.kubernetes.io/name": "grafana"}),
    End("collector", "observability", {"app.kubernetes.io/name": "opentelemetry-collector"}),
    End("another pod of observability", "observability", {"app.kubernetes.io/name": "jaeger"}),
)
EXTERNAL_STORES = tuple(
    End(name, address=f"192.0.2.{10 + place}") for place, name in enumerate(("sql", "cache", "mailboxes", "limits"))
)
"""Where the overlay for stores outside says that they are."""
_OPTIONAL_ENDS = tuple(End(name, address=f"192.0.2.{14 + place}") for place, name in enumerate(OPTIONAL))
"""Where the components for them say that they are."""


def ends_of(manifests: Manifests) -> list[End]:
    """Return everybody who may call or be called: the rendering's pods, its stores outside, and strangers."""
    inside = [End(_short(pod.name), NAMESPACE, pod.labels, is_ours=True) for pod in manifests.pods]
    external = [store for store in EXTERNAL_STORES if store.name not in {end.name for end in inside}]
    return [*inside, *external, *_OPTIONAL_ENDS, *OUTSIDE]


def flows_out(manifests: Manifests) -> set[Flow]:
    """Return what the policies let out of our pods, whether or not the other end lets it in."""
    return _permitted(manifests, "Egress")


def flows_in(manifests: Manifests) -> set[Flow]:
    """Return what the policies let into our pods, whether or not the other end lets it out."""
    return _permitted(manifests, "Ingress")


def wanted_flows(manifests: Manifests) -> set[Flow]:
    """Return the flows of the picture in README.md, as far as the settings have them, and those that Kubernetes adds.

    Raises:
        ValueError: the picture has an end that nothing here stands for.
    """
    outside = [end.name for end in ends_of(manifests) if not end.is_ours]
    serves = {_short(pod.name): pod.ports for pod in manifests.services}
    settings = _settings_of(manifests)
    flows: set[Flow] = set()
    for source, target in arrows_of_picture():
        if source == "sdk":
            # A device is anybody: it shows who it is by a token, not by where it comes from.
            flows |= {(name, target, "TCP", serves[target]["public"]) for name in outside}
        elif target in STORE_PORTS:
            flows.add((source, target, "TCP", STORE_PORTS[target]))
        elif target not in OPTIONAL:
            flows.add((source, target, "TCP", serves[target]["internal"]))
        elif url := settings.get(OPTIONAL[target]):
            flows.add((source, target, "TCP", urlsplit(url).port or 443))
    flows.add(("migrations", "sql", "TCP", STORE_PORTS["sql"]))
    flows |= {(name, "dns", protocol, 53) for name in (*serves, "migrations") for protocol in ("UDP", "TCP")}
    if manifests.of_kind("ServiceMonitor"):
        flows |= {("prometheus", name, "TCP", ports["metrics"]) for name, ports in serves.items()}
    # Where a service is told to hand its traces over, and only there.
    flows |= {(name, "collector", "TCP", port) for name, port in _collector_ports(settings).items() if name in serves}
    return flows


def _settings_of(manifests: Manifests) -> dict[str, str]:
    """Return what all services are told by ConfigMaps."""
    return {key: value for each in manifests.of_kind("ConfigMap") for key, value in each.get("data", {}).items()}


def _collector_ports(settings: Mapping[str, str]) -> dict[str, int]:
    """Return the port of the collector for each service that has one in its settings."""
    found = ((_TRACES.fullmatch(key), value) for key, value in settings.items())
    return {match[1].lower(): urlsplit(value).port or 0 for match, value in found if match}


def flow_problems(manifests: Manifests) -> list[str]:
    """Return the flows of the architecture that the policies forbid, and those that one end permits beyond them."""
    out, into, wanted = flows_out(manifests), flows_in(manifests), wanted_flows(manifests)
    ours = {end.name for end in ends_of(manifests) if end.is_ours}
    missing = {
        flow for flow in wanted if (flow[0] in ours and flow not in out) or (flow[1] in ours and flow not in into)
    }
    # Where devices call, anybody may knock: what our own pods may call is said where they let out.
    open_to_all = {flow[1:] for flow in wanted if flow[0] == "device"}
    too_many = {flow for flow in into - wanted if flow[1:] not in open_to_all}
    return [
        *(f"not let through: {_text(flow)}" for flow in sorted(missing)),
        *(f"let out: {_text(flow)}" for flow in sorted(out - wanted)),
        *(f"let in: {_text(flow)}" for flow in sorted(too_many)),
    ]


def arrows_of_picture() -> list[tuple[str, str]]:
    """Return who calls whom in README's picture of the architecture; the caller first."""
    page = read(ROOT / "README.md").split("## The architecture")[1].split("\n## ")[0]
    (picture,) = [block.text for block in blocks(page) if block.language == "mermaid"]
    inside = set(re.findall(r"(\w+)(?:\[\(|\[)", picture.split("end\n")[0])) - {"device"}
    arrows = []
    for line in picture.split("end\n")[1].splitlines():
        if not line.strip():
            continue
        found = re.fullmatch(r'\s*([\w &]+?) (?:<?-- "[^"]*" -->|-\. "[^"]*" \.->|---|-->) (\w+)(?:[\[(].*)?', line)
        if found is None:
            raise ValueError(f"the picture has a line that is not understood here: {line}")
        arrows += [(source, found[2]) for source in found[1].split(" & ")]
    known = {"sdk", "ca", "directory", "delivery", *STORE_PORTS, *OPTIONAL}
    if unknown := {end for arrow in arrows for end in arrow} - known - inside:
        raise ValueError(f"nothing here stands for {', '.join(sorted(unknown))}")
    return arrows


def _permitted(manifests: Manifests, direction: str) -> set[Flow]:
    """Return the connections, among all ends and all ports that anybody serves, that one end of ours permits."""
    policies, ends = manifests.of_kind("NetworkPolicy"), ends_of(manifests)
    ports = {("TCP", port) for pod in manifests.pods for port in pod.ports.values()} | {*_EXTRA_PORTS}
    return {
        (source.name, target.name, protocol, port)
        for source, target in itertools.permutations(ends, 2)
        for of, other in [(source, target) if direction == "Egress" else (target, source)]
        if of.is_ours
        for protocol, port in ports
        if _permits(policies, of, other, protocol, port, direction)
    }


def _permits(policies: Iterable[Resource], of: End, other: End, protocol: str, port: int, direction: str) -> bool:
    """Return whether the policies for ``of`` permit what goes to or comes from ``other``.

    A policy holds within its namespace alone; one that names none lands wherever whoever applies it happens to be.
    """
    mine = [
        policy["spec"]
        for policy in policies
        if policy["metadata"].get("namespace") == of.namespace
        and direction in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], of.labels)
    ]
    side = "to" if direction == "Egress" else "from"
    return not mine or any(
        _rule_permits(rule, side, other, protocol, port) for spec in mine for rule in spec.get(direction.lower()) or []
    )


def _rule_permits(rule: Mapping[str, Any], side: str, other: End, protocol: str, port: int) -> bool:
    ports, peers = rule.get("ports"), rule.get(side)
    return (not ports or any(_port_fits(each, protocol, port) for each in ports)) and (
        not peers or any(_peer_fits(each, other) for each in peers)
    )


def _port_fits(rule: Mapping[str, Any], protocol: str, port: int) -> bool:
    if not isinstance(rule.get("port", 0), int):
        raise TypeError("write the number of a port: names are not looked up here")
    first = rule.get("port", port)
    return bool(rule.get("protocol", "TCP") == protocol and first <= port <= rule.get("endPort", first))


def _peer_fits(peer: Mapping[str, Any], other: End) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        return bool(other.address) and _within(other.address, block["cidr"], block.get("except") or ())
    if not other.namespace:
        return False
    if "namespaceSelector" in peer:
        in_namespace = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace})
    else:
        in_namespace = other.namespace == NAMESPACE
    return in_namespace and selects(peer.get("podSelector") or {}, other.labels)


def _within(address: str, block: str, but: Iterable[str]) -> bool:
    at = ipaddress.ip_address(address)
    return at in ipaddress.ip_network(block) and not any(at in ipaddress.ip_network(each) for each in but)


def _short(name: str) -> str:
    return _SHORT.get(name, name.removeprefix("keypost-"))


def _text(flow: Flow) -> str:
    source, target, protocol, port = flow
    return f"{source} -> {target} {protocol} {port}"
