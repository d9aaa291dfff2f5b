"""Vendors' schemas: they are those that are recorded, and refuse in each of our custom resources what they must."""

from __future__ import annotations

import copy
import functools
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from support.manifests.rendering import TREE, resources_in
from support.manifests.schemas import CUSTOM, RULES, SCHEMAS, VENDORS, VERSIONS, schema_problems
from support.manifests.structural import Validator, strict
from support.manifests.vendors import SUMS, schema_of, sums_of
from support.pages import read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Path = tuple[str | int, ...]

KINDS = [kind for _, kind in CUSTOM]
FREE = {"labels", "annotations", "matchLabels"}
"""Anybody may name a field of these."""


def first(kind: str) -> Any:
    return copy.deepcopy(next(each for each in tree() if each["kind"] == kind))


@functools.cache
def tree() -> list[Any]:
    return [each for file in sorted((TREE / "components").rglob("*.yaml")) for each in resources_in(read(file))]


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the way to every value in a resource, the first item for all of a list."""
    yield path
    for name, part in (
        value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    ):
        yield from paths(part, (*path, name))


def at(value: Any, path: Path) -> Any:
    return functools.reduce(lambda part, name: part[name], path, value)


def refused(resource: Any) -> str:
    return "\n".join(schema_problems(resource, VERSIONS[-1]))


def test_the_schemas_are_those_that_are_recorded() -> None:
    assert {file.name for file in VENDORS.glob("*.json")} == {*CUSTOM.values()}
    assert read(VENDORS / SUMS) == sums_of(VENDORS)
    assert json.loads(read(RULES)).keys() <= {*KINDS}


def test_the_page_of_the_schemas_names_the_versions_that_they_were_made_of() -> None:
    page, modules = read(SCHEMAS / "README.md"), read(SCHEMAS / "go.mod")
    named = re.findall(r"`([\w./-]+)` (v[\d.]+) \|", page)
    assert len(named) == 3
    assert [f"{name} {version}" for name, version in named if f"\t{name} {version}\n" not in modules] == []
    assert {file for file in CUSTOM.values() if f"`{file}`" not in page} == set()


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_that_there_is_not_is_refused_wherever_it_stands(kind: str) -> None:
    resource = first(kind)
    objects = [path for path in paths(resource) if isinstance(at(resource, path), dict) and not FREE & {*path}]
    assert {(), ("metadata",), ("spec",)} <= {*objects}
    for path in objects:
        spoilt = copy.deepcopy(resource)
        at(spoilt, path)["keypostField"] = "value"
        assert "'keypostField' was unexpected" in refused(spoilt), path


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_of_another_type_is_refused_wherever_it_stands(kind: str) -> None:
    resource = first(kind)
    values = [path for path in paths(resource) if path not in {(), ("apiVersion",), ("kind",), ("metadata",)}]
    assert ("spec",) in values
    for path in values:
        spoilt = copy.deepcopy(resource)
        at(spoilt, path[:-1])[path[-1]] = 1.5
        assert "1.5 is not of type" in refused(spoilt), path


def test_of_the_list_of_a_definition_only_one_item_may_have_a_name() -> None:
    resource = first("Gateway")
    resource["spec"]["listeners"].append(resource["spec"]["listeners"][0])
    assert "['ca'] is there twice" in refused(resource)


RULED: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "no root for a policy": (
        "BackendTLSPolicy",
        lambda spec: spec["validation"].update(caCertificateRefs=[]),
        "caCertificateRefs",
    ),
    "two roots for a policy": (
        "BackendTLSPolicy",
        lambda spec: spec["validation"].update(wellKnownCACertificates="System"),
        "each of",
    ),
    "a name that X.509 has no place for": ("Certificate", lambda spec: spec.update(commonName="a" * 65), "too long"),
    "a time that is none": ("Certificate", lambda spec: spec.update(duration="90d"), "'90d' does not match"),
    "a renewal that is none": ("Certificate", lambda spec: spec.update(renewBefore="1 week"), "'1 week' does not"),
    "an issuer of no kind": ("Certificate", lambda spec: spec["issuerRef"].update(kind="Isuer"), "'Isuer' is not one"),
    "a method of no name": ("GRPCRoute", lambda spec: spec["rules"][0].update(matches=[{"method": {}}]), "any of"),
    "a Service without a port": ("GRPCRoute", lambda spec: spec["rules"][0]["backendRefs"][0].pop("port"), "'port'"),
    "HTTP with TLS": (
        "Gateway",
        lambda spec: spec["listeners"][0].update(protocol="HTTP"),
        "False schema does not allow",
    ),
    "HTTPS that is passed through": (
        "Gateway",
        lambda spec: spec["listeners"][0]["tls"].update(mode="Passthrough"),
        "'Terminate' was expected",
    ),
    "no certificate": ("Gateway", lambda spec: spec["listeners"][0]["tls"].pop("certificateRefs"), "any of"),
    "an issuer that issues by nothing": ("Issuer", lambda spec: spec.clear(), "non-empty"),
    "an issuer of two kinds": ("Issuer", lambda spec: spec.update(ca={"secretName": "a"}, selfSigned={}), "too many"),
    "an alert that is recorded": (
        "PrometheusRule",
        lambda spec: spec["groups"][0]["rules"][0].update(alert="A", record="a"),
        "each of",
    ),
    "neither an alert nor a record": (
        "PrometheusRule",
        lambda spec: spec["groups"][0]["rules"].append({"expr": "up"}),
        "under any of",
    ),
}
"""What the schemas take, and a vendor's program or a rule in CEL does not."""


@pytest.mark.parametrize("what", RULED)
def test_what_a_rule_of_ours_says_is_refused(what: str) -> None:
    kind, spoil, said = RULED[what]
    resource = first(kind)
    spoil(resource["spec"])
    assert said in refused(resource)


def test_every_kind_with_a_rule_is_shown_to_be_refused_by_it() -> None:
    assert {kind for kind, _, _ in RULED.values()} == {*json.loads(read(RULES))}


def test_numbers_or_words_words_in_any_case_and_fields_of_any_name_are_taken() -> None:
    schema = {
        "type": "object",
        "properties": {
            "port": {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "strategy": {"type": "string", "pattern": "^(?i)(abort|warn)?$"},
            "config": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            "named": {"type": "object", "additionalProperties": {"type": "object"}},
            "size": {"type": "integer", "nullable": True},
        },
    }
    validator = Validator({**strict(schema, "#"), "required": []})
    good: tuple[Any, ...] = (
        {"port": 1},
        {"port": "a"},
        {"strategy": "WARN"},
        {"config": {"a": 1}},
        {"named": {"a": {}}},
        {"size": None},
    )
    bad = ({"port": 1.5}, {"strategy": "wart"}, {"config": 1}, {"named": {"a": {"b": 1}}}, {"size": "a"}, {"other": 1})
    assert [value for value in good if not validator.is_valid(value)] == []
    assert [value for value in bad if validator.is_valid(value)] == []


def test_what_is_experimental_is_left_out_of_a_definition() -> None:
    rule = '<gateway:standard:validation:XValidation:message="one",rule="self.size() == 1">'
    fields: dict[str, Any] = {
        "new": {"type": "string", "description": "New.\n<gateway:experimental>"},
        "old": {"type": "array", "items": {"type": "string", "description": "One."}, "description": rule},
    }
    schema = {"type": "object", "description": "All.", "properties": fields}
    definition = {"metadata": {"name": "a"}, "spec": {"versions": [version_of("v1", schema)]}}
    rules = [{"message": "one", "rule": "self.size() == 1"}]
    old = {"type": "array", "items": {"type": "string"}, "x-kubernetes-validations": rules}
    assert schema_of(definition, "v1") == {"type": "object", "properties": {"old": old}}
    with pytest.raises(ValueError, match="a has no v2"):
        schema_of(definition, "v2")
    fields["old"]["description"] = "<gateway:standard:validation:Enum=a;b>"
    with pytest.raises(ValueError, match="not known"):
        schema_of(definition, "v1")


def version_of(name: str, schema: Any) -> Any:
    return {"name": name, "schema": {"openAPIV3Schema": schema}}
