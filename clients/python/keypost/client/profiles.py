"""From a folder and a bundle to an open key store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import json_format

from keypost.client.arguments import read_path
from keypost.errors import InvalidArgumentError
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.keystore.errors import KeyStoreMissingError
from keypost.keystore.store import create_store, open_store
from keypost.protocol.identifiers import check_realm

if TYPE_CHECKING:
    from pathlib import Path

    from keypost.keystore.port import KeyStore
    from keypost.keystore.unlock import Unlock

LARGEST_BUNDLE = 1024 * 1024


def read_bundle(source: Path | pb.Bundle) -> pb.Bundle:
    """Return a bundle, from its file (protobuf JSON) or as it is.

    Raises:
        InvalidArgumentError: it cannot be read, or something in it is missing.
    """
    bundle = source if isinstance(source, pb.Bundle) else _parse(read_path(source, "bundle"))
    try:
        check_realm(bundle.realm)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"the bundle names no realm: {error}", field="bundle") from error
    endpoints = bundle.endpoints
    if not (endpoints.ca and endpoints.directory and endpoints.delivery and bundle.root_keys):
        raise InvalidArgumentError("the bundle lacks an endpoint or the root keys: make it anew", field="bundle")
    return bundle


def _parse(path: Path) -> pb.Bundle:
    try:
        text = path.read_bytes()[: LARGEST_BUNDLE + 1]
        if len(text) > LARGEST_BUNDLE:
            raise InvalidArgumentError(f"{path} is too large for a bundle", field="bundle")
        return json_format.Parse(text, pb.Bundle(), ignore_unknown_fields=True)
    except OSError as error:
        raise InvalidArgumentError(f"the bundle {path} cannot be read: {error.strerror}", field="bundle") from error
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"{path} is no bundle (`keypost-ca bundle` makes one)", field="bundle") from error


def open_profile(folder: Path, unlock: Unlock, bundle: pb.Bundle | None) -> tuple[KeyStore, pb.Bundle]:
    """Open the profile in ``folder``, or make one from ``bundle``; return its store and bundle. Blocks.

    Raises:
        KeyStoreError: it cannot be opened or made.
        InvalidArgumentError: the bundle is of another realm, or has other root keys, than the profile.
    """
    try:
        store: KeyStore = open_store(folder, unlock)
    except KeyStoreMissingError:
        if bundle is None:
            raise
        serialised = bundle.SerializeToString(deterministic=True)
        return create_store(folder, unlock, realm=bundle.realm, bundle=serialised), bundle
    try:
        return store, _kept_bundle(store, bundle)
    except BaseException:
        store.close()
        raise


def _kept_bundle(store: KeyStore, bundle: pb.Bundle | None) -> pb.Bundle:
    kept = pb.Bundle.FromString(store.profile.read().bundle)
    if bundle is None:
        return kept
    _check_same_roots(bundle, kept)
    store.profile.set_bundle(bundle.SerializeToString(deterministic=True))
    return bundle


def _check_same_roots(bundle: pb.Bundle, kept: pb.Bundle) -> None:
    # A bundle may bring new endpoints and TLS roots. Whom to believe was settled by the first one.
    if (bundle.realm, list(bundle.root_keys)) != (kept.realm, list(kept.root_keys)):
        raise InvalidArgumentError(
            f"this profile belongs to {kept.realm}; the bundle is of {bundle.realm} or has other root keys",
            field="bundle",
        )
