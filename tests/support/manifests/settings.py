"""Whether the services would start with what a rendering gives them: settings, files, commands, time to drain."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock
from urllib.parse import urlsplit

import typer.main
from typer.exceptions import TyperException

from keypost_services.ca.command_line import app as ca_app
from keypost_services.delivery.compose import compose as compose_delivery
from keypost_services.delivery.settings import DeliverySettings
from keypost_services.directory.compose import compose as compose_directory
from keypost_services.directory.settings import DirectorySettings
from keypost_services.runtime.command_line import service_app
from keypost_services.runtime.config import load_settings, variable_of
from keypost_services.runtime.process import LAST_SECONDS
from keypost_services.runtime.serving import SETTLE_SECONDS
from keypost_services.runtime.tracing import FAREWELL_SECONDS
from support.manifests.given import given_by_the_operator
from support.settings_page import SERVICES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keypost_services.runtime.config import ServiceSettings
    from support.manifests.resources import Manifests, Pod

APPS = {
    "keypost-ca": ca_app,
    "keypost-directory": service_app("directory", "", lambda: DirectorySettings, lambda: compose_directory),
    "keypost-delivery": service_app("delivery", "", lambda: DeliverySettings, lambda: compose_delivery),
}
"""Their command lines, by program."""
FILES = "/etc/keypost"
LISTEN = re.compile(r"(PUBLIC|INTERNAL|HEALTH|METRICS)_LISTEN$")
_GIVEN = {"postgresql": "postgresql://keypost_ca@database:5432/keypost", "redis": "redis://:password@store:6379/0"}


def environment_of(manifests: Manifests, pod: Pod) -> dict[str, str]:
    """Return the environment of a pod's first container, with made-up values for what the operator gives.

    Raises:
        LookupError: it takes something that nobody gives.
    """
    container = pod.spec["containers"][0]
    environment: dict[str, str] = {}
    for source in container.get("envFrom", []):
        settings = manifests.find("ConfigMap", source["configMapRef"]["name"])
        if settings is None:
            raise LookupError(f"{pod.name}: there is no ConfigMap {source['configMapRef']['name']}")
        environment |= settings["data"]
    for variable in container.get("env", []):
        environment[variable["name"]] = variable.get("value") or _secret(manifests, pod, variable)
    return environment


def setting_problems(manifests: Manifests) -> list[str]:
    """Return why services would not take their settings: unknown or missing variables, bad values, files not there."""
    return [problem for pod in manifests.services for problem in _setting_problems(manifests, pod)]


def command_problems(manifests: Manifests) -> list[str]:
    """Return the commands that the programs do not have, or not so."""
    problems = []
    for pod in manifests.pods:
        if not pod.is_ours:
            continue
        container = pod.spec["containers"][0]
        program, *arguments = (str(word) for word in [*container["command"], *container.get("args", [])])
        if program not in APPS:
            problems.append(f"{pod.name}: there is no program {program}")
        elif problem := _refused(program, arguments, environment_of(manifests, pod)):
            problems.append(f"{pod.name}: {problem}")
    return problems


def listening_problems(manifests: Manifests) -> list[str]:
    """Return the ports that are named and not served, and those that are served and not named."""
    problems = []
    for pod in manifests.services:
        served = {
            found[1].lower(): int(value.rpartition(":")[2])
            for name, value in environment_of(manifests, pod).items()
            if (found := LISTEN.search(name))
        }
        if served != pod.ports:
            problems.append(f"{pod.name}: serves {served}, and its ports are {pod.ports}")
    return problems


def target_problems(manifests: Manifests) -> list[str]:
    """Return what the services are to call in this namespace and does not answer there."""
    problems = []
    for pod in manifests.pods:
        if not pod.is_ours:
            continue
        for name, value in environment_of(manifests, pod).items():
            # What the operator gives is elsewhere.
            if value in _GIVEN.values() or not (called := _called(name, value)):
                continue
            host, port = called
            service = manifests.find("Service", host)
            if service is None or port not in [each["port"] for each in service["spec"]["ports"]]:
                problems.append(f"{pod.name}: {name} calls {host}:{port}, which no Service is")
            elif value.startswith("dns:") and service["spec"].get("clusterIP") != "None":
                problems.append(f"{pod.name}: {name} takes turns, and {host} has one address for all replicas")
    return problems


def drain_problems(manifests: Manifests) -> list[str]:
    """Return the pods that would be killed while they drain."""
    problems = []
    for pod in manifests.services:
        settings_cls = _settings_of(pod)
        variable = variable_of(settings_cls, "drain_seconds")
        drain = float(environment_of(manifests, pod).get(variable, settings_cls.model_fields["drain_seconds"].default))
        before = pod.spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        needed = before + drain + SETTLE_SECONDS + FAREWELL_SECONDS + LAST_SECONDS
        if pod.spec.get("terminationGracePeriodSeconds", 30) < needed:
            problems.append(f"{pod.name}: may need {needed:g} s to end, and is killed before")
    return problems


def realm_problems(manifests: Manifests) -> list[str]:
    """Return the services that are not of the CA's realm."""
    realms = {
        pod.name: environment_of(manifests, pod)[variable_of(_settings_of(pod), "realm")] for pod in manifests.services
    }
    return [f"{name}: is of {realm}" for name, realm in realms.items() if realm != realms["keypost-ca"]]


def realm_of(manifests: Manifests) -> str:
    """Return the CA's realm."""
    (pod,) = [pod for pod in manifests.services if pod.name == "keypost-ca"]
    return environment_of(manifests, pod)["KEYPOST_CA_REALM"]


def files_of(manifests: Manifests, pod: Pod) -> Iterator[str]:
    """Yield the paths of the files that are mounted into a pod's first container.

    Raises:
        LookupError: a volume is of something that nobody gives.
    """
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    for mount in pod.spec["containers"][0].get("volumeMounts", []):
        volume = volumes.get(mount["name"])
        if volume is None:
            raise LookupError(f"{pod.name}: there is no volume {mount['name']}")
        for key in _keys_in(manifests, volume):
            yield f"{mount['mountPath']}/{key}"


def keys_of(manifests: Manifests, kind: str, name: str) -> set[str]:
    """Return the keys of a Secret or ConfigMap, of the rendering or of the operator.

    Raises:
        LookupError: nobody gives it.
    """
    keys = manifests.keys_of(kind, name)
    if keys is None:
        keys = given_by_the_operator().get((kind, name))
    if keys is None:
        raise LookupError(f"nobody gives the {kind} {name}")
    return keys


def _keys_in(manifests: Manifests, volume: Mapping[str, Any]) -> set[str]:
    if "secret" in volume:
        return keys_of(manifests, "Secret", volume["secret"]["secretName"])
    if "configMap" in volume:
        if volume["configMap"].get("optional"):
            return set()
        return keys_of(manifests, "ConfigMap", volume["configMap"]["name"])
    return set()


def _secret(manifests: Manifests, pod: Pod, variable: Mapping[str, Any]) -> str:
    source = variable["valueFrom"]["secretKeyRef"]
    if source["key"] not in keys_of(manifests, "Secret", source["name"]):
        raise LookupError(f"{pod.name}: the Secret {source['name']} has no {source['key']}")
    found = manifests.find("Secret", source["name"])
    if found is None:
        return _GIVEN["postgresql" if variable["name"].endswith("DATABASE") else "redis"]
    return base64.b64decode(found["data"][source["key"]]).decode()


def _setting_problems(manifests: Manifests, pod: Pod) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            environment = environment_of(manifests, pod)
            for path in files_of(manifests, pod):
                file = Path(f"{folder}{path}")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
        except LookupError as error:
            return [str(error)]
        moved = {name: value.replace(FILES, f"{folder}{FILES}") for name, value in environment.items()}
        said = io.StringIO()
        with mock.patch.dict(os.environ, moved, clear=True), contextlib.redirect_stderr(said):
            try:
                load_settings(_settings_of(pod))
            except SystemExit:
                return [f"{pod.name}: {said.getvalue().strip().replace(folder, '')}"]
        # Folders need not be there for a setting to be taken, and the service would not start without them.
        named = [value for value in moved.values() if value.startswith(folder)]
        return [f"{pod.name}: {value.removeprefix(folder)} is not there" for value in named if not Path(value).exists()]


def _settings_of(pod: Pod) -> type[ServiceSettings]:
    return SERVICES[pod.name]


def _refused(program: str, arguments: list[str], environment: dict[str, str]) -> str:
    """Return why a program would not take its arguments; it does not run."""
    commands, (name, *options) = typer.main.get_group(APPS[program]).commands, arguments
    if name not in commands:
        return f"{program} has no command {name}"
    try:
        with mock.patch.dict(os.environ, environment, clear=True):
            commands[name].make_context(name, options)
    except TyperException as error:
        return str(error)
    return ""


def _called(name: str, value: str) -> tuple[str, int] | None:
    """Return host and port of a URL or gRPC name among the settings."""
    if name.endswith("_LISTEN") or not (value.startswith("dns:///") or "://" in value):
        return None
    parts = urlsplit(value.replace("dns:///", "dns://"))
    return (parts.hostname or "", parts.port or 0) if parts.scheme in ("dns", "redis", "rediss", "postgresql") else None
