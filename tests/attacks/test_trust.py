"""What a CA or a directory could do to the realm's trust, on which every record rests: to the client."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from keypost.clock import DAY, HOUR, MINUTE
from keypost.errors import InvalidArgumentError
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.protocol.errors import SignatureInvalidError, SuiteRefusedError, TrustRefusedError, UnknownRecordKeyError
from keypost.protocol.realm_trust import MOST_EARLIER, sign_realm_trust
from keypost.protocol.suites import STRONG, WEAK
from support.attacks import check_told, stopped_by
from support.chains import Chain
from support.lies import STRANGER
from support.realm import seeded_signer

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.clock import ManualClock
    from support.simulation import Services
    from support.tls import TlsFiles

OWN_RECORD_KEY = pb.RecordKey(public_key_der=STRANGER.public_key_der, from_time=1, until_time=2**52)


def changed(services: Services, change: Callable[[pb.RealmTrust], object]) -> pb.RealmTrust:
    """Return the realm's next statement with a change."""
    statement = pb.RealmTrust.FromString(services.realm.signed_trust(2).realm_trust)
    change(statement)
    return statement


async def test_a_root_key_that_the_bundle_does_not_name(open_client: Any, services: Services, tls: TlsFiles) -> None:
    bundle = services.bundle(tls)
    services.realm.root = STRANGER
    services.trust = services.realm.signed_trust(1)
    with stopped_by(TrustRefusedError, "root key"):
        await open_client("carol", bundle=bundle)


async def test_a_statement_that_is_forged(open_client: Any, services: Services, tls: TlsFiles) -> None:
    bundle, honest = services.bundle(tls), services.realm.root
    services.realm.root = STRANGER
    services.trust = services.realm.signed_trust(1)
    services.trust.root_key_fingerprint = honest.fingerprint
    with pytest.raises(SignatureInvalidError):
        await open_client("carol", bundle=bundle)


async def test_the_statement_of_another_realm(open_client: Any, services: Services, tls: TlsFiles) -> None:
    """An operator with two realms under one root."""
    services.trust = services.realm.signed_trust(1, realm="other.org")
    with stopped_by(TrustRefusedError, "other.org"):
        await open_client("carol", bundle=services.bundle(tls))


async def test_a_statement_that_has_expired(open_client: Any, services: Services, clock: ManualClock) -> None:
    services.trust = services.realm.signed_trust(1, until_time=clock())
    with stopped_by(TrustRefusedError, "expired"):
        await open_client("carol")


async def test_a_statement_that_has_expired_since_is_all_that_is_served(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    """Whoever has a record key that was retired withholds the statement which says so."""
    services.trust = services.realm.signed_trust(2, until_time=clock() + 3 * HOUR)
    clock.advance(HOUR)
    await alice.client.send("bob", "while it is in force")
    clock.advance(2 * HOUR)
    with stopped_by(TrustRefusedError, "expired"):
        await alice.client.send("bob", "by a statement that is over")
    assert len(services.mailboxes[bob.client.address]) == 1


@pytest.mark.usefixtures("bob")
async def test_the_sequence_goes_back(alice: Any, services: Services, clock: ManualClock) -> None:
    before = services.trust
    services.realm.record_signer, stolen = seeded_signer(3), services.realm.record_signer
    services.trust = services.realm.signed_trust(2)
    clock.advance(HOUR)
    await alice.client.send("bob", "under the new record key")
    services.trust, services.realm.record_signer = before, stolen
    clock.advance(HOUR)
    with pytest.raises(UnknownRecordKeyError):
        await alice.client.send("bob", "under the record key that was stolen")
    check_told(alice.reasons("warning"), "REALM_TRUST_REGRESSED")


@pytest.mark.usefixtures("bob")
async def test_two_statements_of_one_sequence(alice: Any, services: Services, clock: ManualClock) -> None:
    services.trust = services.realm.signed_trust(1, until_time=clock() + 4000 * DAY)
    clock.advance(HOUR)
    await alice.client.send("bob", "hello")
    check_told(alice.reasons("warning"), "REALM_TRUST_REGRESSED")


@pytest.mark.usefixtures("bob")
async def test_constants_are_changed_on_the_way(alice: Any, services: Services, clock: ManualClock) -> None:
    def longer(statement: pb.RealmTrust) -> None:
        statement.constants.record_lifetime = 4000 * DAY

    services.trust.realm_trust = changed(services, longer).SerializeToString(deterministic=True)
    clock.advance(HOUR)
    await alice.client.send("bob", "hello")
    assert alice.client._parts.trust.held.constants.record_lifetime == HOUR
    check_told(alice.reasons("warning"), "SIGNATURE_INVALID")


@pytest.mark.usefixtures("bob")
async def test_a_record_key_is_added_on_the_way(alice: Any, services: Services, clock: ManualClock) -> None:
    statement = changed(services, lambda trust: trust.record_keys.append(OWN_RECORD_KEY))
    services.trust.realm_trust = statement.SerializeToString(deterministic=True)
    services.realm.record_signer = STRANGER
    clock.advance(HOUR)
    with pytest.raises(UnknownRecordKeyError):
        await alice.client.send("bob", "under the directory's own key")


@pytest.mark.usefixtures("bob")
async def test_a_root_key_that_has_handed_over(alice: Any, services: Services, clock: ManualClock) -> None:
    realm = services.realm
    stolen, realm.root = realm.root, seeded_signer(5)
    services.trust = sign_realm_trust(pb.RealmTrust.FromString(realm.signed_trust(2).realm_trust), stolen)
    clock.advance(HOUR)
    await alice.client.send("bob", "under the new root key")
    realm.root, realm.record_signer = stolen, STRANGER
    services.trust = realm.signed_trust(3)
    clock.advance(HOUR)
    with pytest.raises(UnknownRecordKeyError):
        await alice.client.send("bob", "under whatever the old root key signs")
    check_told(alice.reasons("warning"), "REALM_TRUST_REFUSED")


async def test_a_key_of_a_suite_that_the_realm_allows_no_more(
    open_client: Any, services: Services, clock: ManualClock
) -> None:
    lenient = await open_client("carol", minimum_suite=WEAK)
    await lenient.client.enroll("carol")
    broken = services.realm.enroll("bob", WEAK)
    services.realm.constants = replace(services.realm.constants, allowed_suites=(STRONG.id,))
    services.trust = services.realm.signed_trust(2)
    clock.advance(HOUR)
    with stopped_by(SuiteRefusedError, "not allowed"):
        await lenient.client.send("bob", "for Bob alone")
    assert not services.mailboxes[broken.address]


async def test_a_bundle_that_would_have_another_root_key_believed(
    alice: Any, services: Services, tls: TlsFiles, open_client: Any
) -> None:
    await alice.client.close()
    bundle = services.bundle(tls)
    bundle.root_keys[0].public_key_der = STRANGER.public_key_der
    with stopped_by(InvalidArgumentError, "belongs to"):
        await open_client("alice", bundle=bundle)


async def test_a_bundle_that_would_have_another_realm_believed(
    alice: Any, services: Services, tls: TlsFiles, open_client: Any
) -> None:
    await alice.client.close()
    bundle = services.bundle(tls)
    bundle.realm = "other.org"
    with stopped_by(InvalidArgumentError, "belongs to"):
        await open_client("alice", bundle=bundle)


def serve(services: Services, chain: Chain) -> None:
    """Have the services hand out the newest statement of a chain, and those that lead to it."""
    services.trust, services.earlier = chain.served.signed, list(chain.served.earlier)


@pytest.mark.usefixtures("bob")
async def test_a_chain_that_nobody_signed_whom_she_knows(alice: Any, services: Services, clock: ManualClock) -> None:
    chain = Chain(services.realm, [services.realm.signed_trust()])
    chain.hand_over(STRANGER, STRANGER)
    services.realm.record_signer = STRANGER
    chain.add(STRANGER, STRANGER)
    serve(services, chain)
    clock.advance(HOUR)
    with pytest.raises(UnknownRecordKeyError):
        await alice.client.send("bob", "under a record key of the CA's own")
    check_told(alice.reasons("warning"), "REALM_TRUST_REFUSED")


@pytest.mark.usefixtures("bob")
async def test_a_chain_with_a_hole(alice: Any, services: Services, clock: ManualClock) -> None:
    """The statement by which the root key is said to have handed over is not there: it never was."""
    chain = Chain(services.realm, [services.realm.signed_trust()])
    chain.add(STRANGER, STRANGER, seeded_signer(5))
    services.realm.record_signer = STRANGER
    chain.add(seeded_signer(5), seeded_signer(5))
    services.trust, services.earlier = chain.statements[-1], []
    clock.advance(HOUR)
    with pytest.raises(UnknownRecordKeyError):
        await alice.client.send("bob", "under a record key of the CA's own")
    check_told(alice.reasons("warning"), "REALM_TRUST_REFUSED")


@pytest.mark.usefixtures("bob")
async def test_a_chain_is_forged_in_the_name_of_her_root_key(
    alice: Any, services: Services, clock: ManualClock
) -> None:
    chain = Chain(services.realm, [services.realm.signed_trust()])
    chain.add(STRANGER, STRANGER).root_key_fingerprint = services.realm.root.fingerprint
    services.realm.record_signer = STRANGER
    chain.add(STRANGER, STRANGER)
    serve(services, chain)
    clock.advance(HOUR)
    with pytest.raises(UnknownRecordKeyError):
        await alice.client.send("bob", "under a record key of the CA's own")
    check_told(alice.reasons("warning"), "SIGNATURE_INVALID")


@pytest.mark.usefixtures("bob")
async def test_a_retired_root_key_signs_a_chain_of_its_own(alice: Any, services: Services, clock: ManualClock) -> None:
    realm = services.realm
    chain = Chain(realm, [realm.signed_trust()])
    chain.hand_over(realm.root, seeded_signer(5))
    serve(services, chain)
    clock.advance(HOUR)
    await alice.client.send("bob", "under the new root key")
    chain.add(realm.root, STRANGER)
    realm.record_signer = STRANGER
    chain.add(STRANGER, STRANGER)
    serve(services, chain)
    clock.advance(HOUR)
    with pytest.raises(UnknownRecordKeyError):
        await alice.client.send("bob", "under whatever the old root key signs")
    check_told(alice.reasons("warning"), "REALM_TRUST_REFUSED")


async def test_a_chain_without_an_end(alice: Any, services: Services, clock: ManualClock) -> None:
    """The CA makes Alice verify signatures for as long as it likes."""
    chain = Chain(services.realm, [services.realm.signed_trust()])
    for _ in range(MOST_EARLIER + 2):
        chain.add(services.realm.root, services.realm.root)
    services.trust, services.earlier = chain.statements[-1], chain.statements[1:-1]
    clock.advance(HOUR)
    await alice.client.devices()
    check_told(alice.reasons("warning"), "REALM_TRUST_REFUSED")


async def test_a_record_that_is_held_and_whose_record_key_was_stolen(
    alice: Any, bob: Any, services: Services, clock: ManualClock
) -> None:
    """Whoever has stolen a record key made the record that Alice holds; the realm has retired the key since."""
    await alice.client.send("bob", "while it is in force")
    asked = len(services.requests["GetKeyInfo"])
    services.realm.record_signer = seeded_signer(3)
    services.trust = services.realm.signed_trust(2)
    clock.advance(2 * MINUTE)
    await alice.client.keys("alice")
    await alice.client.send("bob", "once it is retired")
    looked_up = [request.username for request in services.requests["GetKeyInfo"][asked:]]
    assert "bob" in looked_up
    assert len(services.mailboxes[bob.client.address]) == 2
