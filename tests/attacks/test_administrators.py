"""Who acts as an administrator, or hides what one did; against the CA, by whoever has got hold of something."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from keypost.ca.v1 import administration_service_pb2 as pb
from keypost.ca.v1.administration_service_pb2_grpc import AdministrationServiceStub
from keypost.keys.v1 import key_info_pb2 as keys_pb
from keypost.protocol.administrators import sign_administrators_revocation
from keypost_services.ca.administration.convert import read_audit_entry
from keypost_services.ca.audit import BEGINNING, AuditBrokenError, AuditEntry, chain, check_reaches, verify_chain
from keypost_services.embedded.certificates import service_names
from keypost_services.runtime.identity import administrator_uri, service_uri
from support.attacks import check_said
from support.ca_service import REALM, CaUnderTest
from support.refusals import refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.x509 import GeneralName

    from keypost_services.ca.audit import Head
    from support.plain_stack import PlainStack

TRIGGERS = ("update", "delete", "insert")


async def all_refused(stack: PlainStack, names: Sequence[GeneralName], reason: str, metadata: Any = None) -> None:
    """Demand that a certificate of these names opens nothing that is for administrators."""
    stub: Any = AdministrationServiceStub(await stack.internal("ca", names))
    calls: dict[str, Any] = {
        "GetUser": pb.GetUserRequest(username="alice"),
        "ListUsers": pb.ListUsersRequest(),
        "ListAuditEntries": pb.ListAuditEntriesRequest(),
        "ListOneTimeCodes": pb.ListOneTimeCodesRequest(),
        "WithdrawOneTimeCodes": pb.WithdrawOneTimeCodesRequest(username="alice", all=True),
    }
    for method, request in calls.items():
        await refused(getattr(stub, method)(request, metadata=metadata, timeout=20), reason)


@pytest.mark.parametrize("service", ["ca", "directory", "delivery", "administrator"])
async def test_users_and_the_audit_log_read_by_a_service(plain_stack: PlainStack, service: str) -> None:
    alice = await plain_stack.enroll("alice")
    metadata = alice.metadata(alice.token(aud=f"{REALM}/ca"))
    await all_refused(plain_stack, service_names(REALM, service), "METHOD_NOT_ADMITTED", metadata)


async def test_an_administrator_of_another_realm(plain_stack: PlainStack) -> None:
    await plain_stack.enroll("alice")
    right = administrator_uri(REALM, "ada")
    wrong = (
        administrator_uri("example.com", "ada"),
        f"{right}?",
        f"{right}#service",
        right.upper().replace("ADA", "ada"),
    )
    for text in wrong:
        names = [x509.UniformResourceIdentifier(text)]
        await all_refused(plain_stack, names, "SERVICE_CERTIFICATE_REFUSED")


async def test_a_certificate_that_names_a_service_and_an_administrator(plain_stack: PlainStack) -> None:
    await plain_stack.enroll("alice")
    uris = (service_uri(REALM, "delivery"), administrator_uri(REALM, "ada"))
    names = [x509.UniformResourceIdentifier(uri) for uri in uris]
    await all_refused(plain_stack, names, "SERVICE_CERTIFICATE_REFUSED")


async def signed_by(ca: CaUnderTest, administrator: str) -> pb.RevokeKeyRequest:
    """Return the revocation of the first key of Alice, signed by an administrator."""
    user = await (await ca.administrator()).find_user("alice")
    revocation = keys_pb.Revocation(
        realm=REALM,
        username="alice",
        device_id=user.keys[0].device_id,
        fingerprint=user.keys[0].fingerprint,
        reason=keys_pb.REVOCATION_REASON_LOST,
        revision=user.revision + 1,
    )
    signed = sign_administrators_revocation(revocation, ca.access(administrator).private_key)
    return pb.RevokeKeyRequest(revocation=signed)


async def test_a_revocation_that_another_administrator_signed(ca: CaUnderTest) -> None:
    await ca.enroll("alice")
    request, ada = await signed_by(ca, "grace"), await signed_by(ca, "ada")
    request.revocation.signer_fingerprint = ada.revocation.signer_fingerprint
    stub = (await ca.administrator("ada"))._stub
    await refused(stub.RevokeKey(request, timeout=20), "REVOCATION_REFUSED")
    request.revocation.signature = bytes(64)
    await refused(stub.RevokeKey(request, timeout=20), "REVOCATION_REFUSED")


async def test_an_overheard_revocation_in_ones_own_name(ca: CaUnderTest) -> None:
    await ca.enroll("alice")
    stub = (await ca.administrator("grace"))._stub
    await refused(stub.RevokeKey(await signed_by(ca, "ada"), timeout=20), "REVOCATION_REFUSED")


async def log_of(ca: CaUnderTest) -> list[AuditEntry]:
    """Return the whole audit log, as an administrator gets it."""
    client = await ca.administrator()
    return [read_audit_entry(message) async for message in client.audit_entries(pb.ListAuditEntriesRequest())]


async def written(ca: CaUnderTest) -> Head:
    """Have a few things done; return the head that an administrator notes."""
    for name in ("alice", "bob", "mallory"):
        await ca.enroll(name)
    return verify_chain(BEGINNING, await log_of(ca))


def tamper(ca: CaUnderTest, *statements: str) -> None:
    """Do what somebody does who rules the database."""
    with closing(sqlite3.connect(ca.folder / "ca.db", timeout=20)) as database:
        for name in TRIGGERS:
            database.execute(f"DROP TRIGGER audit_entries_{name}")
        for statement in statements:
            database.execute(statement)
        database.commit()


async def is_noticed(entries: list[AuditEntry], noted: Head, words: str) -> None:
    with pytest.raises(AuditBrokenError) as caught:
        check_reaches(verify_chain(BEGINNING, entries, noted), noted)
    check_said(str(caught.value), words)


async def test_an_altered_entry_of_the_audit_log(ca: CaUnderTest) -> None:
    await written(ca)
    tamper(ca, "UPDATE audit_entries SET actor = 'somebody else' WHERE username = 'mallory'")
    await is_noticed(await log_of(ca), BEGINNING, "it was altered")


async def test_a_removed_entry_of_the_audit_log(ca: CaUnderTest) -> None:
    await written(ca)
    tamper(ca, "DELETE FROM audit_entries WHERE username = 'bob'")
    await is_noticed(await log_of(ca), BEGINNING, "it was removed")


async def test_an_audit_log_whose_end_was_cut_off(ca: CaUnderTest) -> None:
    noted = await written(ca)
    tamper(ca, "DELETE FROM audit_entries WHERE username = 'mallory'")
    await is_noticed(await log_of(ca), noted, "is gone")


async def test_an_audit_log_that_was_written_anew(ca: CaUnderTest) -> None:
    noted = await written(ca)
    tamper(ca, "UPDATE audit_entries SET username = 'nobody' WHERE username = 'mallory'")
    forged = chain(BEGINNING, [entry.act for entry in await log_of(ca)])
    await is_noticed(forged, noted, "written anew")
