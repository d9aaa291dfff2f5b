"""Every method of every service, and how often each caller may call it. What is not in this table is not served.

How the numbers come about: docs/limits.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from keypost.clock import DAY, HOUR, MINUTE
from keypost_services.runtime.auth import CallerKind
from keypost_services.runtime.limits.ports import Quota

if TYPE_CHECKING:
    from collections.abc import Mapping

LOOK_UPS = "look_ups"
"""One for each user that a device asks for."""
UNKNOWN_USERS = "unknown_users"
"""One for each user that a device asked for, or sent to, and that does not exist."""
SERVICE_CALLS = "service_calls"
"""One for each call of another service."""
ADMINISTRATOR_CALLS = "administrator_calls"
"""One for each call of an administrator."""
SIGN_IN_ADDRESS = "sign_in_address"
"""One for each failed sign-in from a network address, whoever it was for."""
SIGN_IN_USERNAME = "sign_in_username"
"""One for each failed sign-in for a username, wherever it came from, and whether the user exists or not."""
SIGN_IN_RESERVE = "sign_in_reserve"
"""What an address that has not failed for a username may try although others have used the username's up."""

Quotas = tuple[Quota, ...]
"""All of them hold at once; none: there is no limit."""

_SELDOM = (Quota(120, MINUTE), Quota(1_200, HOUR))
_OFTEN = (Quota(600, MINUTE),)

QUOTAS: Mapping[str, Quotas] = MappingProxyType(
    {
        # Of one network address, behind which there may be a whole office.
        "GetRealmTrust": _OFTEN,
        "BeginEnrollment": _SELDOM,
        "Enroll": _SELDOM,
        "BeginRenewal": _OFTEN,
        "Renew": _OFTEN,
        "BeginApproval": _SELDOM,
        "Approve": _SELDOM,
        "Revoke": _SELDOM,
        "RequestReset": (Quota(30, MINUTE), Quota(120, HOUR)),
        "CancelReset": _SELDOM,
        # Of one device.
        LOOK_UPS: (Quota(1_200, MINUTE), Quota(20_000, DAY)),
        UNKNOWN_USERS: (Quota(100, DAY),),
        "Send": (Quota(6_000, MINUTE),),
        "SendStream": (Quota(60, MINUTE),),
        "Receive": (Quota(60, MINUTE),),
        "ListMailboxes": (Quota(60, MINUTE),),
        # Of one service. A refusal would fall upon devices that did nothing: what one of them causes is limited at the
        # service that it calls.
        SERVICE_CALLS: (),
        ADMINISTRATOR_CALLS: (Quota(600, MINUTE),),
        # The waits grow with the failures, from seconds to less than half an hour, and no further.
        SIGN_IN_ADDRESS: (Quota(30, MINUTE), Quota(120, HOUR), Quota(500, DAY)),
        SIGN_IN_USERNAME: (Quota(5, MINUTE), Quota(20, HOUR), Quota(50, DAY)),
        SIGN_IN_RESERVE: (Quota(3, DAY),),
    }
)
"""How much there is under each name unless a service's settings say otherwise."""


@dataclass(frozen=True)
class MethodLimits:
    """Which limits hold for a method.

    Attributes:
        limits: Their names, for each kind of caller.
        strict: Whether calls are refused while nobody counts; else each process counts for itself.
        batches: Of which method each item of a batch counts as a call, where a stream takes batches.
    """

    limits: Mapping[CallerKind, tuple[str, ...]]
    strict: bool = False
    batches: str = ""


def anyone(name: str) -> MethodLimits:
    """Limit the calls of each network address."""
    return MethodLimits(MappingProxyType({CallerKind.ANYONE: (name,)}))


def anyone_strictly(name: str) -> MethodLimits:
    """Limit the calls of each network address, and refuse them while nobody counts."""
    return MethodLimits(MappingProxyType({CallerKind.ANYONE: (name,)}), strict=True)


def devices(*names: str, batches: str = "") -> MethodLimits:
    """Limit the calls of each device."""
    limits = {CallerKind.DEVICE: names, CallerKind.SERVICE: (SERVICE_CALLS,)}
    return MethodLimits(MappingProxyType(limits), batches=batches)


def services() -> MethodLimits:
    """Limit the calls of each service."""
    return MethodLimits(MappingProxyType({CallerKind.SERVICE: (SERVICE_CALLS,)}))


def administrators() -> MethodLimits:
    """Limit the calls of each administrator."""
    return MethodLimits(MappingProxyType({CallerKind.ADMINISTRATOR: (ADMINISTRATOR_CALLS,)}))


def none() -> MethodLimits:
    """Limit nothing but what is limited anyway: how many are under way, and the anonymous ones of an address."""
    return MethodLimits(MappingProxyType({}))


_CA = "/keypost.ca.v1.CertificateAuthorityService/"
_ADMINISTRATION = "/keypost.ca.v1.AdministrationService/"
_KEY_INFO = "/keypost.ca.v1.KeyInfoService/"
_DIRECTORY = "/keypost.directory.v1.DirectoryService/"
_DELIVERY = "/keypost.delivery.v1.DeliveryService/"
_HEALTH = "/grpc.health.v1.Health/"

METHOD_LIMITS: Mapping[str, MethodLimits] = MappingProxyType(
    {
        f"{_CA}GetRealmTrust": anyone("GetRealmTrust"),
        # By these somebody could guess.
        f"{_CA}BeginEnrollment": anyone_strictly("BeginEnrollment"),
        f"{_CA}Enroll": anyone_strictly("Enroll"),
        f"{_CA}RequestReset": anyone_strictly("RequestReset"),
        # These are authorised by a signature that nobody guesses, and a key that cannot be renewed or withdrawn in time
        # is a harm of its own.
        f"{_CA}BeginRenewal": anyone("BeginRenewal"),
        f"{_CA}Renew": anyone("Renew"),
        f"{_CA}BeginApproval": anyone("BeginApproval"),
        f"{_CA}Approve": anyone("Approve"),
        f"{_CA}Revoke": anyone("Revoke"),
        f"{_CA}CancelReset": anyone("CancelReset"),
        f"{_ADMINISTRATION}CreateOneTimeCode": administrators(),
        f"{_ADMINISTRATION}ListOneTimeCodes": administrators(),
        f"{_ADMINISTRATION}WithdrawOneTimeCodes": administrators(),
        f"{_ADMINISTRATION}GetUser": administrators(),
        f"{_ADMINISTRATION}ListUsers": administrators(),
        f"{_ADMINISTRATION}RevokeKey": administrators(),
        f"{_ADMINISTRATION}AllowReset": administrators(),
        f"{_ADMINISTRATION}CancelReset": administrators(),
        f"{_ADMINISTRATION}ListAuditEntries": administrators(),
        f"{_KEY_INFO}GetKeyInfo": services(),
        f"{_KEY_INFO}BatchGetKeyInfo": services(),
        f"{_KEY_INFO}WatchKeyEvents": services(),
        f"{_DIRECTORY}GetRealmTrust": anyone("GetRealmTrust"),
        f"{_DIRECTORY}GetKeyInfo": devices(LOOK_UPS, UNKNOWN_USERS),
        f"{_DIRECTORY}BatchGetKeyInfo": devices(LOOK_UPS, UNKNOWN_USERS),
        "/keypost.directory.v1.KeyEventService/WatchKeyEvents": services(),
        f"{_DELIVERY}Send": devices("Send", UNKNOWN_USERS),
        f"{_DELIVERY}SendStream": devices("SendStream", UNKNOWN_USERS, batches=f"{_DELIVERY}Send"),
        f"{_DELIVERY}Receive": devices("Receive"),
        f"{_DELIVERY}ListMailboxes": devices("ListMailboxes"),
        # Probes ask these, and want an answer whatever else is away.
        f"{_HEALTH}Check": none(),
        f"{_HEALTH}List": none(),
        f"{_HEALTH}Watch": none(),
    }
)

REFLECTION_LIMITS: Mapping[str, MethodLimits] = MappingProxyType(
    {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": none()}
)
"""Of the method that is served besides, where a service's settings switch reflection on."""
