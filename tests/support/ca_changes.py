"""Changes as a store of the CA applies them, whatever the domain would think of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from keypost.keys.v1 import key_info_pb2 as pb
from keypost_services.ca.audit import Act, Action, Actor, ActorKind
from keypost_services.ca.store import Change, Ending, EventDraft, OneTimeCode, RecordedKey

CHANGED = 1_700_000_000_000
BY_CODE = Actor(ActorKind.SIGN_IN, "code")
BY_DEVICE = Actor(ActorKind.DEVICE, f"alice/{'a' * 16}")


def fingerprint(number: int) -> bytes:
    return number.to_bytes(32, "big")


def key(number: int, username: str = "alice", revision: int = 1, **changes: Any) -> RecordedKey:
    made = RecordedKey(
        fingerprint=fingerprint(number),
        username=username,
        device_id="a" * 16,
        suite=pb.SUITE_RSA3072_AES256,
        kind=pb.KEY_REQUEST_KIND_ENROLL,
        epoch=1,
        revision=revision,
        parent_fingerprint=b"",
        expire_time=2 * CHANGED,
        key_request=b"request \x00\xff",
        possession=b"possession",
        endorsement=b"",
        state=pb.KEY_STATE_GOOD,
        enter_time=CHANGED,
        state_time=CHANGED,
    )
    return replace(made, **changes)


def change(entering: RecordedKey, **changes: Any) -> Change:
    made = Change(
        username=entering.username,
        epoch=entering.epoch,
        revision=entering.revision,
        time=CHANGED,
        key=entering,
        events=(EventDraft(pb.KEY_EVENT_KIND_ENROLLED, entering.fingerprint),),
        actor=BY_CODE,
    )
    return replace(made, **changes)


def renewal(number: int, replaced: int, revision: int, username: str = "alice") -> Change:
    entering = key(
        number,
        username,
        revision,
        kind=pb.KEY_REQUEST_KIND_RENEW,
        parent_fingerprint=fingerprint(replaced),
        enter_time=CHANGED + revision,
        state_time=CHANGED + revision,
    )
    return Change(
        username=username,
        epoch=entering.epoch,
        revision=revision,
        time=CHANGED + revision,
        key=entering,
        endings=(Ending(fingerprint(replaced), pb.KEY_STATE_SUPERSEDED),),
        events=(EventDraft(pb.KEY_EVENT_KIND_RENEWED, entering.fingerprint, fingerprint(replaced)),),
        actor=BY_DEVICE,
    )


def code_act(code: OneTimeCode, **changes: Any) -> Act:
    made = Act(CHANGED, Action.CODE_MADE, ActorKind.OPERATOR, "", code.username, evidence=code.code_hash)
    return replace(made, **changes)
