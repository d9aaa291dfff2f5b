"""The client of Keypost: ``Client`` and what it returns (README.md)."""

from keypost.client.client import Client
from keypost.client.identity import NotEnrolledError
from keypost.client.key_requests import ClockWrongError
from keypost.client.restoring import BackupStaleError, restore_profile
from keypost.client.results import Event, Received, ReceivedFile, SafetyNumber, Sent, SentFile, WaitingElsewhere

__all__ = [
    "BackupStaleError",
    "Client",
    "ClockWrongError",
    "Event",
    "NotEnrolledError",
    "Received",
    "ReceivedFile",
    "SafetyNumber",
    "Sent",
    "SentFile",
    "WaitingElsewhere",
    "restore_profile",
]
