from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_public_key
from grpc import StatusCode

from keypost_services.embedded.certificates import LOOPBACK, TlsRoot, administrator_names, service_names
from keypost_services.runtime.errors import ServiceError
from keypost_services.runtime.identity import (
    Identity,
    Role,
    administrator_uri,
    identity_of,
    public_key_of,
    service_of,
    service_uri,
)

REALM = "example.org"
ROOT = TlsRoot("root")


def certificate(*uris: str) -> bytes:
    return ROOT.issue("x", [x509.UniformResourceIdentifier(uri) for uri in uris] or LOOPBACK).certificate_pem


def test_the_uri_names_the_service() -> None:
    pem = ROOT.issue("x", service_names(REALM, "directory")).certificate_pem
    assert service_of(pem, REALM) == "directory"


@pytest.mark.parametrize("name", ["ada", "ada.lovelace", "on-call_2", "7", "a" * 64])
def test_the_uri_names_the_administrator(name: str) -> None:
    pem = ROOT.issue("x", administrator_names(REALM, name)).certificate_pem
    assert identity_of(pem, REALM) == Identity(Role.ADMINISTRATOR, name)


def test_an_administrator_is_no_service_and_a_service_no_administrator() -> None:
    assert identity_of(certificate(service_uri(REALM, "directory")), REALM).role is Role.SERVICE
    with pytest.raises(ServiceError, match="no service") as caught:
        service_of(certificate(administrator_uri(REALM, "directory")), REALM)
    assert caught.value.reason == "SERVICE_CERTIFICATE_REFUSED"


def test_the_public_key_is_the_certificates() -> None:
    pem = certificate(administrator_uri(REALM, "ada"))
    key = x509.load_pem_x509_certificate(pem).public_key()
    assert load_der_public_key(public_key_of(pem)) == key
    with pytest.raises(ServiceError, match="no readable public key"):
        public_key_of(b"no certificate")


@pytest.mark.parametrize(
    "uris",
    [
        (),
        (service_uri(REALM, "directory"), service_uri(REALM, "delivery")),
        (service_uri(REALM, "directory"), "https://example.org/"),
        ("https://example.org/service/directory",),
        (service_uri("example.com", "directory"),),
        ("keypost://example.org/service/",),
        ("keypost://example.org/service/directory/more",),
        ("keypost://example.org/services/directory",),
        ("keypost://example.org//service/directory",),
        ("keypost://example.org:443/service/directory",),
        ("keypost://user@example.org/service/directory",),
        ("keypost://example.org/service/directory?x=1",),
        ("keypost://example.org/service/directory#x",),
        ("keypost://EXAMPLE.org/service/directory",),
        ("KEYPOST://example.org/service/directory",),
        ("keypost://example.org/service/Directory",),
        ("keypost://example.org/service/%64irectory",),
        ("keypost://example.org/service/direc\ttory",),
        ("keypost://[example.org/service/directory",),
        ("directory",),
        (administrator_uri(REALM, "ada"), administrator_uri(REALM, "ada")),
        (administrator_uri(REALM, "ada"), service_uri(REALM, "directory")),
        (administrator_uri("example.com", "ada"),),
        ("keypost://example.org/administrator/",),
        ("keypost://example.org/administrator/.",),
        ("keypost://example.org/administrator/..",),
        ("keypost://example.org/administrator/-ada",),
        ("keypost://example.org/administrator/Ada",),
        ("keypost://example.org/administrator/ada/service/directory",),
        ("keypost://example.org/administrator/ada?x=1",),
        ("keypost://example.org/administrator/a%64a",),
        ("keypost://example.org/administrator/" + "a" * 65,),
        ("keypost://example.org/administrators/ada",),
    ],
)
def test_anything_but_exactly_one_uri_of_a_service_or_an_administrator_is_refused(uris: tuple[str, ...]) -> None:
    with pytest.raises(ServiceError) as caught:
        identity_of(certificate(*uris), REALM)
    assert caught.value.code is StatusCode.UNAUTHENTICATED
    assert caught.value.reason == "SERVICE_CERTIFICATE_REFUSED"


def test_a_certificate_without_alternative_names_or_none_at_all_is_refused() -> None:
    for pem in (ROOT.root_pem, b"no certificate"):
        with pytest.raises(ServiceError, match="alternative names"):
            service_of(pem, REALM)
