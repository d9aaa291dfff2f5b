"""What a server shows at the handshake, and what it asks for; renewed files are picked up without a restart."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from keypost_services.runtime.errors import ServiceError, StartError
from keypost_services.runtime.identity import service_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

BEGIN_SECONDS = 0.5
"""How long a handshake has to begin once it was told that nothing has changed: it takes microseconds."""


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


class FollowedFiles:
    """What a server shows: read from its files, and again when they change.

    gRPC asks at every connection, before the handshake. What it then gets replaces what it holds, which it frees while
    the handshake of another connection may be just about to begin with it (github.com/grpc/grpc/issues/36693). With
    something at every connection, whoever connects often enough ends the process, and needs no certificate for it. So
    gRPC gets something only when the files have changed, and not before those who asked until then have begun: gRPC
    lets nobody else ask meanwhile.

    Args:
        files: The files.
        log: Told when a renewed file is no good; the old content then stays in use.
        wait: Lets seconds pass.

    Attributes:
        content: What is in use.

    Raises:
        OSError, ValueError: a file is no good to begin with.
    """

    def __init__(self, files: TlsFiles, log: FilteringBoundLogger, wait: Callable[[float], None] = time.sleep) -> None:
        self._files = files
        self._log = log
        self._wait = wait
        self._stamp, self.content = files.stamp(), files.load()

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what the files hold if they have changed since it was last returned, or None; never raises."""
        try:
            if (seen := self._files.stamp()) == self._stamp:
                return None
            self.content, self._stamp = self._files.load(), seen
        except (OSError, ValueError) as error:
            self._log.warning("certificate not renewed", file=str(self._files.certificate), why=str(error))
            return None
        self._wait(BEGIN_SECONDS)
        self._log.info("certificate renewed", file=str(self._files.certificate))
        return self.content


def server_credentials(files: TlsFiles, log: FilteringBoundLogger) -> grpc.ServerCredentials:
    """Return credentials of one port that follow their files.

    Args:
        files: The files.
        log: Told when a renewed file is no good; the old content then stays in use.

    Raises:
        StartError: a file is no good to begin with.
    """
    try:
        followed = FollowedFiles(files, log)
    except (OSError, ValueError) as error:
        raise StartError(f"{files.certificate} with {files.private_key}: {error}") from error
    return grpc.dynamic_ssl_server_credentials(
        followed.content,
        followed.renewed,  # type: ignore[arg-type]  # it may return None, as gRPC's own page says
        require_client_authentication=files.root is not None,
    )


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
