"""Whether every variable that a container of ours is given is one that its program reads, by its exact name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer.main

from keypost_services.runtime.config import variable_of
from keypost_services.runtime.setting_files import file_variable, may_be_in_file
from support.manifests.settings import APPS, keys_of
from support.settings_page import SERVICES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from support.manifests.resources import Manifests


def variable_problems(manifests: Manifests) -> list[str]:
    """Return the variables that the programs would not read: services, Jobs, and what runs before or beside them."""
    return [
        f"{pod.name}: {problem}"
        for pod in manifests.pods
        for container in pod.containers
        if container["image"].split(":")[0] == "keypost"
        for problem in _problems(manifests, container)
    ]


def variables_of(program: str, arguments: list[str]) -> set[str]:
    """Return the variables that a command reads.

    Raises:
        LookupError: there is no such program, or it has no such command.
    """
    if program not in APPS:
        raise LookupError(f"there is no program {program}")
    command: Any = typer.main.get_group(APPS[program])
    while hasattr(command, "commands"):
        word, *arguments = [*arguments, ""]
        if word not in command.commands:
            raise LookupError(f"{program} has no command {word}")
        command = command.commands[word]
    own = {parameter.envvar for parameter in command.params if parameter.envvar}
    return own | _settings(program) if command.name == "serve" else own


def _problems(manifests: Manifests, container: Mapping[str, Any]) -> list[str]:
    words: list[str] = [*container.get("command", []), *container.get("args", []), ""]
    program = words[0]
    try:
        known, given = variables_of(program, words[1:]), list(_given(manifests, container))
    except LookupError as error:
        return [str(error)]
    # Not those of our prefix alone: a slip in the prefix is one, too.
    return [f"{program} does not read {name}" for name in given if name not in known]


def _settings(program: str) -> set[str]:
    settings_cls = SERVICES[program]
    fields = settings_cls.model_fields.items()
    in_files = {file_variable(variable_of(settings_cls, name)) for name, field in fields if may_be_in_file(field)}
    return in_files | {variable_of(settings_cls, name) for name, _ in fields}


def _given(manifests: Manifests, container: Mapping[str, Any]) -> Iterator[str]:
    for source in container.get("envFrom", []):
        kind = "ConfigMap" if "configMapRef" in source else "Secret"
        reference = source.get("configMapRef") or source["secretRef"]
        yield from (f"{source.get('prefix', '')}{key}" for key in sorted(keys_of(manifests, kind, reference["name"])))
    yield from (variable["name"] for variable in container.get("env", []))
