"""Vectors of the fourteen steps: complete envelopes with every intermediate value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keypost.delivery.v1 import envelope_pb2 as pb
from keypost.protocol.encoding import sha256
from keypost.protocol.envelope import associated_data
from keypost.protocol.extension import DeviceKey
from keypost.protocol.suites import STRONG, WEAK, Suite
from support.clock import START, ManualClock
from support.realm import SimulatedRealm
from vectors.generator import refused_envelopes
from vectors.generator.files import VectorFile
from vectors.generator.talk import ACCEPTED, HELLO, MESSAGE_ID, NOW, Draft, Talk, name_of
from vectors.generator.user_keys import COMPROMISED, LOST, user_keys_file

if TYPE_CHECKING:
    from keypost.protocol.key_requests import DeviceKeyPair

KEY_UPDATE = pb.Content(key_update=pb.KeyUpdate())


def negotiation_file() -> VectorFile:
    file = VectorFile(
        "negotiation",
        "Envelopes as the receiving device gets them at `now`, accepted by delivery at `accept_time`. "
        "`sender_key_info` names a KeyInfo in `shared`: read it (step 8) with the clock at `record_time`, when all of "
        "them are fresh. `recipient_key` names a pair of keys.json. `steps` has what each of the fourteen steps makes, "
        "by its number. `known_statement` is the statement that the signer is known to have made for the session.",
        "Negotiation; Messages; Validity",
        shared={**user_keys_file().shared, "record_time": START, "key_info": {}},
    )
    for suite in (STRONG, WEAK):
        talk = Talk(suite)
        maker = Maker(file, talk)
        _conversation(maker)
        refused_envelopes.add(maker)
        _validity(maker)
        maker.share("", "alice", "bob")
    _own_devices(file)
    _two_suites(file)
    return file


class Maker:
    """Adds envelopes of one talk to the file."""

    def __init__(self, file: VectorFile, talk: Talk) -> None:
        self.file = file
        self.talk = talk
        self.suite: Suite = talk.suite

    def share(self, what: str, *usernames: str) -> None:
        """Put key info into the file, under names that cases refer to."""
        for username in usernames:
            key_info = self.talk.realm.key_info(username)
            name = f"{self.suite.name}{what}: {username}"
            self.file.shared["key_info"][name] = key_info.SerializeToString().hex()

    def draft(self, **changes: Any) -> Draft:
        """Return a first message from Alice to Bob, with changes."""
        talk = self.talk
        common: dict[str, Any] = {
            "talk": talk,
            "session": talk.session(talk.alice, "bob"),
            "sender": talk.alice,
            "recipient": "bob",
        }
        return Draft(**(common | changes))

    def input(
        self, envelope: pb.Envelope, receiver: DeviceKeyPair, sender: str = "alice", **more: Any
    ) -> dict[str, Any]:
        """Return what the receiving device has."""
        what = more.pop("what", "")
        return {
            "suite": self.suite.name,
            "minimum_suite": self.suite.name,
            "recipient": str(receiver.address),
            "recipient_key": name_of(receiver.fingerprint),
            "sender_key_info": f"{self.suite.name}{what}: {sender}",
            "accept_time": ACCEPTED,
            "now": NOW,
            "envelope": envelope.SerializeToString().hex(),
        } | more

    def refuse(self, reason: str, name: str, draft: Draft, receiver: DeviceKeyPair | None = None, **more: Any) -> None:
        """Add an envelope that must be refused."""
        values = self.input(draft.envelope(), receiver or self.talk.bob, **more)
        self.file.fails(reason, f"{self.suite.name}: {name}", **values)

    def accept(self, name: str, draft: Draft, receiver: DeviceKeyPair) -> None:
        """Add an envelope that must be opened, with what each step makes."""
        envelope = draft.envelope()
        values = self.input(envelope, receiver, draft.sender.address.username)
        self.file.good(f"{self.suite.name}: {name}", **values, steps=_steps(draft, envelope, receiver))


def _steps(draft: Draft, envelope: pb.Envelope, receiver: DeviceKeyPair) -> dict[str, Any]:
    session, extension = draft.session, draft.extension()
    statement, hashed = envelope.key_extension.extension, sha256(session.key)
    data = associated_data(envelope.header, statement)
    own = next(key for key in envelope.key_extension.sealed_keys if key.fingerprint == receiver.fingerprint)
    digest = session.suite._extension_digest(statement, hashed).hex()
    return {
        "2": {"recipient_revision": extension.recipient_revision},
        "3": {"recipient_keys": [device.fingerprint.hex() for device in extension.recipient_devices]},
        "4": {"session_key": session.key.hex()},
        "5": {"sealed_keys": len(envelope.key_extension.sealed_keys)},
        "6": {"session_key_hash": hashed.hex(), "extension": statement.hex(), "digest": digest},
        "7": {
            "header": envelope.header.hex(),
            "associated_data": data.hex(),
            "message_key": session.message_key(DeviceKey.of(draft.sender)).hex(),
            "nonce": envelope.nonce.hex(),
            "content": draft.content.hex(),
            "plaintext": session.suite.pad(draft.content).hex(),
            "ciphertext": envelope.ciphertext.hex(),
        },
        "8": {"sender_revision": extension.sender_revision},
        "9": {"sender_key": extension.signer.fingerprint.hex()},
        "10": {"sealed_key": own.sealed_key.hex(), "signature": envelope.key_extension.signature.hex()},
        "11": {"session_key": session.key.hex()},
        "12": {"session_key_hash": hashed.hex(), "key_id": session.key_id.hex()},
        "13": {"digest": digest},
        "14": {"content": draft.content.hex()},
    }


def _conversation(maker: Maker) -> None:
    talk = maker.talk
    session = talk.session(talk.alice, "bob")
    maker.accept("the first message", maker.draft(), talk.bob)
    maker.accept("a key update", maker.draft(content=KEY_UPDATE.SerializeToString()), talk.bob)
    answer = maker.draft(session=session, sender=talk.bob, recipient="alice")
    maker.accept("an answer under the same session key", answer, talk.alice)
    copy = pb.Content(sent_copy=pb.SentCopy(recipient_username="x", message_id=MESSAGE_ID, message=HELLO.message))
    maker.refuse("CONTENT_REFUSED", "somebody else's copy", maker.draft(content=copy.SerializeToString()))


def _validity(maker: Maker) -> None:
    day, constants = 86_400_000, maker.talk.realm.constants
    lifetime = 90 * day
    plain = maker.draft()
    maker.refuse("KEY_EXPIRED", "accepted when the key had expired", plain, accept_time=START + lifetime)
    if maker.suite is STRONG:
        return
    late = START + constants.age_limit + 1
    maker.refuse("MESSAGE_TOO_OLD", "older than the age limit", plain, now=late, accept_time=late)
    early = START - 300_001
    maker.refuse("CLOCK_AHEAD", "from the future", plain, now=early)
    maker.refuse("SUITE_REFUSED", "below the minimum", plain, minimum_suite=STRONG.name)
    maker.refuse("KEY_UNKNOWN", "the key is not in the record", plain, sender="carol")
    maker.share("", "carol")
    _ended(maker, "compromised", START, "KEY_REVOKED", lambda talk: talk.realm.revoke(talk.alice, COMPROMISED))
    _ended(maker, "revoked before", START, "KEY_REVOKED", lambda talk: talk.realm.revoke(talk.alice, LOST))
    settled = ACCEPTED - constants.settle - 1
    _ended(maker, "superseded long before", settled, "KEY_SUPERSEDED", lambda talk: talk.realm.renew(talk.alice))


def _ended(maker: Maker, what: str, when: int, reason: str, end: Any) -> None:
    clock = ManualClock(START - 86_400_000)
    talk = Talk(maker.suite, SimulatedRealm(clock))
    other = Maker(maker.file, talk)
    draft = other.draft()
    envelope = draft.envelope()
    clock.now = when
    end(talk)
    clock.now = START
    other.share(f", {what}", "alice")
    values = other.input(envelope, talk.bob, what=f", {what}")
    maker.file.fails(reason, f"{maker.suite.name}: the sender's key {what}", **values)


def _own_devices(file: VectorFile) -> None:
    talk = Talk(STRONG)
    second = talk.realm.approve(talk.alice)
    maker = Maker(file, talk)
    copy = pb.Content(sent_copy=pb.SentCopy(recipient_username="bob", message_id=MESSAGE_ID, message=HELLO.message))
    draft = maker.draft(session=talk.session(talk.alice, "alice"), recipient="alice", content=copy.SerializeToString())
    maker.share(", two devices", "alice")
    envelope = draft.envelope()
    values = maker.input(envelope, second, what=", two devices")
    file.good("a copy for the sender's other device", **values, steps=_steps(draft, envelope, second))
    maker.file.fails(
        "OWN_MESSAGE", "a message from the receiving device", **maker.input(envelope, talk.alice, what=", two devices")
    )


def _two_suites(file: VectorFile) -> None:
    """Sealing follows the recipient's key, everything else the session creator's."""
    for suite, bobs in ((STRONG, WEAK), (WEAK, STRONG)):
        talk = Talk(suite, bobs_suite=bobs)
        maker = Maker(file, talk)
        maker.share(f", to {bobs.name}", "alice")
        draft = maker.draft()
        envelope = draft.envelope()
        values = maker.input(envelope, talk.bob, what=f", to {bobs.name}") | {"minimum_suite": WEAK.name}
        name = f"{suite.name}: a session key sealed to a key of {bobs.name}"
        file.good(name, **values, steps=_steps(draft, envelope, talk.bob))
        refused = values | {"minimum_suite": STRONG.name}
        if suite is WEAK:
            file.fails("SUITE_REFUSED", f"{name}, below the minimum", **refused)
        answer = maker.draft(sender=talk.bob, recipient="alice")
        maker.share(f", to {bobs.name}", "bob")
        values = maker.input(answer.envelope(), talk.alice, "bob", what=f", to {bobs.name}")
        name = f"{suite.name}: an answer by a key of {bobs.name}"
        file.fails("SUITE_REFUSED", name, **(values | {"minimum_suite": WEAK.name}))
