"""The bundle: the one file from which clients start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf import json_format

from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost_services.ca.sign_in.urls import check_issuer
from keypost_services.ca.trust.realm_files import RealmFilesError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from keypost.protocol.realm_trust import RealmTrust


@dataclass(frozen=True)
class OidcOptions:
    """Where users sign in.

    Attributes:
        issuer: The issuer's URL.
        client_id: The client id of Keypost there.
        scope: What clients ask for; empty: what they ask for by themselves.
        tls_roots: PEM file: the roots of the issuer's TLS certificate; None: the operating system's.
    """

    issuer: str
    client_id: str
    scope: str = ""
    tls_roots: Path | None = None


def make_bundle(
    trust: RealmTrust, endpoints: Mapping[str, str], tls_roots: Path, oidc: OidcOptions | None = None
) -> str:
    """Return the bundle as protobuf JSON.

    Args:
        trust: The realm's.
        endpoints: ``host:port`` by ``ca``, ``directory`` and ``delivery``.
        tls_roots: PEM file: the roots of the public TLS certificates.
        oidc: Where users sign in, if they do it at an issuer.

    Raises:
        RealmFilesError: A PEM file is missing or wrong, or the issuer's URL is.
    """
    bundle = pb.Bundle(
        realm=trust.realm,
        endpoints=pb.Endpoints(**endpoints),
        root_keys=[pb.RootKey(public_key_der=root) for root in trust.root_keys],
        tls_roots_pem=_read_certificates(tls_roots),
        oidc=None if oidc is None else _oidc_message(oidc),
    )
    return json_format.MessageToJson(bundle)


def _oidc_message(oidc: OidcOptions) -> pb.OidcClient:
    try:
        issuer = check_issuer(oidc.issuer)
    except ValueError as error:
        raise RealmFilesError(f"the issuer {error}") from error
    roots = "" if oidc.tls_roots is None else _read_certificates(oidc.tls_roots)
    return pb.OidcClient(issuer=issuer, client_id=oidc.client_id, scope=oidc.scope, tls_roots_pem=roots)


def _read_certificates(path: Path) -> str:
    try:
        pem = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise RealmFilesError(f"cannot read {path}: it must be a PEM file") from error
    if "-----BEGIN CERTIFICATE-----" not in pem or "PRIVATE KEY" in pem:
        raise RealmFilesError(f"{path} must hold certificates in PEM, and nothing else")
    return pem
