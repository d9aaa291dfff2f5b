"""The schema of a CustomResourceDefinition as JSON Schema, as strict as an API server that is asked to be.

Such a schema ("structural", as Kubernetes calls it) says which fields there are, not that there are no others: the
server drops what it does not know, or refuses it under ``fieldValidation=Strict``. Here it is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import jsonschema
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FLAGS = re.compile(r"\^(\(\?[a-z]+\))")


def strict(schema: Mapping[str, Any], metadata: str) -> dict[str, Any]:
    """Return the schema of a whole resource, closed.

    Args:
        schema: ``openAPIV3Schema`` of one version of a definition.
        metadata: Refers to the schema of ``metadata``, of which a definition only says that it is an object.
    """
    closed = _closed(schema)
    closed["properties"]["metadata"] = {"$ref": metadata}
    closed["required"] = sorted({*closed.get("required", ()), "apiVersion", "kind", "metadata"})
    return closed


def _closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    # What stands in anyOf, not and their like judges values; the fields are those said outside.
    closed = dict(schema)
    if "properties" in schema:
        closed["properties"] = {name: _closed(field) for name, field in schema["properties"].items()}
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            closed[name] = _closed(schema[name])
    if schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        closed["type"] = ["integer", "string"]
    if schema.get("nullable"):
        closed["type"] = [closed["type"], "null"]
    if "pattern" in schema:
        closed["pattern"] = _pattern(schema["pattern"])
    return closed


def _pattern(pattern: str) -> str:
    """Return it with flags in front: Go takes ``^(?i)a``, and Python does not."""
    moved = _FLAGS.sub(r"\1^", pattern, count=1)
    re.compile(moved)
    return moved


def _one_of_a_kind(
    _validator: object, list_type: str, items: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    """Refuse a second item where Kubernetes tells items apart by their value, or by some of their fields."""
    if list_type == "atomic" or not isinstance(items, list):
        return
    keys = schema.get("x-kubernetes-list-map-keys", ())
    fields = schema["items"].get("properties", {})
    seen: list[object] = []
    for item in items:
        if keys and not isinstance(item, dict):
            continue
        mark = [item.get(key, fields[key].get("default")) for key in keys] if keys else item
        if mark in seen:
            yield ValidationError(f"{mark!r} is there twice")
        seen.append(mark)


Validator: Any = extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator, {"x-kubernetes-list-type": _one_of_a_kind}
)
"""JSON Schema, and what Kubernetes says of lists. Its rules in CEL (``x-kubernetes-validations``) are passed over."""
