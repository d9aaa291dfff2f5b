"""Who a service is: the one URI in its certificate, read as a URI."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from cryptography import x509
from grpc import StatusCode

from keypost_services.runtime.errors import ServiceError

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}", re.ASCII)


def service_uri(realm: str, service: str) -> str:
    """Return the URI that names ``service`` in ``realm``."""
    return f"keypost://{realm}/service/{service}"


def service_of(certificate_pem: bytes, realm: str) -> str:
    """Return the name of the service that a certificate belongs to.

    The TLS handshake has verified the certificate against the service root; here it is only read.

    Args:
        certificate_pem: The peer's certificate, PEM.
        realm: The realm that the service must belong to.

    Raises:
        ServiceError: UNAUTHENTICATED with SERVICE_CERTIFICATE_REFUSED.
    """
    return _parse(_only_uri(certificate_pem), realm)


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


def _parse(uri: str, realm: str) -> str:
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise _refused("its URI is not one") from None
    folder, _, name = parts.path.removeprefix("/").partition("/")
    if parts.scheme != "keypost" or folder != "service" or not _NAME.fullmatch(name):
        raise _refused("its URI names no service")
    _check_whole(uri, realm, name)
    return name


def _check_whole(uri: str, realm: str, service: str) -> None:
    # Compared whole: what a parser drops or folds (port, user, query, case, controls) may not slip through.
    if uri != service_uri(realm, service):
        raise _refused("its URI names a service of another realm, or more than a service")


def _refused(why: str) -> ServiceError:
    return ServiceError(
        StatusCode.UNAUTHENTICATED,
        "SERVICE_CERTIFICATE_REFUSED",
        f"the service certificate is refused: {why}",
    )
