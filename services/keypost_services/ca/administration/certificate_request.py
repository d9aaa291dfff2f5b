"""How an administrator gets a certificate: a private key that never leaves, and a request for the internal root."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keypost.protocol.identifiers import check_realm
from keypost_services.ca.files import write_private
from keypost_services.runtime.identity import administrator_uri, check_administrator_name

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class MadeRequest:
    """What was written where.

    Attributes:
        uri: What the certificate is to say.
        request: The certificate request (PKCS #10, PEM): for whoever holds the internal root.
        private_key: The file of the private key (PEM): it stays here.
    """

    uri: str
    request: str
    private_key: str


def make_request(folder: Path, realm: str, name: str) -> MadeRequest:
    """Write a new private key and a request for its certificate; overwrites nothing.

    Args:
        folder: Gets ``NAME.key`` and ``NAME.csr``; it is made if it is not there.
        realm: The realm.
        name: The administrator's name.

    Raises:
        ValueError: The realm or the name is none.
        OSError: A file is there already, or cannot be written.
    """
    uri = administrator_uri(check_realm(realm), check_administrator_name(name))
    private_key = ec.generate_private_key(ec.SECP256R1())
    made = MadeRequest(uri, str(folder / f"{name}.csr"), str(folder / f"{name}.key"))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(
        folder / f"{name}.key",
        private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    write_private(folder / f"{name}.csr", _request(private_key, name, uri))
    return made


def _request(private_key: ec.EllipticCurvePrivateKey, name: str, uri: str) -> bytes:
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private_key, hashes.SHA256())
    )
    return request.public_bytes(serialization.Encoding.PEM)
