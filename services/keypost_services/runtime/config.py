"""Settings of a service: from the environment, each documented, each checked before anything starts."""

from __future__ import annotations

import difflib
import os
import re
import sys
from pathlib import Path  # noqa: TC003  # pydantic reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, FilePath, ValidationError, model_validator
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, SettingsConfigDict

from keypost.protocol.identifiers import check_realm
from keypost_services.runtime.limits.text import read_limits
from keypost_services.runtime.proxies import read_networks
from keypost_services.runtime.setting_files import OR_IN_FILE, file_variable, may_be_in_file, read_from_files
from keypost_services.runtime.urls import check_collector

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_LISTEN = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}")
# Kubernetes puts such variables into every pod, for every service of its namespace.
_KUBERNETES = re.compile(r"(?:SERVICE_HOST|SERVICE_PORT|PORT)(?:_.*)?")


def _listen(value: str) -> str:
    if not _LISTEN.fullmatch(value) or int(value.rpartition(":")[2]) > 65_535:  # noqa: PLR2004  # the highest port
        raise ValueError("must be host:port, such as 0.0.0.0:8443 or [::]:8443 (port 0: any free one)")
    return value


def check_redis_url(url: str) -> str:
    """Return ``url`` if it can be one of a Redis or Valkey server; raises ValueError if it cannot."""
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must be a Redis URL, such as redis://127.0.0.1:6379/0 or rediss://name:password@host:6380/0")
    return url


def _limits(text: str) -> str:
    read_limits(text)
    return text


def _networks(text: str) -> str:
    read_networks(text)
    return text


RedisUrl = Annotated[str, AfterValidator(check_redis_url)]
"""A Redis or Valkey server."""
Listen = Annotated[str, AfterValidator(_listen)]
"""Where to listen: ``host:port``."""
Realm = Annotated[str, AfterValidator(check_realm)]


class ServiceSettings(BaseSettings):
    """What every service can be told. A service adds its own and sets the prefix of the variables."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        extra="ignore", frozen=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    realm: Realm = Field(description="The realm, such as example.org.")
    public_listen: Listen = Field(description="Where devices call: host:port.", default="127.0.0.1:0")
    internal_listen: Listen | None = Field(
        description="Where other services call, over mutual TLS: host:port. Without it there is no internal port.",
        default=None,
    )
    health_listen: Listen | None = Field(
        description="Where the probes startup, readiness and liveness of grpc.health.v1 are answered without TLS, for "
        "what speaks none, such as Kubernetes: host:port. Without it they are not.",
        default=None,
    )
    metrics_listen: Listen | None = Field(
        description="Where /metrics, /live, /started and /ready are served over plain HTTP: host:port. Without it they "
        "are not.",
        default=None,
    )
    tls_certificate: FilePath = Field(description="PEM file: certificate chain of the public port.")
    tls_private_key: FilePath = Field(description="PEM file: private key of the public port.")
    internal_tls_certificate: FilePath | None = Field(
        description="PEM file: this service's certificate for other services (URI SAN keypost://REALM/service/NAME).",
        default=None,
    )
    internal_tls_private_key: FilePath | None = Field(
        description="PEM file: the private key of that certificate.", default=None
    )
    internal_tls_root: FilePath | None = Field(
        description="PEM file: the root that issues certificates of services and administrators, and nothing else.",
        default=None,
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        description="The least that is logged.", default="info"
    )
    log_format: Literal["json", "console"] = Field(description="json for machines, console for people.", default="json")
    log_calls_per_second: int = Field(
        description="How many lines a second the log has at most for calls of one method that end alike, with the same "
        "status and reason; the next line says how many were left out. The metrics count all.",
        default=10,
        ge=0,
        le=1_000_000,
    )
    drain_seconds: float = Field(
        description="How long calls under way may take after SIGTERM.", default=20.0, ge=0, le=600
    )
    reflection: bool = Field(description="Whether anybody may ask for the service's protos.", default=False)
    trusted_proxies: Annotated[str, AfterValidator(_networks)] = Field(
        description="Networks of gateways that put their own address in the caller's place, with commas between, such "
        "as 10.1.0.0/16,2001:db8::/32: where a call of theirs comes from is what they say in x-forwarded-for. Without "
        "it nobody is believed.",
        default="",
    )
    max_calls: int = Field(
        description="How many calls and streams may be under way at once; more are refused.",
        default=20_000,
        ge=1,
    )
    max_calls_per_caller: int = Field(
        description="How many of them one device, or one network address of callers unknown, may have; never more than "
        "half of all.",
        default=128,
        ge=1,
    )
    anonymous_calls_per_second: float = Field(
        description="How many calls one network address may make a second where nobody has to say who it is (at once: "
        "four times as many).",
        default=50.0,
        gt=0,
    )
    call_seconds: float = Field(description="How long a unary call may take.", default=60.0, gt=0, le=600)
    stream_seconds: float = Field(
        description="How long a stream of a device may last; then it opens another.", default=3_600.0, gt=0, le=3_600
    )
    max_request_bytes: int = Field(
        description="The largest request, bytes.", default=2 * 1024 * 1024, ge=64 * 1024, le=16 * 1024 * 1024
    )
    max_response_bytes: int = Field(
        description="The largest response, bytes.", default=16 * 1024 * 1024, ge=64 * 1024, le=64 * 1024 * 1024
    )
    token_lookups_per_second: float = Field(
        description="How many bad tokens one network address may show a second (at once: ten times as many).",
        default=10.0,
        gt=0,
    )
    limits_url: RedisUrl | None = Field(
        description="URL of the Redis or Valkey that counts calls for all replicas (role limits: every key has a "
        "lifetime). Without it each process counts for itself.",
        default=None,
        repr=False,
        json_schema_extra=OR_IN_FILE,
    )
    limits: Annotated[str, AfterValidator(_limits)] = Field(
        description="How often callers may call, where it is not as in docs/operations.md: NAME=MOST/PERIOD or "
        "NAME=none, with commas between, such as look_ups=600/1m+5000/1d, Receive=none.",
        default="",
    )
    limits_timeout_seconds: float = Field(
        description="How long the limits server may take to answer.", default=0.2, ge=0.01, le=5
    )
    limits_retry_seconds: float = Field(
        description="After the limits server did not answer, it is not asked again for this long.",
        default=1.0,
        ge=0.01,
        le=60,
    )
    tracing_endpoint: Annotated[str, AfterValidator(check_collector)] | None = Field(
        description="Where traces go: an OpenTelemetry collector that takes OTLP over gRPC, https://host:4317, or "
        "http://host:4317 in the clear. Without it there are no traces.",
        default=None,
    )
    tracing_tls_root: FilePath | None = Field(
        description="PEM file: the roots of the collector's TLS certificate. Without it, those that gRPC comes with.",
        default=None,
    )
    tracing_ratio: float = Field(
        description="Of how many calls that are part of no trace yet one is begun: 0 none, 1 all.",
        default=0.01,
        ge=0,
        le=1,
    )
    tracing_device_traces_per_second: float = Field(
        description="How many traces that devices began are gone on with a second, together (at once: twice as many).",
        default=10.0,
        gt=0,
        le=10_000,
    )
    tracing_usernames: bool = Field(
        description="Whether traces name the callers. Whoever reads them then sees who calls, and when.",
        default=False,
    )
    ready_file: Path | None = Field(
        description="A JSON file with the real ports, written when the service serves and removed when it ends.",
        default=None,
    )

    @model_validator(mode="after")
    def _internal_port_has_tls(self) -> Self:
        if self.internal_listen is not None:
            self.require_internal_tls()
        return self

    def require_internal_tls(self) -> tuple[Path, Path, Path]:
        """Return certificate, private key and root for calls among services.

        Raises:
            ValueError: one is not set.
        """
        files = (self.internal_tls_certificate, self.internal_tls_private_key, self.internal_tls_root)
        names = ("internal_tls_certificate", "internal_tls_private_key", "internal_tls_root")
        missing = [variable_of(type(self), name) for name, file in zip(names, files, strict=True) if file is None]
        if missing:
            raise ValueError(f"calls among services need {', '.join(missing)}")
        certificate, private_key, root = files
        assert certificate is not None  # noqa: S101  # for the type checker: nothing is missing
        assert private_key is not None  # noqa: S101
        assert root is not None  # noqa: S101
        return certificate, private_key, root


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def variable_of(settings_cls: type[ServiceSettings], field: str) -> str:
    """Return the environment variable that sets ``field``."""
    return f"{settings_cls.model_config.get('env_prefix', '')}{field}".upper()


def load_settings(settings_cls: type[SettingsT]) -> SettingsT:
    """Read the settings from the environment.

    Raises:
        SystemExit: 2, after one line on standard error that names the variable that is wrong or missing.
    """
    try:
        _refuse_unknown(settings_cls)
        return settings_cls(**_given_as_files(settings_cls))
    except ValidationError as error:
        why = _sentence(settings_cls, error)
    except ValueError as error:
        why = str(error)
    print(why, file=sys.stderr)  # noqa: T201  # the service does not log yet
    raise SystemExit(2)


def _in_files(settings_cls: type[ServiceSettings]) -> dict[str, str]:
    """Return the fields that may be given as files, by variable."""
    fields = settings_cls.model_fields.items()
    return {variable_of(settings_cls, name): name for name, field in fields if may_be_in_file(field)}


def _given_as_files(settings_cls: type[ServiceSettings]) -> dict[str, Any]:
    names = _in_files(settings_cls)
    return {names[variable]: value for variable, value in read_from_files(names).items()}


def _refuse_unknown(settings_cls: type[ServiceSettings]) -> None:
    prefix = str(settings_cls.model_config.get("env_prefix", "")).upper()
    known = [variable_of(settings_cls, field) for field in settings_cls.model_fields]
    known += map(file_variable, _in_files(settings_cls))
    for name in sorted(os.environ if prefix else ()):
        rest = name.upper().removeprefix(prefix)
        if not name.upper().startswith(prefix) or name.upper() in known or _KUBERNETES.fullmatch(rest):
            continue
        close = difflib.get_close_matches(name.upper(), known, n=1)
        raise ValueError(f"{name}: there is no such setting" + (f"; is it {close[0]}?" if close else ""))


def _sentence(settings_cls: type[ServiceSettings], error: ValidationError) -> str:
    first, *others = error.errors(include_url=False, include_input=False, include_context=False)
    line = _problem(settings_cls, first)
    names = [variable_of(settings_cls, str(other["loc"][0])) for other in others if other["loc"]]
    return f"{line} (and see {', '.join(dict.fromkeys(names))})" if names else line


def _problem(settings_cls: type[ServiceSettings], problem: Any) -> str:
    text = problem["msg"].removeprefix("Value error, ").replace("\n", " ")
    if not problem["loc"]:
        return str(text)
    field = str(problem["loc"][0])
    if problem["type"] == "missing":
        about = settings_cls.model_fields[field].description or ""
        return f"{variable_of(settings_cls, field)}: must be set. {about}".rstrip()
    return f"{variable_of(settings_cls, field)}: {text[:1].lower()}{text[1:]}"


def describe_settings(settings_cls: type[ServiceSettings]) -> str:
    """Return all settings with their documentation, for ``--help``: two lines a setting."""
    lines = []
    for name, field in settings_cls.model_fields.items():
        if field.default is PydanticUndefined:
            default = "required"
        elif field.default in (None, ""):
            default = "optional"
        else:
            default = f"default {_shown(field.default)}"
        variable = variable_of(settings_cls, name)
        lines += [f"  {variable} ({default})", f"      {described(variable, field)}"]
    return "\n".join(lines)


def described(variable: str, field: FieldInfo) -> str:
    """Return what a setting says, and how else it may be given."""
    file = f" Or a file that has it: {file_variable(variable)}." if may_be_in_file(field) else ""
    return f"{field.description}{file}"


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
