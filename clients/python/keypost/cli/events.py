"""What ``--json`` prints: every event with its fields. ``docs/cli.md`` shows this table."""

from __future__ import annotations

FIELDS: dict[str, tuple[str, ...]] = {
    "enrolled": ("address", "suite"),
    "nonce": ("username", "nonce"),
    "sign_in": ("url",),
    "sent": (
        *("username", "message_id", "counter", "accept_time"),
        *("key_id", "new_session", "rsa_operations"),
    ),
    "file_sent": ("username", "file_id", "name", "size", "sha256", "parts"),
    "message": (
        *("sender", "message_id", "counter", "send_time", "accept_time", "key_id"),
        *("media_type", "redelivered", "missed", "verified", "copy_to"),
    ),
    "file_saved": ("path", "size"),
    "files": ("rows",),
    "file_cancelled": ("file_id", "name"),
    "nothing": (),
    "set_aside": ("rows",),
    "outbox": ("rows",),
    "retried": ("messages",),
    "keys": ("rows",),
    "devices": ("rows",),
    "invited": ("username", "device", "expire_time", "invitation"),
    "join_requested": ("device", "suite", "fingerprint", "request"),
    "joined": ("address", "digits"),
    "asked": ("device", "suite", "fingerprint"),
    "approved": ("device", "fingerprint", "digits"),
    "named": ("device", "name"),
    "revoked": ("device", "reason", "revision", "ended"),
    "reset_announced": ("username", "reset_time"),
    "reset_cancelled": ("username", "revision"),
    "renewed": ("fingerprint", "expire_time"),
    "accepted": ("username", "epoch"),
    "safety_number": ("username", "digits", "code", "verified", "changed"),
    "verified": ("username",),
    "unverified": ("username",),
    "rotated": ("username", "key_id"),
    "backed_up": ("path", "kept"),
    "backup_stopped": (),
    "restored": ("address", "revision"),
    "step": ("list", "step", "title", "actor", "time", "facts"),
    "file_progress": ("name", "done", "total"),
    "notice": ("kind", "reason", "sentence"),
    "error": ("reason", "sentence", "hint", "facts"),
}
"""The fields that each event has beside ``event``, in the order in which they are printed."""
BODY = ("text", "body_base64", "file")
"""A ``message`` has one of these too."""
KEY = ("device", "state", "suite", "fingerprint", "expire_time")
"""What each of the ``rows`` of ``keys`` and ``devices`` has."""
PEERS_KEY = (*KEY, "verified")
"""What each of the ``rows`` of ``keys`` has."""
OWN_KEY = (*KEY, "this_device", "name")
"""What each of the ``rows`` of ``devices`` has."""

FILE = ("file_id", "username", "sent", "size", "create_time", "name")
"""What each of the ``rows`` of ``files`` has."""
OUTBOX = ("username", "message_id", "counter", "create_time", "size", "copy_to")
"""What each of the ``rows`` of ``outbox`` has."""
SET_ASIDE = ("reason", "username", "accept_time", "size", "message_id")
"""What each of the ``rows`` of ``set_aside`` has."""


def table_of_events() -> str:
    """Return the table as Markdown."""
    more = {
        "message": f", and one of {_code(BODY)}",
        "keys": f", each with {_code(PEERS_KEY)}",
        "devices": f", each with {_code(OWN_KEY)}",
        "files": f", each with {_code(FILE)}",
        "set_aside": f", each with {_code(SET_ASIDE)}",
        "outbox": f", each with {_code(OUTBOX)}",
    }
    rows = [f"| `{event}` | {_code(fields)}{more.get(event, '')} |" for event, fields in FIELDS.items()]
    return "\n".join(["", "| event | fields |", "| --- | --- |", *rows, "", ""])


def _code(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)
