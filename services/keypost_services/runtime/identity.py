"""Who shows a certificate on the internal port: the one URI in it, read as a URI."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from grpc import StatusCode

from keypost_services.runtime.errors import ServiceError


class Role(enum.Enum):
    """What a certificate of the internal root makes its holder; the word stands in the URI."""

    SERVICE = "service"
    ADMINISTRATOR = "administrator"


_NAMES = {
    Role.SERVICE: re.compile(r"[a-z][a-z0-9-]{0,62}", re.ASCII),
    # It begins with a letter or digit: no dot segment of a URI, and no option of a command line.
    Role.ADMINISTRATOR: re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII),
}


@dataclass(frozen=True)
class Identity:
    """Whom a certificate names."""

    role: Role
    name: str


def service_uri(realm: str, service: str) -> str:
    """Return the URI that names ``service`` in ``realm``."""
    return _uri(realm, Identity(Role.SERVICE, service))


def administrator_uri(realm: str, name: str) -> str:
    """Return the URI that names the administrator ``name`` in ``realm``."""
    return _uri(realm, Identity(Role.ADMINISTRATOR, name))


def check_administrator_name(name: str) -> str:
    """Return the name of an administrator.

    Raises:
        ValueError: it is none.
    """
    if not _NAMES[Role.ADMINISTRATOR].fullmatch(name):
        raise ValueError("an administrator's name is 1 to 64 of a-z 0-9 . _ - and begins with a letter or digit")
    return name


def identity_of(certificate_pem: bytes, realm: str) -> Identity:
    """Return whom a certificate names.

    The TLS handshake has verified the certificate against the internal root; here it is only read.

    Args:
        certificate_pem: The peer's certificate, PEM.
        realm: The realm that the peer must belong to.

    Raises:
        ServiceError: UNAUTHENTICATED with SERVICE_CERTIFICATE_REFUSED.
    """
    return _parse(_only_uri(certificate_pem), realm)


def service_of(certificate_pem: bytes, realm: str) -> str:
    """Return the name of the service that a certificate belongs to; arguments as :func:`identity_of`.

    Raises:
        ServiceError: UNAUTHENTICATED with SERVICE_CERTIFICATE_REFUSED; an administrator is no service.
    """
    identity = identity_of(certificate_pem, realm)
    if identity.role is not Role.SERVICE:
        raise _refused("its URI names no service")
    return identity.name


def realm_of(certificate_pem: bytes) -> str:
    """Return the realm that a certificate of one's own names.

    Raises:
        ServiceError: UNAUTHENTICATED with SERVICE_CERTIFICATE_REFUSED: nobody would accept it.
    """
    realm = urlsplit(_only_uri(certificate_pem)).netloc
    identity_of(certificate_pem, realm)
    return realm


def public_key_of(certificate_pem: bytes) -> bytes:
    """Return the public key of a certificate that was read before: SubjectPublicKeyInfo in DER.

    Raises:
        ServiceError: UNAUTHENTICATED with SERVICE_CERTIFICATE_REFUSED.
    """
    try:
        public_key = x509.load_pem_x509_certificate(certificate_pem).public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise _refused("it has no readable public key") from None
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _only_uri(certificate_pem: bytes) -> str:
    uris = _uris(certificate_pem)
    if len(uris) != 1:
        raise _refused("it must have exactly one URI")
    return uris[0]


def _uris(certificate_pem: bytes) -> list[str]:
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        raise _refused("it has no readable alternative names") from None
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _parse(uri: str, realm: str) -> Identity:
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise _refused("its URI is not one") from None
    folder, _, name = parts.path.removeprefix("/").partition("/")
    role = next((role for role in Role if role.value == folder), None)
    if parts.scheme != "keypost" or role is None or not _NAMES[role].fullmatch(name):
        raise _refused("its URI names neither a service nor an administrator")
    identity = Identity(role, name)
    _check_whole(uri, realm, identity)
    return identity


def _check_whole(uri: str, realm: str, identity: Identity) -> None:
    # Compared whole: what a parser drops or folds (port, user, query, case, controls) may not slip through.
    if uri != _uri(realm, identity):
        raise _refused("its URI is of another realm, or says more than a name")


def _uri(realm: str, identity: Identity) -> str:
    return f"keypost://{realm}/{identity.role.value}/{identity.name}"


def _refused(why: str) -> ServiceError:
    return ServiceError(
        StatusCode.UNAUTHENTICATED,
        "SERVICE_CERTIFICATE_REFUSED",
        f"the certificate is refused: {why}",
    )
