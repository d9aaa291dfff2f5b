from __future__ import annotations

import pytest

from keypost.errors import InvalidArgumentError
from keypost.keystore import KeyStoreConflictError
from keypost.keystore.values import Profile, StoredRealmTrust
from support.key_store import ALICE, ALICE_TABLET, BUNDLE, REALM, Reopening


def test_a_new_profile_has_realm_and_bundle_and_no_address(key_store: Reopening) -> None:
    assert key_store.again().profile.read() == Profile(REALM, BUNDLE, None)


def test_address_and_bundle_are_kept(key_store: Reopening) -> None:
    key_store.store.profile.set_address(ALICE)
    key_store.store.profile.set_address(ALICE_TABLET)
    key_store.store.profile.set_bundle(b"another bundle")
    assert key_store.again().profile.read() == Profile(REALM, b"another bundle", ALICE_TABLET)


def test_realm_trust_moves_forward_only(key_store: Reopening) -> None:
    profile = key_store.store.profile
    assert profile.realm_trust() is None
    profile.set_realm_trust(StoredRealmTrust(1, b"first"))
    profile.set_realm_trust(StoredRealmTrust(3, b"third"))
    profile.set_realm_trust(StoredRealmTrust(3, b"third"))
    for refused in (StoredRealmTrust(2, b"second"), StoredRealmTrust(3, b"another third")):
        with pytest.raises(KeyStoreConflictError):
            profile.set_realm_trust(refused)
    assert key_store.again().profile.realm_trust() == StoredRealmTrust(3, b"third")


def test_notes_are_kept_and_removed(key_store: Reopening) -> None:
    profile = key_store.store.profile
    assert profile.note("watch") is None
    profile.set_note("watch", b"17")
    profile.set_note("watch", b"18")
    assert key_store.again().profile.note("watch") == b"18"
    key_store.store.profile.set_note("watch", None)
    assert key_store.again().profile.note("watch") is None


def test_a_number_beyond_63_bits_is_refused(key_store: Reopening) -> None:
    with pytest.raises(InvalidArgumentError):
        key_store.store.profile.set_realm_trust(StoredRealmTrust(2**63, b"far"))
    assert key_store.again().profile.realm_trust() is None
