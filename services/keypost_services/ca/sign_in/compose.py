"""Wires the kinds of sign-in that the settings switch on."""

from __future__ import annotations

import ssl
from functools import partial
from typing import TYPE_CHECKING

from keypost_services.ca.sign_in.code_sign_in import CodeSignIn
from keypost_services.ca.sign_in.id_tokens import Expected
from keypost_services.ca.sign_in.issuer import Issuer
from keypost_services.ca.sign_in.oidc_sign_in import OidcSignIn
from keypost_services.ca.sign_in.open_sign_in import OpenSignIn
from keypost_services.ca.sign_in.port import Kind
from keypost_services.runtime.config import variable_of
from keypost_services.runtime.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keypost.clock import Clock
    from keypost_services.ca.settings import CaSettings
    from keypost_services.ca.sign_in.port import SignIn
    from keypost_services.ca.store import Store


def sign_ins(settings: CaSettings, store: Store, realm: bytes, clock: Clock) -> Mapping[Kind, SignIn]:
    """Return who decides, by kind. The issuer is not asked yet: it may be away while the CA starts.

    Args:
        settings: Which kinds there are, and what they need.
        store: Where codes and identities are.
        realm: What codes are bound to (``codes.realm_hash``).
        clock: Tells the time.

    Raises:
        StartError: The issuer's roots cannot be read.
    """
    makers: Mapping[Kind, Callable[[], SignIn]] = {
        Kind.CODE: lambda: CodeSignIn(store, realm, clock),
        Kind.OIDC: lambda: _oidc(settings, store, clock),
        Kind.OPEN: OpenSignIn,
    }
    return {kind: makers[kind]() for kind in settings.sign_in}


def _oidc(settings: CaSettings, store: Store, clock: Clock) -> OidcSignIn:
    from keypost_services.ca.sign_in.fetching import fetch_json  # noqa: PLC0415  # slow to import: an HTTP client

    url, client_id = settings.require_oidc()
    fetch = partial(fetch_json, tls=_tls(settings))
    issuer = Issuer(url, fetch, clock, settings.oidc_seconds)
    return OidcSignIn(issuer, Expected(url, client_id, settings.oidc_username_claim), store, clock)


def _tls(settings: CaSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.oidc_ca_bundle)
    except (ssl.SSLError, OSError) as error:
        variable = variable_of(type(settings), "oidc_ca_bundle")
        raise StartError(f"{variable}: {settings.oidc_ca_bundle} is no PEM file of certificates") from error
