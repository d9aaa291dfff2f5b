"""From a folder and a bundle to an open key store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf import json_format

from keypost.client.arguments import read_path
from keypost.errors import InvalidArgumentError
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.keystore.errors import KeyStoreMissingError
from keypost.keystore.store import create_store, open_store
from keypost.protocol.encoding import fingerprint
from keypost.protocol.identifiers import check_realm

if TYPE_CHECKING:
    from pathlib import Path

    from keypost.keystore.port import KeyStore
    from keypost.keystore.unlock import Unlock
    from keypost.protocol.realm_trust import RealmTrust

LARGEST_BUNDLE = 1024 * 1024
EXPECTED = "expected-bundle"
"""The note by which a restored profile keeps the bundle that it was restored by, until its root keys are explained."""


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


@dataclass(frozen=True)
class Bundles:
    """What a profile goes by.

    Attributes:
        current: Where the services are.
        root_keys: Whom to believe at first (SubjectPublicKeyInfo, DER): settled by the profile's first bundle.
        unexplained: Whether ``current`` is new and names other root keys: then the realm's trust has to explain them.
        restored: Whether ``current`` was named to restore a backup by, and so judges the backup as well.
    """

    current: pb.Bundle
    root_keys: tuple[bytes, ...]
    unexplained: bool = False
    restored: bool = False

    def check_explained(self, trust: RealmTrust) -> None:
        """Check that the root keys of a new bundle are those that the first one's handed over to.

        Raises:
            InvalidArgumentError: they are not.
        """
        if self.unexplained and not set(_root_keys(self.current)) <= set(trust.root_keys):
            raise _other_roots(self.current, trust.realm)
        if self.restored:
            self._check_signed(trust)

    def _check_signed(self, trust: RealmTrust) -> None:
        # Whoever forges a backup may have root keys of his own name those of the realm: by these he signs nothing.
        if trust.signed.root_key_fingerprint not in map(fingerprint, _root_keys(self.current)):
            raise _other_roots(self.current, trust.realm)


def open_profile(folder: Path, unlock: Unlock, bundle: pb.Bundle | None) -> tuple[KeyStore, Bundles]:
    """Open the profile in ``folder``, or make one from ``bundle``; return its store and what it goes by. Blocks.

    Raises:
        KeyStoreError: it cannot be opened or made.
        InvalidArgumentError: the bundle is of another realm than the profile.
    """
    try:
        store: KeyStore = open_store(folder, unlock)
    except KeyStoreMissingError:
        if bundle is None:
            raise
        serialised = bundle.SerializeToString(deterministic=True)
        return create_store(folder, unlock, realm=bundle.realm, bundle=serialised), Bundles(bundle, _root_keys(bundle))
    try:
        return store, _bundles(store, bundle)
    except BaseException:
        store.close()
        raise


def keep_bundle(store: KeyStore, bundle: pb.Bundle) -> None:
    """Have the profile start from another bundle the next time."""
    store.profile.set_bundle(bundle.SerializeToString(deterministic=True))
    store.profile.set_note(EXPECTED, None)


def expect_bundle(store: KeyStore, bundle: pb.Bundle) -> None:
    """Have a profile that is being restored go by a bundle, as soon as its root keys are explained if they are others.

    Whether they are is for the realm's trust to say, when the profile is opened: after a roll-over of the root key an
    older backup knows the new one no more than a forged backup does.

    Raises:
        InvalidArgumentError: the profile is of another realm.
    """
    kept = pb.Bundle.FromString(store.profile.read().bundle)
    _check_same_realm(bundle, kept)
    is_other = set(_root_keys(bundle)) != set(_root_keys(kept))
    store.profile.set_note(EXPECTED, bundle.SerializeToString(deterministic=True) if is_other else None)


def _bundles(store: KeyStore, bundle: pb.Bundle | None) -> Bundles:
    kept = pb.Bundle.FromString(store.profile.read().bundle)
    expected = store.profile.note(EXPECTED)
    if bundle is None and expected is not None:
        bundle = pb.Bundle.FromString(expected)
    if bundle is None:
        return Bundles(kept, _root_keys(kept))
    _check_same_realm(bundle, kept)
    # A bundle may bring new endpoints and TLS roots. Whom to believe was settled by the first one: other root keys are
    # taken once the realm's trust, followed from there, names them.
    if set(_root_keys(bundle)) != set(_root_keys(kept)):
        return Bundles(bundle, _root_keys(kept), unexplained=True, restored=expected is not None)
    keep_bundle(store, bundle)
    return Bundles(bundle, _root_keys(kept))


def _check_same_realm(bundle: pb.Bundle, kept: pb.Bundle) -> None:
    if bundle.realm != kept.realm:
        raise _other_roots(bundle, kept.realm)


def _root_keys(bundle: pb.Bundle) -> tuple[bytes, ...]:
    return tuple(key.public_key_der for key in bundle.root_keys)


def _other_roots(bundle: pb.Bundle, realm: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"this profile belongs to {realm}; the bundle is of {bundle.realm} or has other root keys",
        field="bundle",
    )
