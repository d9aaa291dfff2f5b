"""What manifests are held against of a vendor's CustomResourceDefinition: one version, one channel, no prose."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SUMS = "SHA256SUMS"
"""As ``sha256sum`` writes and checks it."""
_FOR_NO_SCHEMA = re.compile(r"</?gateway:(experimental:|util:excludeFromCRD|validateIPAddress)")
_EXPERIMENTAL = "<gateway:experimental>"
_RULE = re.compile(r'<gateway:standard:validation:XValidation:message="([^"]*)",rule="([^"]*)">')


def schema_of(definition: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Return the schema of one version of a definition, as it is in the standard channel.

    Args:
        definition: As ``controller-gen`` writes it, with the descriptions: the Gateway API's tags are in them.
        version: Such as ``v1``.

    Raises:
        ValueError: There is no such version, or a tag is not known here.
    """
    for each in definition["spec"]["versions"]:
        if each["name"] == version:
            found = _standard(each["schema"]["openAPIV3Schema"])
            if found is not None:
                return found
    raise ValueError(f"{definition['metadata']['name']} has no {version}")


def _standard(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a schema without its descriptions and what is only experimental; None if all of it is."""
    description = schema.get("description", "")
    if _EXPERIMENTAL in description:
        return None
    kept = {name: value for name, value in schema.items() if name != "description"}
    rules = [{"message": message, "rule": rule} for message, rule in _RULE.findall(description)]
    if len(rules) + len(_FOR_NO_SCHEMA.findall(description)) != description.count("gateway:"):
        raise ValueError(f"a tag that is not known: {description}")
    if rules:
        kept["x-kubernetes-validations"] = [*kept.get("x-kubernetes-validations", ()), *rules]
    if "properties" in kept:
        fields = {name: _standard(field) for name, field in kept["properties"].items()}
        kept["properties"] = {name: field for name, field in fields.items() if field is not None}
    for name in ("items", "additionalProperties"):
        if isinstance(kept.get(name), dict):
            kept[name] = _standard(kept[name])
    return kept


def sums_of(folder: Path) -> str:
    """Return the lines of ``SUMS`` for the schemas in a folder."""
    files = sorted(folder.glob("*.json"))
    return "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
