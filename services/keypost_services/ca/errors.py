"""Every refusal of the CA, with its reason as in ``protos/keypost/ca/v1``."""

from __future__ import annotations

from grpc import StatusCode

from keypost_services.runtime.errors import ServiceError, invalid_field, rate_limited

_RETRY_SIGNING_MS = 5_000


def sign_in_refused() -> ServiceError:
    """Return the one answer to every sign-in that fails: it does not tell why, nor whether the user exists."""
    return ServiceError(
        StatusCode.PERMISSION_DENIED, "SIGN_IN_REFUSED", "the sign-in is not accepted for this username"
    )


def sign_in_unavailable() -> ServiceError:
    """Return the refusal of a sign-in that cannot be judged: its issuer does not answer."""
    return ServiceError(
        StatusCode.UNAVAILABLE,
        "SIGN_IN_UNAVAILABLE",
        "the issuer of the ID token does not answer the CA: try again",
        retry_after_ms=5_000,
    )


def code_not_found() -> ServiceError:
    """Return the answer that a user has no such one-time code."""
    return ServiceError(StatusCode.NOT_FOUND, "CODE_NOT_FOUND", "there is no such one-time code for this user")


def code_used(device_id: str) -> ServiceError:
    """Return the refusal to withdraw a one-time code that was used.

    Args:
        device_id: The device that it enrolled.
    """
    return ServiceError(
        StatusCode.FAILED_PRECONDITION,
        "CODE_USED",
        f"the one-time code was used before: it enrolled the device {device_id}, whose key can be revoked",
        device_id=device_id,
    )


def code_expired() -> ServiceError:
    """Return the refusal to withdraw a one-time code that is good no longer anyway."""
    return ServiceError(StatusCode.FAILED_PRECONDITION, "CODE_EXPIRED", "the one-time code has expired, unused")


def possession_unproven() -> ServiceError:
    """Return the refusal of a key request that its own key did not sign."""
    return ServiceError(
        StatusCode.PERMISSION_DENIED, "POSSESSION_UNPROVEN", "the key request is not signed by its own key"
    )


def endorsement_refused() -> ServiceError:
    """Return the refusal of a renewal or an approval; the same whether the parent is unknown or did not sign."""
    return ServiceError(
        StatusCode.PERMISSION_DENIED,
        "ENDORSEMENT_REFUSED",
        "the key request is not signed by a key that may vouch for it",
    )


def revocation_refused() -> ServiceError:
    """Return the one answer to a revocation that no key of the user signed that may act."""
    return ServiceError(
        StatusCode.PERMISSION_DENIED, "REVOCATION_REFUSED", "the revocation is not signed by a good key of the user"
    )


def administrator_refused(why: str) -> ServiceError:
    """Return the refusal of a revocation that the key of the administrator's certificate did not sign."""
    return ServiceError(StatusCode.PERMISSION_DENIED, "REVOCATION_REFUSED", f"the revocation is refused: {why}")


def reset_cancellation_refused() -> ServiceError:
    """Return the one answer to a cancellation that no key of the user signed that may act."""
    return ServiceError(
        StatusCode.PERMISSION_DENIED,
        "RESET_CANCELLATION_REFUSED",
        "the cancellation is not signed by a good key of the user",
    )


def approval_required() -> ServiceError:
    """Return the refusal of an enrolment where a device of the user must approve."""
    return ServiceError(
        StatusCode.FAILED_PRECONDITION,
        "APPROVAL_REQUIRED",
        "the user has a device with a good key: a further device needs its approval",
    )


def nonce_expired() -> ServiceError:
    """Return the refusal of a nonce."""
    return ServiceError(
        StatusCode.FAILED_PRECONDITION, "NONCE_EXPIRED", "the nonce is no longer valid for this: begin anew"
    )


def suite_not_allowed(why: str) -> ServiceError:
    """Return the refusal of a suite."""
    return ServiceError(StatusCode.FAILED_PRECONDITION, "SUITE_NOT_ALLOWED", why)


def key_lifetime_refused(latest: int) -> ServiceError:
    """Return the refusal of an expire_time.

    Args:
        latest: The latest that is accepted, Unix milliseconds.
    """
    return ServiceError(
        StatusCode.FAILED_PRECONDITION,
        "KEY_LIFETIME_REFUSED",
        "the key must expire in the future, and not later than the realm's policy allows",
        latest_expire_time=str(latest),
    )


def key_replaced() -> ServiceError:
    """Return the refusal of a renewal or an approval by a key that is no longer the device's."""
    return ServiceError(
        StatusCode.FAILED_PRECONDITION, "KEY_REPLACED", "the parent is no longer the key of this device"
    )


def renewal_window_over() -> ServiceError:
    """Return the refusal of a renewal by a key that expired too long ago."""
    return ServiceError(
        StatusCode.FAILED_PRECONDITION,
        "RENEWAL_WINDOW_OVER",
        "the key expired too long ago to be renewed: enrol anew",
    )


def parent_revoked() -> ServiceError:
    """Return the refusal of a renewal or an approval by a key that was withdrawn."""
    return ServiceError(StatusCode.FAILED_PRECONDITION, "KEY_REVOKED", "the key that vouches was revoked")


def parent_expired() -> ServiceError:
    """Return the refusal of an approval by a key that has expired."""
    return ServiceError(
        StatusCode.FAILED_PRECONDITION, "KEY_EXPIRED", "the key that vouches has expired: renew it first"
    )


def too_many_devices(most: int) -> ServiceError:
    """Return the refusal of one more device.

    Args:
        most: How many a user may have.
    """
    return ServiceError(
        StatusCode.FAILED_PRECONDITION,
        "TOO_MANY_DEVICES",
        f"a user has {most} devices at most: revoke one first",
        most=str(most),
    )


def key_ended() -> ServiceError:
    """Return the refusal to revoke a key that is not there to be revoked."""
    return ServiceError(
        StatusCode.FAILED_PRECONDITION,
        "KEY_ENDED",
        "this is no key of that device that can be revoked for this: it was revoked otherwise, or left the record",
    )


def since_time_ahead(field: str) -> ServiceError:
    """Return the refusal of a compromise that is still to come."""
    return invalid_field(field, "it is not later than now")


def reset_not_needed() -> ServiceError:
    """Return the refusal to announce an identity reset where an enrolment does."""
    return ServiceError(
        StatusCode.FAILED_PRECONDITION, "RESET_NOT_NEEDED", "the user has no device with a good key: enrol"
    )


def key_already_known() -> ServiceError:
    """Return the refusal of a public key that was recorded before."""
    return ServiceError(
        StatusCode.ALREADY_EXISTS, "KEY_ALREADY_KNOWN", "this public key has been recorded before: make a new one"
    )


def key_weak(weakness: str) -> ServiceError:
    """Return the refusal of a public key that protects nothing.

    Args:
        weakness: What is wrong with it, a word of ``key_quality``.
    """
    return ServiceError(
        StatusCode.FAILED_PRECONDITION,
        "KEY_WEAK",
        "others are known to be able to have the private half of this key: make a new one, with a sound generator",
        weakness=weakness,
    )


def revision_taken(current: int) -> ServiceError:
    """Return the refusal of a key request that another change has overtaken."""
    return ServiceError(
        StatusCode.ABORTED,
        "REVISION_TAKEN",
        "the user's record has changed in the meantime: begin anew",
        current_revision=str(current),
    )


def keys_changing() -> ServiceError:
    """Return the refusal of a key request that other changes overtake again and again."""
    return ServiceError(
        StatusCode.UNAVAILABLE, "KEYS_CHANGING", "the user's keys are changing: try again", retry_after_ms=1_000
    )


def sequence_ahead(newest: int) -> ServiceError:
    """Return the refusal of a watch from a number that was never given out here."""
    return ServiceError(
        StatusCode.OUT_OF_RANGE,
        "SEQUENCE_AHEAD",
        "the CA has not come that far: it was restored from a backup",
        newest_sequence=str(newest),
    )


def events_forgotten() -> ServiceError:
    """Return the refusal of a watch of events that the database lacks."""
    return ServiceError(
        StatusCode.OUT_OF_RANGE,
        "EVENTS_FORGOTTEN",
        "the CA was restored from a backup, and lacks events that came after",
    )


def record_full(retry_after_ms: int) -> ServiceError:
    """Return the refusal of one more key where too many entered lately."""
    return rate_limited("keys of this user have been replaced lately", retry_after_ms)


def signing_unavailable() -> ServiceError:
    """Return the answer where a record would have to be signed, and no key can or may sign now."""
    return ServiceError(
        StatusCode.UNAVAILABLE,
        "SIGNING_UNAVAILABLE",
        "the CA cannot sign records now: its operator has to look after its record keys",
        retry_after_ms=_RETRY_SIGNING_MS,
    )
