"""What every kind of sign-in must do; an adapter joins by one more parameter of the fixture."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from keypost.clock import DAY
from keypost_services.ca.codes import hash_code, new_code
from keypost_services.ca.engine import open_engine
from keypost_services.ca.migrate import migrate
from keypost_services.ca.sign_in.code_sign_in import CodeSignIn
from keypost_services.ca.sign_in.open_sign_in import OpenSignIn
from keypost_services.ca.sign_in.port import Proof, SignIn, SignInRefusedError
from keypost_services.ca.store import OneTimeCode
from keypost_services.ca.store_sql import SqlStore
from support.ca_changes import code_act
from support.clock import ManualClock
from support.oidc_issuer import open_issuer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
REALM = b"r" * 32
PROOFS = [Proof(), Proof("0" * 26), Proof(id_token="e30.e30.c2ln")]


@dataclass
class Adapter:
    """A kind of sign-in, and a hand that makes proofs that it takes.

    Attributes:
        proof: Returns a good proof of a user, for a key.
        ends: Whether a proof ends by itself.
        binds_user: Whether a proof is of one user.
        binds_key: Whether a proof is for one key.
    """

    sign_in: SignIn
    proof: Callable[[str, bytes], Awaitable[Proof]]
    clock: ManualClock
    ends: bool = True
    binds_user: bool = True
    binds_key: bool = False


@asynccontextmanager
async def by_code(folder: Path) -> AsyncIterator[Adapter]:
    engine, clock = open_engine(f"sqlite:///{folder / 'ca.db'}"), ManualClock()
    await migrate(engine)
    store = SqlStore(engine)

    async def proof(username: str, _fingerprint: bytes) -> Proof:
        code = new_code(os.urandom)
        kept = OneTimeCode(hash_code(code, username, REALM), username, clock() + DAY)
        await store.add_code(kept, code_act(kept))
        return Proof(code)

    yield Adapter(CodeSignIn(store, REALM, clock), proof, clock)
    await engine.dispose()


@asynccontextmanager
async def by_id_token(folder: Path) -> AsyncIterator[Adapter]:
    engine, clock = open_engine(f"sqlite:///{folder / 'ca.db'}"), ManualClock()
    await migrate(engine)
    async with open_issuer(folder, clock) as issuer:

        async def proof(username: str, fingerprint: bytes) -> Proof:
            issuer.person = {"sub": f"subject-{username}", "preferred_username": username}
            return Proof(id_token=issuer.id_token(fingerprint.hex()))

        yield Adapter(issuer.sign_in(SqlStore(engine)), proof, clock, binds_key=True)
    await engine.dispose()


@asynccontextmanager
async def by_nothing(_folder: Path) -> AsyncIterator[Adapter]:
    async def proof(_username: str, _fingerprint: bytes) -> Proof:
        return Proof()

    yield Adapter(OpenSignIn(), proof, ManualClock(), ends=False, binds_user=False)


ADAPTERS = {"code": by_code, "oidc": by_id_token, "open": by_nothing}


@pytest.fixture(params=ADAPTERS)
async def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Adapter]:
    async with ADAPTERS[request.param](tmp_path) as opened:
        yield opened


async def admitted(adapter: Adapter, username: str, proof: Proof, fingerprint: bytes | None = KEY) -> bool:
    try:
        await adapter.sign_in.admit(username, proof, fingerprint)
    except SignInRefusedError:
        return False
    return True


async def test_a_good_proof_is_admitted_and_not_used_up(adapter: Adapter) -> None:
    proof = await adapter.proof("alice", KEY)
    first = await adapter.sign_in.admit("alice", proof, None)
    assert await adapter.sign_in.admit("alice", proof, KEY) == first
    assert first.used_fingerprint == b""


async def test_a_proof_of_another_kind_is_refused(adapter: Adapter) -> None:
    mine = await adapter.proof("alice", KEY)
    others = [proof for proof in PROOFS if proof.kind != mine.kind]
    assert len(others) == 2
    for proof in others:
        assert not await admitted(adapter, "alice", proof)


async def test_a_proof_of_another_user_is_refused(adapter: Adapter) -> None:
    proof = await adapter.proof("mallory", KEY)
    assert await admitted(adapter, "alice", proof) is not adapter.binds_user


async def test_a_proof_for_another_key_is_refused_where_it_is_for_one(adapter: Adapter) -> None:
    proof = await adapter.proof("alice", OTHER_KEY)
    assert await admitted(adapter, "alice", proof, None)
    assert await admitted(adapter, "alice", proof) is not adapter.binds_key


async def test_a_proof_ends(adapter: Adapter) -> None:
    proof = await adapter.proof("alice", KEY)
    adapter.clock.advance(DAY)
    assert await admitted(adapter, "alice", proof) is not adapter.ends


async def test_nothing_shows_a_proof(adapter: Adapter) -> None:
    proof = await adapter.proof("alice", KEY)
    grant = await adapter.sign_in.admit("alice", proof, KEY)
    for secret in filter(None, (proof.code, proof.id_token)):
        assert secret not in repr(proof)
        assert secret not in repr(grant)
