"""What a server shows at the handshake, and what it asks for; renewed files are picked up without a restart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from keypost_services.runtime.errors import ServiceError, StartError
from keypost_services.runtime.identity import service_of

if TYPE_CHECKING:
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger


@dataclass(frozen=True)
class TlsFiles:
    """Where certificate and private key are, and, if callers must show a certificate, its root; all PEM."""

    certificate: Path
    private_key: Path
    root: Path | None = None

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Return what changes when a file changes."""
        files = (self.certificate, self.private_key, self.root)
        return tuple((stat.st_mtime_ns, stat.st_ino) for stat in (file.stat() for file in files if file))

    def load(self) -> grpc.ServerCertificateConfiguration:
        """Return the files' content.

        Raises:
            ValueError: a file holds something else, or the key is not the certificate's.
            OSError: a file cannot be read.
        """
        certificate, private_key = self.certificate.read_bytes(), self.private_key.read_bytes()
        _check_pair(certificate, private_key)
        root = self.root.read_bytes() if self.root else None
        if root is not None:
            x509.load_pem_x509_certificates(root)
        return grpc.ssl_server_certificate_configuration([(private_key, certificate)], root)


def server_credentials(files: TlsFiles, log: FilteringBoundLogger) -> grpc.ServerCredentials:
    """Return credentials that follow their files.

    Args:
        files: The files.
        log: Told when a renewed file is no good; the old content then stays in use.

    Raises:
        StartError: a file is no good to begin with.
    """
    try:
        stamp, current = files.stamp(), files.load()
    except (OSError, ValueError) as error:
        raise StartError(f"{files.certificate} with {files.private_key}: {error}") from error

    def newest() -> grpc.ServerCertificateConfiguration:
        nonlocal stamp, current
        try:
            if (seen := files.stamp()) != stamp:
                current, stamp = files.load(), seen
                log.info("certificate renewed", file=str(files.certificate))
        except (OSError, ValueError) as error:
            log.warning("certificate not renewed", file=str(files.certificate), why=str(error))
        return current

    return grpc.dynamic_ssl_server_credentials(current, newest, require_client_authentication=files.root is not None)


def check_own_certificate(certificate: Path, realm: str, service: str) -> None:
    """Raise unless the internal certificate names this very service.

    Raises:
        StartError: it names another, or none.
    """
    try:
        named = service_of(certificate.read_bytes(), realm)
    except (OSError, ServiceError) as error:
        raise StartError(f"{certificate}: {error}") from error
    if named != service:
        raise StartError(f"{certificate}: it is the certificate of {named}, and this is {service}")


def _check_pair(certificate_pem: bytes, private_key_pem: bytes) -> None:
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    try:
        private_key = load_pem_private_key(private_key_pem, None)
    except TypeError:
        raise ValueError("the private key must not be encrypted") from None
    if private_key.public_key() != certificate.public_key():
        raise ValueError("the private key is not the certificate's")
