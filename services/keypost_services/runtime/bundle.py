"""The realm's root keys, out of the bundle file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import json_format

from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost_services.runtime.config import variable_of
from keypost_services.runtime.errors import StartError

if TYPE_CHECKING:
    from pathlib import Path

    from keypost_services.runtime.config import ServiceSettings


def read_root_keys(settings: ServiceSettings, bundle: Path) -> tuple[bytes, ...]:
    """Return the root keys (SubjectPublicKeyInfo, DER) of a bundle.

    Args:
        settings: Name the realm that it must be of, and in errors the variable.
        bundle: The file: a Bundle as protobuf JSON.

    Raises:
        StartError: the file is no bundle, is of another realm, or has no root keys.
    """
    variable = variable_of(type(settings), "bundle")
    try:
        message = json_format.Parse(bundle.read_text(encoding="utf-8"), pb.Bundle())
    except (OSError, ValueError, json_format.ParseError) as error:
        raise StartError(f"{variable}: {bundle} is no bundle: {str(error).splitlines()[0]}") from error
    if message.realm != settings.realm:
        raise StartError(f"{variable}: {bundle} is of {message.realm or 'no realm'}, not of {settings.realm}")
    if not message.root_keys:
        raise StartError(f"{variable}: {bundle} has no root keys")
    return tuple(key.public_key_der for key in message.root_keys)
