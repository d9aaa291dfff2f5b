"""What the commands of ``keypost-ca`` on files do, apart from reading their arguments and printing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.clock import DAY
from keypost.errors import KeypostError
from keypost.protocol.encoding import fingerprint
from keypost.protocol.identifiers import check_realm
from keypost.protocol.realm_trust import Constants
from keypost.protocol.suites import suite_named
from keypost_services.ca.bundle import OidcOptions, make_bundle
from keypost_services.ca.durations import parse_duration
from keypost_services.ca.printing import CommandError
from keypost_services.ca.trust.realm_files import RealmFilesError, RealmFolder, create_realm, load_trust

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_LONGEST_KEY_LIFETIME = 398 * DAY


def read_constants(durations: Mapping[str, str], rotation_messages: int, suites: Sequence[str]) -> Constants:
    """Return realm constants that fit together.

    Args:
        durations: Text such as ``60d`` by the name of the constant.
        rotation_messages: The constant of that name.
        suites: Names of the allowed suites.

    Raises:
        CommandError: A value is none, or they contradict each other.
    """
    try:
        constants = Constants(
            **{name: parse_duration(text) for name, text in durations.items()},
            rotation_messages=rotation_messages,
            allowed_suites=tuple(sorted({suite_named(name).id for name in suites}, reverse=True)),
        )
    except (ValueError, KeypostError) as error:
        raise CommandError(str(error)) from error
    if constants.longest_key_lifetime > _LONGEST_KEY_LIFETIME:
        raise CommandError("longest-key-lifetime: 398d at most")
    if constants.retention < constants.age_limit:
        raise CommandError(
            "retention: replaced keys must stay for as long as a message may wait "
            "(rotation-period + mailbox-age + record-lifetime + 1 day and 5 minutes)"
        )
    return constants


def init_realm(
    folder: Path, realm: str, constants: Constants, validity: str, now: int, *, passphrase: str | None
) -> dict[str, object]:
    """Make the realm's files; return what there is to know of them.

    Args:
        folder: Where they go.
        realm: The realm.
        constants: Its constants.
        validity: How long statement and record key are valid, as text.
        now: Unix milliseconds.
        passphrase: Seals the root key; None: nothing does.

    Raises:
        CommandError: Something is there already, or a value is wrong.
    """
    try:
        trust = create_realm(
            RealmFolder(folder), check_realm(realm), constants, parse_duration(validity), now, passphrase=passphrase
        )
    except (RealmFilesError, KeypostError, ValueError) as error:
        raise CommandError(str(error)) from error
    files = RealmFolder(folder)
    return {
        "realm": trust.realm,
        "folder": str(folder),
        "root_key_fingerprint": fingerprint(trust.root_keys[0]).hex(),
        "record_key_fingerprint": trust.record_keys[0].fingerprint.hex(),
        "until_time": trust.until_time,
        "root_key": str(files.root_key),
        "record_key": str(files.record_key),
        "realm_trust": str(files.realm_trust),
    }


def read_oidc(issuer: str | None, client_id: str | None, scope: str, tls_roots: Path | None) -> OidcOptions | None:
    """Return where users sign in; None if no issuer is named.

    Raises:
        CommandError: Half of it is missing.
    """
    if issuer is None and client_id is None and tls_roots is None:
        return None
    if not issuer or not client_id:
        raise CommandError("an issuer needs both --oidc-issuer and --oidc-client-id")
    return OidcOptions(issuer, client_id, scope, tls_roots)


def bundle_of(
    folder: Path, endpoints: Mapping[str, str], tls_roots: Path, now: int, oidc: OidcOptions | None = None
) -> str:
    """Return the bundle as protobuf JSON.

    Args:
        folder: The realm's folder.
        endpoints: ``host:port`` by ``ca``, ``directory`` and ``delivery``.
        tls_roots: PEM file.
        now: Unix milliseconds.
        oidc: Where users sign in, if they do it at an issuer.

    Raises:
        CommandError: A file is missing or wrong.
    """
    try:
        return make_bundle(load_trust(RealmFolder(folder), now), endpoints, tls_roots, oidc)
    except RealmFilesError as error:
        raise CommandError(str(error)) from error
