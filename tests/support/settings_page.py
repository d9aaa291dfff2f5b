"""docs/settings.md, made from the settings themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic_core import PydanticUndefined

from keypost_services.ca.settings import CaSettings
from keypost_services.delivery.settings import DeliverySettings
from keypost_services.directory.settings import DirectorySettings
from keypost_services.runtime.config import ServiceSettings, described, variable_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic.fields import FieldInfo

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
SHARED = """## All three services

`<SERVICE>` is `CA`, `DIRECTORY` or `DELIVERY`: `KEYPOST_CA_REALM` sets the realm of the CA.
"""
ANY = "KEYPOST_<SERVICE>_"


def settings_page() -> str:
    """Return the page as the code has it."""
    return "\n".join([HEAD, SHARED, _shared(), *(_own(name, settings) for name, settings in SERVICES.items())])


def _shared() -> str:
    rows = (_row(f"{ANY}{name}".upper(), field) for name, field in ServiceSettings.model_fields.items())
    return _table(rows)


def _own(service: str, settings: type[ServiceSettings]) -> str:
    fields = ((name, field) for name, field in settings.model_fields.items() if not _is_shared(name, field))
    return f"## {service}\n\n" + _table(_row(variable_of(settings, name), field) for name, field in fields)


def _is_shared(name: str, field: FieldInfo) -> bool:
    """Return whether a field stands in the first table as it is: a service may change what it inherits."""
    shared = ServiceSettings.model_fields.get(name)
    return shared is not None and _row(name, shared) == _row(name, field)


def _table(rows: Iterable[str]) -> str:
    return "\n".join(["| variable | default | what it says |", "| --- | --- | --- |", *rows, ""])


def _row(variable: str, field: FieldInfo) -> str:
    return f"| `{variable}` | {_default(field)} | {described(variable, field)} |"


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "**required**"
    if field.default in (None, ""):
        return "none"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"
