"""The steps of the source document, as an observer sees them happen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

NEGOTIATION_TITLES: Mapping[int, str] = MappingProxyType(
    {
        1: "generate a key pair on the device and publish the public key to the CA",
        2: "obtain the recipient's key info by username",
        3: "check the validity of the recipient's public key",
        4: "generate a random symmetric key",
        5: "encrypt the symmetric key with the recipient's public key",
        6: "hash the symmetric key and sign the hash with the own private key",
        7: "attach encrypted key and signature to the message and send it",
        8: "obtain the sender's key info by username",
        9: "check the validity of the sender's public key",
        10: "extract encrypted key and signature from the message",
        11: "decrypt the symmetric key with the own private key",
        12: "compute the hash of the symmetric key",
        13: "verify the signature with the sender's public key",
        14: "decrypt the message with the symmetric key",
    }
)

RENEWAL_TITLES: Mapping[int, str] = MappingProxyType(
    {
        1: "generate a new key pair",
        2: "compute the hash of the new public key",
        3: "sign the hash with the old private key",
        4: "upload the new public key, the signature and the expiration date",
        5: "the CA computes the hash of the new public key",
        6: "the CA verifies the signature with the old public key",
        7: "the CA updates the key info",
        8: "use the new key pair; keep the old one until negotiations under way are over",
    }
)


@dataclass(frozen=True)
class Step:
    """One step, done.

    Attributes:
        list: Which list of the source document: ``negotiation`` or ``renewal``.
        step: Its number there.
        title: What it does, in few words.
        actor: The address (or service) that did it.
        time: When it was done, Unix milliseconds.
        facts: Sizes, fingerprints and names; never a secret.
    """

    list: str
    step: int
    title: str
    actor: str
    time: int
    facts: Mapping[str, str | int] = field(default_factory=dict)


Observer = Callable[[Step], None]


def negotiation_step(step: int, actor: str, now: int, **facts: str | int) -> Step:
    """Return step ``step`` (1 to 14) of the key negotiation."""
    return Step("negotiation", step, NEGOTIATION_TITLES[step], actor, now, facts)


def renewal_step(step: int, actor: str, now: int, **facts: str | int) -> Step:
    """Return step ``step`` (1 to 8) of the key renewal."""
    return Step("renewal", step, RENEWAL_TITLES[step], actor, now, facts)
