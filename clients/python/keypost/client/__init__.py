"""The client of Keypost: ``Client`` and what it returns (README.md)."""

from keypost.client.client import Client
from keypost.client.identity import NotEnrolledError
from keypost.client.joining import InvitationExpiredError
from keypost.client.key_requests import ClockWrongError
from keypost.client.restoring import BackupStaleError, restore_profile
from keypost.client.results import (
    Devices,
    Event,
    FileTransfer,
    JoinRequest,
    Outgoing,
    Received,
    ReceivedFile,
    RevocationReason,
    SafetyNumber,
    Sent,
    SentFile,
    SetAside,
    WaitingElsewhere,
)

__all__ = [
    "BackupStaleError",
    "Client",
    "ClockWrongError",
    "Devices",
    "Event",
    "FileTransfer",
    "InvitationExpiredError",
    "JoinRequest",
    "NotEnrolledError",
    "Outgoing",
    "Received",
    "ReceivedFile",
    "RevocationReason",
    "SafetyNumber",
    "Sent",
    "SentFile",
    "SetAside",
    "WaitingElsewhere",
    "restore_profile",
]
