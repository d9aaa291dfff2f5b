"""What is shown at the handshake, and what is asked for; renewed files are picked up without a restart."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from keypost_services.runtime.errors import ServiceError, StartError
from keypost_services.runtime.identity import service_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
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

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Return what changes when a file changes, or the right to read it."""
        files = (self.certificate, self.private_key, self.root)
        stats = (file.stat() for file in files if file)
        return tuple((stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for stat in stats)

    def load(self) -> TlsContent:
        """Return the files' content.

        Raises:
            ValueError: a file holds something else, or the key is not the certificate's.
            OSError: a file cannot be read.
        """
        certificate, private_key = self.certificate.read_bytes(), self.private_key.read_bytes()
        root = self.root.read_bytes() if self.root else None
        try:
            _check_pair(certificate, private_key)
            ends, root_ends = ends_of(certificate), ends_of(root) if root is not None else None
        except (UnsupportedAlgorithm, x509.InvalidVersion) as error:
            raise ValueError(str(error)) from error
        shown = grpc.ssl_server_certificate_configuration([(private_key, certificate)], root)
        return TlsContent(shown, ends, root_ends, certificate, private_key, root)


@dataclass(frozen=True)
class TlsContent:
    """What was read from the files.

    Attributes:
        shown: What gRPC takes.
        ends: When each certificate of the chain ends, Unix seconds.
        root_ends: When each root ends by which callers show themselves, Unix seconds; None: they show no certificate.
        certificate_pem, private_key_pem, root_pem: What stands in the files.
    """

    shown: grpc.ServerCertificateConfiguration
    ends: Sequence[float]
    root_ends: Sequence[float] | None
    certificate_pem: bytes = field(repr=False)
    private_key_pem: bytes = field(repr=False)
    root_pem: bytes | None = field(repr=False)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return what a caller shows and whom it believes, where a server does the same."""
        return grpc.ssl_channel_credentials(self.root_pem, self.private_key_pem, self.certificate_pem)


def ends_of(certificates_pem: bytes) -> list[float]:
    """Return when each of these certificates ends, Unix seconds.

    Raises:
        ValueError: it holds something else.
    """
    return [one.not_valid_after_utc.timestamp() for one in x509.load_pem_x509_certificates(certificates_pem)]


class FollowedFiles:
    """What a server, or who calls one, shows: read from its files, and again when they change.

    gRPC asks at every connection, before the handshake. What it then gets replaces what it holds, which it frees while
    the handshake of another connection may be just about to begin with it (github.com/grpc/grpc/issues/36693). With
    something at every connection, whoever connects often enough ends the process, and needs no certificate for it. So
    gRPC gets something only when the files have changed, and not before those who asked until then have begun: gRPC
    lets nobody else ask meanwhile. For the same reason files that are no good are read once and not at every
    connection: whoever connects would have a private key checked, and a line written, each time.

    Args:
        files: The files.
        log: Told when a renewed file is no good; the old content then stays in use.
        wait: Lets seconds pass.

    Attributes:
        files: The files.
        content: What the next connection is shown.
        refused: Why that is not what the files hold; None: it is, as far as anybody has looked.

    Raises:
        OSError, ValueError: a file is no good to begin with.
    """

    def __init__(self, files: TlsFiles, log: FilteringBoundLogger, wait: Callable[[float], None] = time.sleep) -> None:
        self.files = files
        self.refused: str | None = None
        self._log = log
        self._wait = wait
        self._seen: object = files.stamp()
        self.content = files.load()
        self._handed_over = self.content
        # gRPC asks from threads of its own.
        self._lock = threading.Lock()

    def look(self, *, again: bool = False) -> None:
        """Read the files if they have changed since anybody looked; never raises.

        Args:
            again: Read what is no good as well if it has not changed: what was in the way may be gone.
        """
        with self._lock:
            seen = self._stamp()
            if seen != self._seen or (again and self.refused is not None):
                self._seen = seen
                self._read()

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what the files hold if they have changed since it was last returned, or None; never raises."""
        self.look()
        content = self.content
        if content is self._handed_over:
            return None
        self._wait(BEGIN_SECONDS)
        self._handed_over = content
        return content.shown

    def _stamp(self) -> object:
        try:
            return self.files.stamp()
        except OSError as error:
            return str(error)

    def _read(self) -> None:
        file = str(self.files.certificate)
        try:
            self.content = self.files.load()
        except (OSError, ValueError) as error:
            if self.refused != str(error):
                self._log.warning("certificate not renewed", file=file, why=str(error))
            self.refused = str(error)
        else:
            self.refused = None
            self._log.info("certificate renewed", file=file)


def follow(files: TlsFiles, log: FilteringBoundLogger) -> FollowedFiles:
    """Return files of one port that are followed.

    Args:
        files: The files.
        log: Told when a renewed file is no good; the old content then stays in use.

    Raises:
        StartError: a file is no good to begin with.
    """
    try:
        return FollowedFiles(files, log)
    except (OSError, ValueError) as error:
        raise StartError(f"{files.certificate} with {files.private_key}: {error}") from error


def server_credentials(followed: FollowedFiles) -> grpc.ServerCredentials:
    """Return credentials of one port that show what the files hold that it follows."""
    return grpc.dynamic_ssl_server_credentials(
        followed.content.shown,
        followed.renewed,  # type: ignore[arg-type]  # it may return None, as gRPC's own page says
        require_client_authentication=followed.files.root is not None,
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
