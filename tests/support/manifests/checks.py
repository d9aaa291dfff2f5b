"""All that a rendering is held against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.manifests.edge import certificate_problems, route_problems
from support.manifests.hardening import image_problems, privilege_problems, resource_problems, restricted_problems
from support.manifests.network import flow_problems
from support.manifests.references import (
    given_problems,
    kept_up_problems,
    namespace_problems,
    port_problems,
    selector_problems,
    superfluous_problems,
)
from support.manifests.schemas import VERSIONS, schema_problems
from support.manifests.settings import (
    command_problems,
    drain_problems,
    listening_problems,
    realm_problems,
    setting_problems,
    target_problems,
)
from support.manifests.values import value_problems
from support.manifests.variables import variable_problems
from support.manifests.watching import probe_problems, rule_problems, scrape_problems

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from support.manifests.resources import Manifests


def _schemas(manifests: Manifests) -> list[str]:
    return [
        f"{version}: {problem}"
        for version in VERSIONS
        for resource in manifests.resources
        for problem in schema_problems(resource, version)
    ]


CHECKS: Mapping[str, Callable[[Manifests], list[str]]] = {
    "schemas": _schemas,
    "values": value_problems,
    "settings": setting_problems,
    "variables": variable_problems,
    "commands": command_problems,
    "listening": listening_problems,
    "targets": target_problems,
    "drain": drain_problems,
    "realm": realm_problems,
    "namespaces": namespace_problems,
    "selectors": selector_problems,
    "kept_up": kept_up_problems,
    "ports": port_problems,
    "given": given_problems,
    "superfluous": superfluous_problems,
    "restricted": restricted_problems,
    "privileges": privilege_problems,
    "resources": resource_problems,
    "images": image_problems,
    "flows": flow_problems,
    "probes": probe_problems,
    "scrape": scrape_problems,
    "rules": rule_problems,
    "certificates": certificate_problems,
    "routes": route_problems,
}
"""By name: each returns what it does not like, and nothing of a rendering that is good."""
