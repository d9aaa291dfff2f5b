"""TLS certificates for one machine: a public root, an internal root, and a certificate of each for every service.

The private keys of both roots are dropped when the certificates are written: they issue nothing more.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keypost.clock import Clock, system_clock
from keypost_services.runtime.channels import internal_name
from keypost_services.runtime.identity import administrator_uri, service_uri

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LIFETIME = dt.timedelta(days=365)
_PEM = serialization.Encoding.PEM
LOOPBACK: tuple[x509.GeneralName, ...] = (
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    x509.IPAddress(ipaddress.ip_address("::1")),
)


@dataclass(frozen=True)
class Issued:
    """A certificate and its private key, both PEM."""

    certificate_pem: bytes
    private_key_pem: bytes = field(repr=False)


class TlsRoot:
    """A root that issues TLS certificates as long as this object lives; its private key is never written.

    Args:
        name: The root's common name.
        clock: Tells when the certificates begin.
    """

    def __init__(self, name: str, clock: Clock = system_clock) -> None:
        self._name = _name(name)
        self._clock = clock
        self._private_key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._self_signed()

    @property
    def root_pem(self) -> bytes:
        """The root's certificate, PEM."""
        return self._certificate.public_bytes(_PEM)

    def issue(self, common_name: str, names: Sequence[x509.GeneralName], *, serves: bool = True) -> Issued:
        """Issue a certificate for both ends of a TLS connection, or for the calling one alone.

        Args:
            common_name: For people only.
            names: The subject's alternative names: what peers check.
            serves: Whether its holder may be called, too.
        """
        usages = [ExtendedKeyUsageOID.SERVER_AUTH] * serves + [ExtendedKeyUsageOID.CLIENT_AUTH]
        private_key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._builder(_name(common_name), private_key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._private_key, hashes.SHA256())
        )
        return Issued(certificate.public_bytes(_PEM), _private_key_pem(private_key))

    def _self_signed(self) -> x509.Certificate:
        return (
            self._builder(self._name, self._private_key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .sign(self._private_key, hashes.SHA256())
        )

    def _builder(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = dt.datetime.fromtimestamp(self._clock() / 1000, dt.UTC)
        root = self._private_key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + LIFETIME)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root), critical=False)
        )


def issue(
    folder: Path,
    realm: str,
    services: Sequence[str],
    *,
    administrators: Sequence[str] = (),
    clock: Clock = system_clock,
) -> None:
    """Write new roots and certificates for ``services`` and ``administrators`` below ``folder``.

    Files: ``public-root.pem``, ``service-root.pem``, and for every service ``SERVICE/public.pem`` and ``.key`` (for
    localhost, 127.0.0.1 and ::1) and ``SERVICE/internal.pem`` and ``.key`` (URI ``keypost://REALM/service/SERVICE``,
    DNS ``SERVICE.keypost.internal``); for every administrator ``administrators/NAME.pem`` and ``.key`` (URI
    ``keypost://REALM/administrator/NAME``).
    """
    public, internal = (
        TlsRoot("Keypost public root", clock),
        TlsRoot("Keypost service root", clock),
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "public-root.pem").write_bytes(public.root_pem)
    (folder / "service-root.pem").write_bytes(internal.root_pem)
    for service in services:
        (folder / service).mkdir(mode=0o700, exist_ok=True)
        write(public.issue(service, LOOPBACK), folder / service / "public")
        write(internal.issue(service, service_names(realm, service)), folder / service / "internal")
    for name in administrators:
        (folder / "administrators").mkdir(mode=0o700, exist_ok=True)
        write(issue_administrator(internal, realm, name), folder / "administrators" / name)


def service_names(realm: str, service: str) -> tuple[x509.GeneralName, ...]:
    """Return the names in a service's internal certificate."""
    return x509.UniformResourceIdentifier(service_uri(realm, service)), x509.DNSName(internal_name(service))


def issue_administrator(root: TlsRoot, realm: str, name: str) -> Issued:
    """Issue the certificate of an administrator: it calls, and is never called."""
    return root.issue(name, administrator_names(realm, name), serves=False)


def administrator_names(realm: str, name: str) -> tuple[x509.GeneralName, ...]:
    """Return the names in an administrator's certificate."""
    return (x509.UniformResourceIdentifier(administrator_uri(realm, name)),)


def write(issued: Issued, stem: Path) -> None:
    """Write ``STEM.pem`` and, for its owner alone, ``STEM.key``."""
    stem.with_name(f"{stem.name}.pem").write_bytes(issued.certificate_pem)
    key_file = stem.with_name(f"{stem.name}.key")
    key_file.unlink(missing_ok=True)
    key_file.touch(mode=0o600)
    key_file.write_bytes(issued.private_key_pem)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _private_key_pem(private_key: ec.EllipticCurvePrivateKey) -> bytes:
    return private_key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
