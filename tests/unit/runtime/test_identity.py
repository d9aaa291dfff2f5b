from __future__ import annotations

import pytest
from cryptography import x509
from grpc import StatusCode

from keypost_services.embedded.certificates import LOOPBACK, TlsRoot, service_names
from keypost_services.runtime.errors import ServiceError
from keypost_services.runtime.identity import service_of, service_uri

REALM = "example.org"
ROOT = TlsRoot("root")


def certificate(*uris: str) -> bytes:
    return ROOT.issue("x", [x509.UniformResourceIdentifier(uri) for uri in uris] or LOOPBACK).certificate_pem


def test_the_uri_names_the_service() -> None:
    pem = ROOT.issue("x", service_names(REALM, "directory")).certificate_pem
    assert service_of(pem, REALM) == "directory"


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
    ],
)
def test_anything_but_exactly_one_service_uri_is_refused(uris: tuple[str, ...]) -> None:
    with pytest.raises(ServiceError) as caught:
        service_of(certificate(*uris), REALM)
    assert caught.value.code is StatusCode.UNAUTHENTICATED
    assert caught.value.reason == "SERVICE_CERTIFICATE_REFUSED"


def test_a_certificate_without_alternative_names_or_none_at_all_is_refused() -> None:
    for pem in (ROOT.root_pem, b"no certificate"):
        with pytest.raises(ServiceError, match="alternative names"):
            service_of(pem, REALM)
