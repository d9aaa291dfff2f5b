"""The bundle: the one file from which clients start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import json_format

from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost_services.ca.realm_files import RealmFilesError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from keypost.protocol.realm_trust import RealmTrust


def make_bundle(trust: RealmTrust, endpoints: Mapping[str, str], tls_roots: Path) -> str:
    """Return the bundle as protobuf JSON.

    Args:
        trust: The realm's.
        endpoints: ``host:port`` by ``ca``, ``directory`` and ``delivery``.
        tls_roots: PEM file: the roots of the public TLS certificates.

    Raises:
        RealmFilesError: The PEM file is missing or wrong.
    """
    bundle = pb.Bundle(
        realm=trust.realm,
        endpoints=pb.Endpoints(**endpoints),
        root_keys=[pb.RootKey(public_key_der=root) for root in trust.root_keys],
        tls_roots_pem=_read_certificates(tls_roots),
    )
    return json_format.MessageToJson(bundle)


def _read_certificates(path: Path) -> str:
    try:
        pem = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise RealmFilesError(f"cannot read {path}: it must be a PEM file") from error
    if "-----BEGIN CERTIFICATE-----" not in pem or "PRIVATE KEY" in pem:
        raise RealmFilesError(f"{path} must hold certificates in PEM, and nothing else")
    return pem
