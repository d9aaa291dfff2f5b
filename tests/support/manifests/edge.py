"""Certificates and routes, against who the services are and what devices may call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keypost_services.runtime.channels import internal_name
from keypost_services.runtime.identity import service_uri
from keypost_services.runtime.method_table import METHODS
from support.manifests.given import given_by_the_operator
from support.manifests.resources import name_of
from support.manifests.settings import realm_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.manifests.rendering import Resource
    from support.manifests.resources import Manifests


def certificate_problems(manifests: Manifests) -> list[str]:
    """Return the certificates that are missing, or that peers of their holder would refuse."""
    certificates = manifests.of_kind("Certificate")
    if not certificates:
        return []
    problems = []
    for pod in manifests.services:
        name = pod.name.removeprefix("keypost-")
        by_secret = {each["spec"]["secretName"]: each for each in certificates}
        problems += [
            f"{pod.name}: has no certificate of its {side} port"
            for side in ("public", "internal")
            if f"{pod.name}-{side}-tls" not in by_secret
        ]
        if internal := by_secret.get(f"{pod.name}-internal-tls"):
            problems += _internal_problems(internal, realm_of(manifests), name)
    return problems + [problem for each in certificates for problem in _issuer_problems(manifests, each)]


def route_problems(manifests: Manifests) -> list[str]:
    """Return the routes that lead nowhere, that devices lack, or that lead to what devices may not call."""
    routes = manifests.of_kind("GRPCRoute")
    if not routes:
        return []
    problems = [problem for route in routes for problem in _route_problems(manifests, route)]
    routed = {
        match["method"]["service"]
        for route in routes
        for rule in route["spec"]["rules"]
        for match in rule.get("matches", [{"method": {"service": "everything"}}])
    }
    wanted = services_for_devices()
    problems += [f"devices have no way to {name}" for name in sorted(wanted - routed)]
    return problems + [f"{name} is none that devices call" for name in sorted(routed - wanted)]


def services_for_devices() -> set[str]:
    """Return the gRPC services of Keypost that devices and strangers may call."""
    return {
        method.split("/")[1]
        for method, callers in METHODS.items()
        if (callers.devices or callers.anyone) and method.startswith("/keypost.")
    }


def _internal_problems(certificate: Resource, realm: str, service: str) -> Iterator[str]:
    spec = certificate["spec"]
    if spec.get("uris") != [service_uri(realm, service)]:
        yield f"{name_of(certificate)}: names {spec.get('uris')}, not {service_uri(realm, service)} alone"
    if internal_name(service) not in spec.get("dnsNames", []):
        yield f"{name_of(certificate)}: lacks the name {internal_name(service)}, which callers expect"
    if not {"server auth", "client auth"} <= set(spec.get("usages", [])):
        yield f"{name_of(certificate)}: is not for both ends of a connection"


def _issuer_problems(manifests: Manifests, certificate: Resource) -> Iterator[str]:
    issuer = manifests.find(certificate["spec"]["issuerRef"]["kind"], certificate["spec"]["issuerRef"]["name"])
    if issuer is None:
        yield f"{name_of(certificate)}: there is no {certificate['spec']['issuerRef']['name']}"
        return
    root = issuer["spec"].get("ca", {}).get("secretName")
    internal = certificate["spec"]["secretName"].endswith("-internal-tls")
    # Whoever holds a certificate of the service root is a service: it issues nothing else.
    if internal != (root == "keypost-service-root"):
        yield f"{name_of(certificate)}: is issued by {root}"
    roots = [each for each in manifests.of_kind("Certificate") if each["spec"]["secretName"] == root]
    if root and [each["spec"].get("isCA") for each in roots] != [True]:
        yield f"{name_of(issuer)}: nobody makes its root {root}"


def _route_problems(manifests: Manifests, route: Resource) -> Iterator[str]:
    listeners = {
        (gateway["metadata"]["name"], listener["name"]): listener
        for gateway in manifests.of_kind("Gateway")
        for listener in gateway["spec"]["listeners"]
    }
    for parent in route["spec"]["parentRefs"]:
        listener = listeners.get((parent["name"], parent.get("sectionName")))
        if listener is None or [listener["hostname"]] != route["spec"]["hostnames"]:
            yield f"{name_of(route)}: no listener takes calls for it"
    for rule in route["spec"]["rules"]:
        for backend in rule["backendRefs"]:
            yield from (
                f"{name_of(route)}: {problem}" for problem in _backend_problems(manifests, route, rule, backend)
            )


def _backend_problems(
    manifests: Manifests, route: Resource, rule: dict[str, Any], backend: dict[str, Any]
) -> Iterator[str]:
    service = manifests.find("Service", backend["name"])
    if service is None or backend["port"] not in [port["port"] for port in service["spec"]["ports"]]:
        yield f"there is no Service {backend['name']} with port {backend['port']}"
        return
    for match in rule.get("matches", []):
        named = match["method"]["service"].split(".")[1]
        if named != backend["name"].removeprefix("keypost-"):
            yield f"{match['method']['service']} is not served by {backend['name']}"
    policies = [
        policy["spec"]["validation"]
        for policy in manifests.of_kind("BackendTLSPolicy")
        if backend["name"] in [target["name"] for target in policy["spec"]["targetRefs"]]
    ]
    if [policy["hostname"] for policy in policies] != route["spec"]["hostnames"]:
        yield f"the gateway would not speak TLS to {backend['name']}, or take its certificate"
    for policy in policies:
        for root in policy["caCertificateRefs"]:
            if "ca.crt" not in given_by_the_operator().get((root["kind"], root["name"]), set()):
                yield f"nobody gives the {root['kind']} {root['name']}"
