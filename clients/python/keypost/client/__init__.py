"""The client of Keypost: ``Client`` and what it returns (README.md)."""

from keypost.client.client import Client
from keypost.client.identity import NotEnrolledError
from keypost.client.key_requests import ClockWrongError
from keypost.client.results import Event, Received, ReceivedFile, SafetyNumber, Sent, SentFile, WaitingElsewhere

__all__ = [
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
]
