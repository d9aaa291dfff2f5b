"""The way from the root keys of a bundle to those of today."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keypost.clock import DAY
from keypost.errors import KeypostError
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.protocol.errors import (
    MalformedStatementError,
    SignatureInvalidError,
    TrustRefusedError,
    TrustRegressedError,
)
from keypost.protocol.realm_trust import MOST_EARLIER, RealmTrust, later_than, restore_realm_trust, retires
from support.chains import Chain, handed_over, roots_of
from support.clock import ManualClock
from support.realm import REALM, SimulatedRealm, seeded_signer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keypost.protocol.realm_trust import ServedTrust

HISTORIES = st.lists(st.sampled_from(["renew", "announce", "drop"]), max_size=8)


def made(history: Sequence[str]) -> Chain:
    """Return a chain that an honest operator makes by these steps: each statement lists the key that signs it."""
    chain = Chain()
    roots, seed = [chain.realm.root], 100
    for step in history:
        seed += 1
        signer = roots[-1]
        if step == "announce":
            roots = [*roots, seeded_signer(seed)]
        elif step == "drop":
            roots = roots[1:] or roots
        chain.add(signer, *roots)
    return chain


def held_at(chain: Chain, index: int) -> RealmTrust:
    return restore_realm_trust(chain.statements[index], REALM)


@settings(deadline=None, max_examples=60)
@given(history=HISTORIES, data=st.data())
def test_whoever_holds_any_statement_of_an_honest_history_follows_to_the_newest(
    history: Sequence[str], data: st.DataObject
) -> None:
    chain = made(history)
    index = data.draw(st.integers(0, len(chain.statements) - 1))
    held = held_at(chain, index)
    newest = chain.follow(previous=held)
    assert newest.signed == chain.statements[-1]
    assert chain.follow(later_than(chain.served, held.sequence), previous=held) == newest
    assert chain.follow(root_keys=sorted(roots_of(chain.statements[index]))) == newest


@settings(deadline=None, max_examples=60)
@given(history=HISTORIES, data=st.data())
def test_nobody_is_led_to_a_statement_by_a_key_that_was_never_listed(
    history: Sequence[str], data: st.DataObject
) -> None:
    chain = made(history)
    index = data.draw(st.integers(0, len(chain.statements) - 1))
    stranger = seeded_signer(7)
    chain.add(stranger, stranger)
    if data.draw(st.booleans()):
        chain.add(stranger, stranger)
    with pytest.raises((TrustRefusedError, SignatureInvalidError)):
        chain.follow(previous=held_at(chain, index))
    with pytest.raises((TrustRefusedError, SignatureInvalidError)):
        chain.follow(root_keys=sorted(roots_of(chain.statements[index])))


@settings(deadline=None, max_examples=60)
@given(history=HISTORIES, data=st.data())
def test_an_altered_chain_leads_to_the_same_statement_or_nowhere(history: Sequence[str], data: st.DataObject) -> None:
    chain = made([*history, "announce", "drop", "renew"])
    earlier = list(chain.served.earlier)
    index = data.draw(st.integers(0, len(earlier) - 1))
    alter = data.draw(st.sampled_from(["leave out", "swap", "change a byte", "twice"]))
    if alter == "leave out":
        del earlier[index]
    elif alter == "swap":
        earlier.reverse()
    elif alter == "twice":
        earlier.insert(index, earlier[index])
    else:
        changed = bytearray(earlier[index].realm_trust)
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        earlier[index] = pb.SignedRealmTrust(
            realm_trust=bytes(changed),
            signature=earlier[index].signature,
            root_key_fingerprint=earlier[index].root_key_fingerprint,
        )
    try:
        trust = chain.follow(replace(chain.served, earlier=tuple(earlier)))
    except KeypostError:
        return
    assert trust.signed == chain.statements[-1]


def test_a_chain_with_a_hole_is_refused() -> None:
    chain = handed_over(5, 6)
    served = chain.served
    assert len(served.earlier) == 3
    for index in (0, 2):
        earlier = (*served.earlier[:index], *served.earlier[index + 1 :])
        with pytest.raises(TrustRefusedError, match="root key"):
            chain.follow(replace(served, earlier=earlier))


def test_statements_on_the_way_may_have_expired_and_the_last_one_may_not() -> None:
    clock = ManualClock()
    chain = Chain(SimulatedRealm(clock=clock))
    chain.hand_over(chain.realm.root, seeded_signer(5))
    clock.advance(500 * DAY)
    with pytest.raises(TrustRefusedError, match="expired"):
        chain.follow()
    chain.add(seeded_signer(5), seeded_signer(5))
    assert chain.follow().sequence == 4


def test_a_chain_of_another_realm_leads_nowhere() -> None:
    chain = handed_over(5)
    foreign = Chain(SimulatedRealm(realm="other.org"))
    foreign.hand_over(foreign.realm.root, seeded_signer(5))
    with pytest.raises(TrustRefusedError, match=r"other\.org"):
        chain.follow(replace(chain.served, earlier=foreign.served.earlier))


def test_a_sequence_on_the_way_never_goes_back() -> None:
    chain = handed_over(5)
    stolen = chain.statements[1]
    chain.add(seeded_signer(5), seeded_signer(5))
    held = chain.follow()
    with pytest.raises(TrustRegressedError):
        chain.follow(replace(chain.served, signed=chain.statements[2]), previous=held)
    assert chain.follow(replace(chain.served, earlier=(stolen, *chain.served.earlier)), previous=held) == held


def test_a_chain_has_an_end() -> None:
    chain = handed_over(5)
    served = replace(chain.served, earlier=chain.served.earlier * (MOST_EARLIER + 1))
    with pytest.raises(TrustRefusedError, match="more than 64"):
        chain.follow(served)


def test_what_does_not_parse_leads_nowhere() -> None:
    chain = handed_over(5)
    junk = pb.SignedRealmTrust(realm_trust=b"\xff")
    with pytest.raises(MalformedStatementError):
        chain.follow(replace(chain.served, earlier=(junk,)), previous=held_at(chain, 0))


def test_a_statement_retires_a_record_key_that_it_ends_before_its_time() -> None:
    clock = ManualClock()
    realm = SimulatedRealm(clock=clock)
    before = realm.trust()
    realm.record_signer = seeded_signer(8)
    after = restore_realm_trust(realm.signed_trust(2), REALM)
    assert retires(before, after, clock())
    assert not retires(before, before, clock())
    assert not retires(before, after, before.record_keys[0].until_time)
    ended = replace(before, record_keys=(replace(before.record_keys[0], until_time=clock()),))
    assert retires(before, ended, clock())


def served_length(served: ServedTrust) -> int:
    return len(served.earlier)


def test_whoever_holds_more_is_sent_less() -> None:
    served = handed_over(5, 6).served
    assert [served_length(later_than(served, sequence)) for sequence in (0, 1, 2, 3, 4, 5)] == [3, 3, 2, 1, 0, 0]
