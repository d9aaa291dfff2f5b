"""docs/settings.md, made from the settings themselves."""

from __future__ import annotations

from pathlib import Path

from pydantic_core import PydanticUndefined

from keypost_services.ca.settings import CaSettings
from keypost_services.delivery.settings import DeliverySettings
from keypost_services.directory.settings import DirectorySettings
from keypost_services.runtime.config import ServiceSettings, variable_of

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
SERVICES: dict[str, type[ServiceSettings]] = {
    "keypost-ca": CaSettings,
    "keypost-directory": DirectorySettings,
    "keypost-delivery": DeliverySettings,
}
HEAD = """# Settings

All three services take their settings from the environment. A setting that is wrong, missing or unknown stops the start
with one line that names it, and exit code 2. `keypost-ca serve --help`, `keypost-directory serve --help`
and `keypost-delivery serve --help` print the same lists.

Made by `make docs`; a test compares it with the code.
"""


def settings_page() -> str:
    """Return the page as the code has it."""
    return "\n".join([HEAD, *(section(name, settings) for name, settings in SERVICES.items())])


def section(name: str, settings: type[ServiceSettings]) -> str:
    rows = [f"## {name}", "", "| variable | default | what it says |", "| --- | --- | --- |"]
    for field_name, field in settings.model_fields.items():
        if field.default is PydanticUndefined:
            default = "**required**"
        elif field.default is None:
            default = "none"
        else:
            default = f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"
        rows.append(f"| `{variable_of(settings, field_name)}` | {default} | {field.description} |")
    return "\n".join([*rows, ""])
