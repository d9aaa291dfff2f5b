"""How a vector file is put together and written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

Case = dict[str, Any]


@dataclass
class VectorFile:
    """One JSON file of vectors.

    Attributes:
        name: The name of the file, without its ending.
        description: What the cases are, and how to read them.
        source: The sections of ``docs/spec.md`` that they follow.
        deterministic: Whether making the file again gives the same bytes (RSA-PSS and RSAES-OAEP draw random numbers).
        shared: Values that cases refer to by name, such as records.
    """

    name: str
    description: str
    source: str
    deterministic: bool = False
    shared: dict[str, Any] = field(default_factory=dict)
    cases: list[Case] = field(default_factory=list)

    def good(self, name: str, **values: Any) -> None:
        """Add a case that must succeed with exactly these values."""
        self.cases.append({"name": name, **values})

    def fails(self, reason: str, name: str, **values: Any) -> None:
        """Add a case that must fail for this reason."""
        self.cases.append({"name": name, "must_fail": reason, **values})

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the file."""
        content: dict[str, Any] = {
            "description": self.description,
            "source": self.source,
            "deterministic": self.deterministic,
        }
        if self.shared:
            content["shared"] = self.shared
        return content | {"cases": self.cases}

    def write(self, folder: Path) -> None:
        """Write the file."""
        (folder / f"{self.name}.json").write_text(json.dumps(self.to_dict(), indent=1) + "\n")


def flipped(data: bytes, position: int = 0) -> bytes:
    """Return ``data`` with one bit of one byte turned over."""
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)
