"""What a person can do about an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.cli.errors import HintedError
from keypost.errors import InvalidArgumentError

if TYPE_CHECKING:
    from keypost.errors import KeypostError

GET_A_BUNDLE = "Your administrator has one (`keypost-ca bundle`); for a first look, `make up` makes one."
GET_A_CODE = "Your administrator makes a new one by `keypost-ca code USERNAME`."

HINTS = {
    "UNREACHABLE": "Start the services (for a first look: `make up`), or give a bundle with their addresses and "
    "TLS roots by --bundle.",
    "USER_NOT_FOUND": "Check the spelling; the user must have enrolled a device.",
    "SIGN_IN_REFUSED": "A code is good once, for one user, for a while; ask your administrator for a new one "
    "(`keypost-ca code USERNAME`) and give it by --code. With --oidc, sign in as that user; the CA's log says why not.",
    "SIGN_IN_UNAVAILABLE": "Try again in a while; the CA's log says what the issuer answers.",
    "APPROVAL_REQUIRED": "This user has a device already: there, type `keypost devices invite`; then here "
    "`keypost join INVITATION`. If no device is within reach: `keypost reset USERNAME`.",
    "INVITATION_EXPIRED": "On a device that you have: keypost devices invite",
    "ENDORSEMENT_REFUSED": "Begin anew: `keypost devices invite` here, `keypost join INVITATION` on the new device.",
    "NONCE_EXPIRED": "Ten minutes are over: begin anew with `keypost devices invite`.",
    "REVISION_TAKEN": "Your keys changed meanwhile: begin anew with `keypost devices invite`.",
    "RESET_NOT_NEEDED": "No device of this user is good: keypost enroll USERNAME",
    "KEY_REVOKED": "To go on, make another profile a device: `keypost devices invite` on one that you have, then "
    "`keypost --profile NEW join INVITATION`.",
    "SUITE_NOT_ALLOWED": "The realm does not allow this suite; leave --suite out for the default.",
    "SUITE_REFUSED": "Lower --minimum-suite only if you know why: what is below it is broken in practice.",
    "IDENTITY_CHANGED": "Compare safety numbers with the other person in another way; "
    "for that: keypost verify {username} (or fingerprints: keypost accept {username} {root})",
    "SAFETY_NUMBER_DIFFERS": "Send that person nothing that matters, and tell your administrator.",
    "DEVICE_KEY_STOLEN": "Was it restored elsewhere? Then go on there. If it was not you: tell your administrator, and "
    "use another device.",
    "BACKUP_STALE": "Enroll anew by `enroll` for the same user, and have the device that goes on revoked if it is not "
    "yours.",
    "CLOCK_AHEAD": "Check the clock of this machine.",
    "CLOCK_WRONG": "Set the clock of this machine.",
    "RECORD_EXPIRED": "Check the clock of this machine.",
    "RATE_LIMITED": "Wait as long as it says; to try sooner does not help.",
    "LIMITS_UNAVAILABLE": "Try again in a minute; if it lasts, tell your administrator.",
    "MAILBOX_FULL": "The recipient has to read first; try again later.",
    "SENDER_SHARE_FULL": "The recipient has to read first; try again later.",
    "WRONG_PASSPHRASE": "Try again, with the passphrase, --key-file or --key-ring that this profile was made with.",
    "KEY_RING_UNAVAILABLE": "A new profile can do without: with a passphrase, or with --key-file.",
    "NOT_ENROLLED": "Enroll first: keypost --profile NAME --bundle FILE enroll USERNAME",
    "KEY_STORE_LOCKED": "End the other command that uses this profile, or wait for it.",
}
HINTS_OF_ARGUMENTS = {"bundle": GET_A_BUNDLE, "code": GET_A_CODE}
"""By the name of the argument that the SDK refuses."""


def hint_for(error: KeypostError) -> str | None:
    """Return what a person can do about ``error``, if there is something to say."""
    if isinstance(error, HintedError):
        return error.hint
    hint = HINTS_OF_ARGUMENTS.get(error.metadata.get("field", ""))
    if hint is not None and isinstance(error, InvalidArgumentError):
        return hint
    hint = HINTS.get(error.reason)
    if hint is None:
        return None
    try:
        return hint.format_map(error.metadata)
    except KeyError:  # this error does not say so much
        return hint.partition(";")[0]
