"""By what an administrator is known to the CA: files, read and checked before anything is called."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from keypost.protocol.administrators import check_administrator_key
from keypost.protocol.errors import KeyRefusedError
from keypost_services.runtime.errors import ServiceError
from keypost_services.runtime.identity import public_key_of, realm_of

if TYPE_CHECKING:
    from pathlib import Path

    from keypost.protocol.administrators import AdministratorKey


class AccessError(Exception):
    """A file of the administrator is missing or wrong; the message is the one line that its user reads."""


@dataclass(frozen=True)
class Access:
    """Where the CA is, and by what an administrator is known there.

    Attributes:
        target: ``host:port`` of the CA's internal port.
        certificate_pem: The administrator's certificate.
        private_key: Its private key.
        root_pem: The root of the internal port.
    """

    target: str
    certificate_pem: bytes
    private_key: AdministratorKey = field(repr=False)
    root_pem: bytes

    @property
    def realm(self) -> str:
        """The realm that the certificate names."""
        return realm_of(self.certificate_pem)

    @property
    def private_key_pem(self) -> bytes:
        """The private key, as TLS takes it."""
        return self.private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def read_access(target: str, certificate: Path, private_key: Path, root: Path) -> Access:
    """Read an administrator's files.

    Raises:
        AccessError: One is missing or wrong, or they do not belong together.
    """
    certificate_pem, root_pem = _read(certificate), _read(root)
    _check_certificate(certificate, certificate_pem)
    _check_root(root, root_pem)
    key = _load_key(private_key)
    public_key_der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    if public_key_der != public_key_of(certificate_pem):
        raise AccessError(f"{private_key} is not the private key of {certificate}")
    return Access(target, certificate_pem, key, root_pem)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise AccessError(f"cannot read {file}: {error.strerror}") from error


def _check_certificate(file: Path, pem: bytes) -> None:
    try:
        realm_of(pem)
    except ServiceError as error:
        raise AccessError(f"{file}: {error}") from error


def _check_root(file: Path, pem: bytes) -> None:
    try:
        x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise AccessError(f"{file} holds no certificate in PEM") from error


def _load_key(file: Path) -> AdministratorKey:
    try:
        return check_administrator_key(serialization.load_pem_private_key(_read(file), password=None))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AccessError(f"{file} holds no private key in PEM, or an encrypted one") from error
    except KeyRefusedError as error:
        raise AccessError(f"{file}: {error}") from error
