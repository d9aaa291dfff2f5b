"""Whether Kubernetes would take a resource: every field known, every value of its type.

Kubernetes' own kinds are held against the schemas of ``kubernetes-validate``. Of the kinds that others bring
(``CUSTOM``) there are their vendors' schemas in ``tests/deploy/schemas``. A kind that neither knows is a problem.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import jsonschema
import kubernetes_validate
import referencing
from kubernetes_validate.utils import all_versions, schema_contents

from support.manifests.resources import name_of
from support.manifests.structural import Validator, strict
from support.pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.manifests.rendering import Resource

VERSIONS = tuple(dict.fromkeys(all_versions()))[-3:]
"""The three newest minor versions of Kubernetes whose schemas are at hand."""
SCHEMAS = ROOT / "tests" / "deploy" / "schemas"
VENDORS = SCHEMAS / "vendors"
RULES = SCHEMAS / "rules.json"
"""By kind: what the vendors' programs refuse and their schemas take, as far as it is said by hand."""
CUSTOM = {
    ("cert-manager.io/v1", "Certificate"): "certificate.json",
    ("cert-manager.io/v1", "Issuer"): "issuer.json",
    ("gateway.networking.k8s.io/v1", "Gateway"): "gateway.json",
    ("gateway.networking.k8s.io/v1", "GRPCRoute"): "grpc-route.json",
    ("gateway.networking.k8s.io/v1", "BackendTLSPolicy"): "backend-tls-policy.json",
    ("monitoring.coreos.com/v1", "ServiceMonitor"): "service-monitor.json",
    ("monitoring.coreos.com/v1", "PrometheusRule"): "prometheus-rule.json",
}
"""The only kinds that are not Kubernetes' own."""


def schema_problems(resource: Resource, version: str) -> list[str]:
    """Return what Kubernetes ``version`` would not take of a resource."""
    # Renderings share most of what they have: each is looked at once.
    return list(_problems(json.dumps(resource, sort_keys=True), version))


@functools.cache
def _problems(text: str, version: str) -> tuple[str, ...]:
    resource = json.loads(text)
    kind = resource.get("apiVersion"), resource.get("kind")
    try:
        validators = _custom(*kind, version) if kind in CUSTOM else [_built_in(*kind, version)]
    except kubernetes_validate.SchemaNotFoundError as error:
        return (f"{name_of(resource)}: {error.message}",)
    return tuple(f"{name_of(resource)}: {error}" for validator in validators for error in _errors(validator, resource))


def _errors(validator: Any, resource: Resource) -> Iterator[str]:
    for error in validator.iter_errors(resource):
        yield f"{error.json_path}: {error.message}"


@functools.cache
def _custom(api_version: str, kind: str, version: str) -> list[Any]:
    """Return the vendor's schema, whose metadata is that of Kubernetes ``version``, and our rules beside it."""
    definitions = _definitions(version)
    metadata = f"{definitions['$id']}#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    schema = _vendors(CUSTOM[api_version, kind], metadata)
    return [Validator(schema, registry=_registry(version)), Validator(_rules().get(kind, {}))]


@functools.cache
def _vendors(file: str, metadata: str) -> Any:
    # Not held against the schema of schemas, which takes seconds: a program made it, and a checksum holds it.
    return strict(json.loads((VENDORS / file).read_text(encoding="utf-8")), metadata)


@functools.cache
def _rules() -> Any:
    rules = json.loads(RULES.read_text(encoding="utf-8"))
    for schema in rules.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    return rules


@functools.cache
def _built_in(api_version: str, kind: str, version: str) -> Any:
    """Return what ``kubernetes_validate.validate`` reads anew at each call, with 2 MB of definitions."""
    group, _, of_group = api_version.rpartition("/")
    name = f"{kind.lower()}-{group.split('.')[0]}-{of_group}" if group else f"{kind.lower()}-{of_group}"
    folder = f"kubernetes-json-schema/v{version}-local-strict"
    try:
        schema = schema_contents(f"{folder}/{name}.json", version)
    except FileNotFoundError:
        raise kubernetes_validate.SchemaNotFoundError(version=version, kind=kind, api_version=api_version) from None
    registry = referencing.Resource.from_contents(schema) @ _registry(version)
    return jsonschema.Draft202012Validator(schema, registry=registry)


@functools.cache
def _registry(version: str) -> Any:
    return referencing.Resource.from_contents(_definitions(version)) @ referencing.Registry()


@functools.cache
def _definitions(version: str) -> Any:
    return schema_contents(f"kubernetes-json-schema/v{version}-local-strict/_definitions.json", version)
