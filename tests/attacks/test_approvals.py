"""Somebody's device among Alice's own: by an invitation, by a request, or by what the CA answers; to the client."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from keypost.errors import RefusedError
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.errors import (
    DeviceKeyStolenError,
    EndorsementError,
    IdentityChangedError,
    KeyUnknownError,
    TreeBrokenError,
)
from keypost.protocol.invitations import read_invitation, request_to_text
from keypost.protocol.key_requests import sign_possession
from support.attacks import check_said, check_told, stopped_by
from support.lies import admit_anybody, answer

if TYPE_CHECKING:
    from keypost.protocol.identifiers import Address
    from support.simulation import Services


def request_of(
    services: Services,
    address: Address,
    kind: pb.KeyRequestKind.ValueType = pb.KEY_REQUEST_KIND_APPROVE,
    **changes: Any,
) -> str:
    """Return the request of a device of Mallory, as his own program would write it."""
    realm = services.realm
    pair = realm.new_pair(address)
    return request_to_text(sign_possession(realm.request(pair, kind, **changes), pair))


async def not_vouched_for(alice: Any, services: Services, text: str, words: str) -> None:
    """Demand that Alice refuses to sign: once the CA has her signature, it can do with it what it likes."""
    try:
        await alice.client.approve(text)
    except EndorsementError as error:
        check_said(str(error), words)
    except RefusedError:
        pass  # by an honest CA
    assert services.requests["Approve"] == []


def own_key(person: Any) -> bytes:
    fingerprint: bytes = person.client._parts.identity.current.fingerprint
    return fingerprint


async def test_an_invitation_whose_root_was_exchanged(alice: Any, open_client: Any) -> None:
    """The device would belong to an identity that Mallory made up, with the CA's help."""
    invitation = read_invitation((await alice.client.invite()).text)
    person = await open_client("second")
    request = await person.client.join(replace(invitation, root=bytes(32)).text)
    await alice.client.approve(request.text)
    with pytest.raises(IdentityChangedError):
        await person.client.joined()
    assert person.client.address is None
    check_told(person.reasons("error"), "IDENTITY_CHANGED")


async def test_an_invitation_whose_root_was_exchanged_for_who_is_content_with_warnings(
    alice: Any, open_client: Any
) -> None:
    """The own identity is no peer's: there is nothing to be content with."""
    invitation = read_invitation((await alice.client.invite()).text)
    person = await open_client("second", on_identity_change="warn")
    request = await person.client.join(replace(invitation, root=bytes(32)).text)
    await alice.client.approve(request.text)
    with pytest.raises(IdentityChangedError):
        await person.client.joined()
    assert person.client.address is None


async def test_the_device_that_joins_is_shown_another_tree(alice: Any, services: Services, open_client: Any) -> None:
    person = await open_client("second")
    request = await person.client.join((await alice.client.invite()).text)
    await alice.client.approve(request.text)
    realm = services.realm
    honest = realm.users.pop("alice")
    mallory = realm.enroll("alice")
    pair = person.client._parts.identity.pending
    realm.record(realm.signed_request(pair, pb.KEY_REQUEST_KIND_APPROVE, mallory))
    admit_anybody(services)
    with pytest.raises(IdentityChangedError):
        await person.client.joined()
    assert person.client.address is None
    assert len(honest.keys) == 2


async def test_a_request_for_a_device_of_another_user(alice: Any, services: Services) -> None:
    address = services.realm.new_address("mallory")
    text = request_of(services, address, parent_fingerprint=own_key(alice), revision=2)
    await not_vouched_for(alice, services, text, "vouches for devices of alice")


async def test_a_request_for_another_realm(alice: Any, services: Services) -> None:
    address = services.realm.new_address("alice")
    text = request_of(services, address, realm="evil.example", parent_fingerprint=own_key(alice))
    await not_vouched_for(alice, services, text, "in example.org alone")


async def test_a_request_that_would_renew_this_device(alice: Any, services: Services) -> None:
    """Approved, it would hand the device over to Mallory, mailbox and all."""
    text = request_of(services, alice.client.address, pb.KEY_REQUEST_KIND_RENEW, parent_fingerprint=own_key(alice))
    await not_vouched_for(alice, services, text, "does not ask for a further device")


async def test_a_request_that_names_another_parent(alice: Any, services: Services) -> None:
    other = services.realm.approve(alice.client._parts.identity.current)
    text = request_of(services, services.realm.new_address("alice"), parent_fingerprint=other.fingerprint)
    await not_vouched_for(alice, services, text, "another device, or of an earlier key")


async def test_a_request_for_a_device_that_alice_has(alice: Any, services: Services) -> None:
    other = services.realm.approve(alice.client._parts.identity.current)
    text = request_of(services, other.address, parent_fingerprint=own_key(alice))
    await not_vouched_for(alice, services, text, "has already")


async def test_a_request_for_a_revision_to_come(alice: Any, services: Services) -> None:
    """Kept by the CA, it would enter whenever the CA likes."""
    address = services.realm.new_address("alice")
    text = request_of(services, address, parent_fingerprint=own_key(alice), revision=9)
    await not_vouched_for(alice, services, text, "invite anew")


async def test_an_approval_is_answered_with_another_tree(alice: Any, services: Services, open_client: Any) -> None:
    person = await open_client("second")
    request = await person.client.join((await alice.client.invite()).text)
    honest = services.realm.record

    def record(_signed: pb.SignedKeyRequest) -> Any:
        services.realm.record = honest  # type: ignore[method-assign]
        return services.realm.reset("alice")

    services.realm.record = record  # type: ignore[method-assign, assignment]
    with pytest.raises(IdentityChangedError):
        await alice.client.approve(request.text)
    check_told(alice.reasons("error"), "IDENTITY_CHANGED")


async def test_an_approval_is_swallowed(alice: Any, services: Services, open_client: Any) -> None:
    """Alice would believe that her device is one, and send what it never gets."""
    person = await open_client("second")
    request = await person.client.join((await alice.client.invite()).text)
    services.realm.record = lambda _signed: None  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(KeyUnknownError):
        await alice.client.approve(request.text)


async def test_a_second_device_slips_in_beside_the_approved_one(
    alice: Any, services: Services, open_client: Any
) -> None:
    person = await open_client("second")
    request = await person.client.join((await alice.client.invite()).text)
    honest = services.realm.record

    def record(signed: pb.SignedKeyRequest) -> Any:
        services.realm.record = honest  # type: ignore[method-assign]
        key = honest(signed)
        services.realm.enroll("alice")
        return key

    services.realm.record = record  # type: ignore[method-assign]
    with stopped_by(TreeBrokenError, "2 roots"):
        await alice.client.approve(request.text)


async def test_a_stolen_key_approves_a_device_beside_this_one(alice: Any, services: Services) -> None:
    """The tree is whole: only Alice knows that she did not do it."""
    mallory = services.realm.approve(alice.client._parts.identity.current)
    await alice.client.devices()
    check_told(alice.reasons("info"), "NEW_DEVICE")
    [event] = alice.events
    assert event.facts["device"] == mallory.address.device_id


async def test_the_directory_shows_a_foreign_successor_of_a_device_that_joined(
    alice: Any, services: Services, open_client: Any
) -> None:
    person = await open_client("second")
    request = await person.client.join((await alice.client.invite()).text)
    await alice.client.approve(request.text)
    await person.client.joined()
    honest = services.realm.users["alice"]
    before = replace(honest)
    services.realm.renew(person.client._parts.identity.current)
    answer(services, "alice", services.realm.key_info("alice"))
    services.realm.users["alice"] = before
    with pytest.raises(DeviceKeyStolenError):
        await person.client.devices()
