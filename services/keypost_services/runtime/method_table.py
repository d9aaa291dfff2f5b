"""Every method of every service, and who may call it. What is not in this table is refused."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Callers:
    """Whom a method admits.

    Attributes:
        anyone: Everybody, known or not.
        devices: Devices that show a token.
        services: The services of these names, by their certificate.
        administrators: Administrators, by their certificate.
    """

    anyone: bool = False
    devices: bool = False
    services: frozenset[str] = frozenset()
    administrators: bool = False


def anyone() -> Callers:
    """Admit everybody: the method is harmless, or authorised by what the request contains."""
    return Callers(anyone=True)


def devices() -> Callers:
    """Admit devices that show a token."""
    return Callers(devices=True)


def services(*names: str) -> Callers:
    """Admit the services of these names."""
    return Callers(services=frozenset(names))


def administrators() -> Callers:
    """Admit administrators, by their certificate, and no service."""
    return Callers(administrators=True)


def devices_and(*names: str) -> Callers:
    """Admit devices that show a token, and the services of these names."""
    return Callers(devices=True, services=frozenset(names))


METHODS: Mapping[str, Callers] = MappingProxyType(
    {
        # What changes keys is authorised by its signed statement, not by who calls (docs/spec.md, "Key requests").
        "/keypost.ca.v1.CertificateAuthorityService/GetRealmTrust": anyone(),
        "/keypost.ca.v1.CertificateAuthorityService/BeginEnrollment": anyone(),
        "/keypost.ca.v1.CertificateAuthorityService/Enroll": anyone(),
        "/keypost.ca.v1.CertificateAuthorityService/BeginRenewal": anyone(),
        "/keypost.ca.v1.CertificateAuthorityService/Renew": anyone(),
        "/keypost.ca.v1.CertificateAuthorityService/BeginApproval": anyone(),
        "/keypost.ca.v1.CertificateAuthorityService/Approve": anyone(),
        "/keypost.ca.v1.CertificateAuthorityService/Revoke": anyone(),
        "/keypost.ca.v1.CertificateAuthorityService/RequestReset": anyone(),
        "/keypost.ca.v1.CertificateAuthorityService/CancelReset": anyone(),
        "/keypost.ca.v1.KeyInfoService/GetKeyInfo": services("directory"),
        "/keypost.ca.v1.KeyInfoService/BatchGetKeyInfo": services("directory"),
        "/keypost.ca.v1.KeyInfoService/WatchKeyEvents": services("directory"),
        "/keypost.ca.v1.AdministrationService/CreateOneTimeCode": administrators(),
        "/keypost.ca.v1.AdministrationService/ListOneTimeCodes": administrators(),
        "/keypost.ca.v1.AdministrationService/WithdrawOneTimeCodes": administrators(),
        "/keypost.ca.v1.AdministrationService/GetUser": administrators(),
        "/keypost.ca.v1.AdministrationService/ListUsers": administrators(),
        "/keypost.ca.v1.AdministrationService/RevokeKey": administrators(),
        "/keypost.ca.v1.AdministrationService/AllowReset": administrators(),
        "/keypost.ca.v1.AdministrationService/CancelReset": administrators(),
        "/keypost.ca.v1.AdministrationService/ListAuditEntries": administrators(),
        "/keypost.directory.v1.DirectoryService/GetRealmTrust": anyone(),
        "/keypost.directory.v1.DirectoryService/GetKeyInfo": devices_and("delivery"),
        "/keypost.directory.v1.DirectoryService/BatchGetKeyInfo": devices_and("delivery"),
        "/keypost.directory.v1.KeyEventService/WatchKeyEvents": services("delivery"),
        "/keypost.delivery.v1.DeliveryService/Send": devices(),
        "/keypost.delivery.v1.DeliveryService/SendStream": devices(),
        "/keypost.delivery.v1.DeliveryService/Receive": devices(),
        "/keypost.delivery.v1.DeliveryService/ListMailboxes": devices(),
        "/grpc.health.v1.Health/Check": anyone(),
        "/grpc.health.v1.Health/List": anyone(),
        "/grpc.health.v1.Health/Watch": anyone(),
    }
)

REFLECTION_METHODS: Mapping[str, Callers] = MappingProxyType(
    {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": anyone()}
)
"""Admitted besides, where a service's settings switch reflection on."""
