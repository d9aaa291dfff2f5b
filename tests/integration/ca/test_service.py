"""The CA over real TLS, called with the generated stubs."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keypost.ca.v1 import ca_service_pb2 as pb
from keypost.ca.v1 import key_info_service_pb2 as info_pb
from keypost.clock import DAY
from keypost.keys.v1 import key_info_pb2 as keys_pb
from keypost.protocol.key_requests import sign_possession
from keypost.protocol.realm_trust import Constants
from keypost.protocol.suites import STRONG, WEAK
from keypost_services.ca import database_commands
from keypost_services.ca.database import open_store
from keypost_services.ca.store import InstalledTrust, StoreAwayError
from keypost_services.ca.store_sql import SqlStore
from keypost_services.ca.trust.realm_files import RealmFolder, create_realm
from keypost_services.embedded.certificates import issue
from keypost_services.runtime.errors import StartError
from support.ca_service import OPEN, CaUnderTest, ca_settings, open_ca
from support.clock import START
from support.service import error_info
from support.trust_statements import trust_statement

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


async def refused(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    info = error_info(failure.value)
    return failure.value.code(), info.reason, dict(info.metadata)


async def next_of(watch: Any) -> info_pb.WatchKeyEventsResponse:
    answer = await watch.read()
    assert isinstance(answer, info_pb.WatchKeyEventsResponse)
    return answer


@pytest.mark.parametrize("suite", [STRONG, WEAK])
async def test_a_device_enrols_renews_and_is_found(ca: CaUnderTest, suite: Any) -> None:
    devices, directory = await ca.devices(), await ca.directory()
    old, request = await ca.enroll_request("alice", suite=suite)
    enrolled = ca.read((await devices.Enroll(request)).key_info, "alice")
    assert [key.fingerprint for key in enrolled.good_keys(ca.clock())] == [old.fingerprint]
    new, renewal = await ca.renew_request(old)
    renewed = ca.read((await devices.Renew(renewal)).key_info, "alice")
    assert [key.fingerprint for key in renewed.good_keys(ca.clock())] == [new.fingerprint]
    answer = await directory.GetKeyInfo(info_pb.GetKeyInfoRequest(username="alice"))
    assert ca.read(answer.key_info, "alice").revision == 2


async def test_clients_get_the_realms_trust(ca: CaUnderTest) -> None:
    assert await ca.trust_of_clients() == ca.trust


async def test_the_cas_steps_of_a_renewal_are_logged(ca: CaUnderTest) -> None:
    await ca.renew(await ca.enroll("alice"))
    steps = [(line["list"], line["step"], line["actor"]) for line in ca.log if line["event"] == "step"]
    assert steps == [("renewal", step, "ca") for step in (5, 6, 7)]


async def test_many_users_are_found_at_once(ca: CaUnderTest) -> None:
    for name in ("alice", "bob"):
        await ca.enroll(name)
    directory = await ca.directory()
    request = info_pb.BatchGetKeyInfoRequest(usernames=["alice", "nobody", "bob"])
    found = (await directory.BatchGetKeyInfo(request)).key_info
    assert {name: ca.read(info, name).revision for name, info in found.items()} == {"alice": 1, "bob": 1}


async def test_who_does_not_exist_is_not_found(ca: CaUnderTest) -> None:
    call = (await ca.directory()).GetKeyInfo(info_pb.GetKeyInfoRequest(username="nobody"))
    assert await refused(call) == (grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND", {"username": "nobody"})


async def test_only_the_directory_reads_records(ca: CaUnderTest) -> None:
    stranger = await ca.directory("delivery")
    call = stranger.GetKeyInfo(info_pb.GetKeyInfoRequest(username="alice"))
    assert (await refused(call))[:2] == (grpc.StatusCode.PERMISSION_DENIED, "METHOD_NOT_ADMITTED")


async def test_events_follow_as_they_happen_and_resume(ca: CaUnderTest) -> None:
    directory = await ca.directory()
    async with asyncio.timeout(20):
        watch = directory.WatchKeyEvents(info_pb.WatchKeyEventsRequest(after_sequence=0))
        first = await next_of(watch)
        assert (list(first.events), first.newest_sequence) == ([], 0)
        old = await ca.enroll("alice")
        enrolled = await next_of(watch)
        new = await ca.renew(old)
        renewed = await next_of(watch)
        watch.cancel()
        resumed = await next_of(directory.WatchKeyEvents(info_pb.WatchKeyEventsRequest(after_sequence=1)))
    assert [event.fingerprint for event in enrolled.events] == [old.fingerprint]
    (event,) = renewed.events
    assert (event.sequence, event.username, event.revision) == (2, "alice", 2)
    assert (event.kind, event.fingerprint) == (keys_pb.KEY_EVENT_KIND_RENEWED, new.fingerprint)
    assert (event.ended_fingerprint, event.create_time) == (old.fingerprint, ca.clock())
    assert list(resumed.events) == [event]


async def test_a_watch_from_nowhere_sees_what_is_to_come(ca: CaUnderTest) -> None:
    await ca.enroll("alice")
    directory = await ca.directory()
    async with asyncio.timeout(20):
        watch = directory.WatchKeyEvents(info_pb.WatchKeyEventsRequest())
        assert (await next_of(watch)).newest_sequence == 1
        await ca.enroll("bob")
        assert [event.username for event in (await next_of(watch)).events] == ["bob"]


async def test_a_watch_beyond_the_newest_event_is_refused(ca: CaUnderTest) -> None:
    directory = await ca.directory()
    watch = directory.WatchKeyEvents(info_pb.WatchKeyEventsRequest(after_sequence=7))
    assert await refused(watch.read()) == (
        grpc.StatusCode.OUT_OF_RANGE,
        "SEQUENCE_AHEAD",
        {"newest_sequence": "0"},
    )


async def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    async with open_ca(tmp_path) as ca:
        old, request = await ca.enroll_request("alice")
        await (await ca.devices()).Enroll(request)
        begun = await (await ca.devices()).BeginRenewal(
            pb.BeginRenewalRequest(username="alice", device_id=old.address.device_id)
        )
    async with open_ca(tmp_path) as again:
        repeated = await (await again.devices()).Enroll(request)
        assert again.read(repeated.key_info, "alice").revision == 1
        # The secret of the nonces is kept too: what began before the restart goes on after it.
        pair = ca.new_pair(old.address)
        renewal = ca.request(pair, begun, kind=keys_pb.KEY_REQUEST_KIND_RENEW, parent_fingerprint=old.fingerprint)
        signed = sign_possession(renewal, pair)
        hashed = WEAK.endorsement_hash(signed.key_request, pair.public_key_der)
        signed.endorsement = WEAK.sign_endorsement(old.private_key, hashed)
        await (await again.devices()).Renew(pb.RenewRequest(key_request=signed))
        directory = await again.directory()
        watch = directory.WatchKeyEvents(info_pb.WatchKeyEventsRequest(after_sequence=0))
        assert [event.sequence for event in (await next_of(watch)).events] == [1, 2]


async def test_one_process_at_a_time(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(open_ca(tmp_path))
        with pytest.raises(StartError, match="another keypost-ca process"):
            await stack.enter_async_context(open_ca(tmp_path))
    async with open_ca(tmp_path):
        pass  # the lock went with its holder


async def test_a_code_made_beside_the_serving_ca_enrols_once(tmp_path: Path) -> None:
    async with open_ca(tmp_path, sign_in="code") as ca:
        database = ca_settings(tmp_path).database
        made = await asyncio.to_thread(
            database_commands.make_code, tmp_path / "realm", database, "alice", "1d", ca.clock()
        )
        sign_in = pb.SignIn(one_time_code=made.code.lower())
        await ca.enroll("alice", sign_in)
        ca.clock.advance(91 * DAY)
        _, request = await ca.enroll_request("alice", sign_in)
        call = (await ca.devices()).Enroll(request)
        assert (await refused(call))[:2] == (grpc.StatusCode.PERMISSION_DENIED, "SIGN_IN_REFUSED")
        assert made.code not in ca.output.getvalue()


async def test_without_a_code_nobody_begins(tmp_path: Path) -> None:
    async with open_ca(tmp_path, sign_in="code") as ca:
        call = (await ca.devices()).BeginEnrollment(pb.BeginEnrollmentRequest(username="alice", sign_in=OPEN))
        assert (await refused(call))[:2] == (grpc.StatusCode.PERMISSION_DENIED, "SIGN_IN_REFUSED")
        assert not [line for line in ca.log if line["event"] == "open_sign_in"]


async def test_open_sign_in_warns(ca: CaUnderTest) -> None:
    (warning,) = [line for line in ca.log if line["event"] == "open_sign_in"]
    assert warning["level"] == "warning"
    assert [line["suite"] for line in ca.log if line["event"] == "weak_suite_allowed"] == ["RSA1024_AES128"]


@pytest.mark.parametrize(("validity", "warned"), [(29, True), (31, False)])
async def test_a_trust_statement_that_ends_soon_is_warned_of(tmp_path: Path, validity: int, warned: bool) -> None:  # noqa: FBT001
    async with open_ca(tmp_path, validity=validity * DAY) as ca:
        assert any(line["event"] == "realm_trust_ends_soon" for line in ca.log) is warned


async def test_old_files_of_the_realm_are_told_from_the_audit_log_at_the_start_and_served(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path / 'ca.db'}") as store:
        await store.enter_trust(InstalledTrust(trust_statement(7), START))
    async with open_ca(tmp_path) as ca:
        said = [
            (line["level"], line["serving"], line["entered"]) for line in ca.log if line["event"] == "realm goes back"
        ]
        assert said == [("error", 1, 7)]
        assert await ca.trust_of_clients() == ca.trust


async def test_a_trust_statement_is_served_from_the_start_although_the_audit_log_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def enter_trust(*_arguments: Any) -> None:
        raise StoreAwayError("the disk is full")

    monkeypatch.setattr(SqlStore, "enter_trust", enter_trust)
    async with open_ca(tmp_path) as ca:
        assert await ca.trust_of_clients() == ca.trust


async def test_a_lifetime_above_the_realms_stops_the_start(tmp_path: Path) -> None:
    constants = Constants(longest_key_lifetime=30 * DAY)
    create_realm(RealmFolder(tmp_path / "realm"), "example.org", constants, 400 * DAY, START)
    issue(tmp_path, "example.org", ["ca"])
    with pytest.raises(StartError, match=r"KEYPOST_CA_KEY_LIFETIME_DAYS: .* longest_key_lifetime"):
        async with open_ca(tmp_path):
            pytest.fail("it serves")


async def test_the_answer_to_a_broken_request_names_the_reason(ca: CaUnderTest) -> None:
    _, request = await ca.enroll_request("alice")
    request.key_request.possession = b"x" * 128
    call = (await ca.devices()).Enroll(request)
    assert (await refused(call))[:2] == (grpc.StatusCode.PERMISSION_DENIED, "POSSESSION_UNPROVEN")


BAD_CALLS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "no username": (lambda ca, _: ca.BeginEnrollment(pb.BeginEnrollmentRequest(sign_in=OPEN)), "username"),
    "no sign-in": (lambda ca, _: ca.BeginEnrollment(pb.BeginEnrollmentRequest(username="alice")), "sign_in"),
    "no code": (
        lambda ca, _: ca.BeginEnrollment(
            pb.BeginEnrollmentRequest(username="alice", sign_in=pb.SignIn(one_time_code="1234"))
        ),
        "sign_in.one_time_code",
    ),
    "no device": (lambda ca, _: ca.BeginRenewal(pb.BeginRenewalRequest(username="alice")), "device_id"),
    "no request": (lambda ca, _: ca.Enroll(pb.EnrollRequest(sign_in=OPEN)), "key_request.key_request"),
    "no renewal": (lambda ca, _: ca.Renew(pb.RenewRequest()), "key_request.key_request"),
    "no user": (lambda _, info: info.GetKeyInfo(info_pb.GetKeyInfoRequest(username="A")), "username"),
    "no fingerprint": (
        lambda _, info: info.GetKeyInfo(info_pb.GetKeyInfoRequest(username="alice", history_from_fingerprint=b"x")),
        "history_from_fingerprint",
    ),
    "no users": (lambda _, info: info.BatchGetKeyInfo(info_pb.BatchGetKeyInfoRequest()), "usernames"),
    "sequence": (
        lambda _, info: info.WatchKeyEvents(info_pb.WatchKeyEventsRequest(after_sequence=2**63)).read(),
        "after_sequence",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
async def test_bad_input_is_refused_by_the_name_of_its_field(ca: CaUnderTest, name: str) -> None:
    call, field = BAD_CALLS[name]
    answer = await refused(call(await ca.devices(), await ca.directory()))
    assert answer == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", {"field": field})


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("realm", "other.example", "is of example.org, not of other.example"),
        ("record_key", "{folder}/realm/root.key", "lists no record key of this CA"),
        ("record_key", "{folder}/realm/nothing.key", "cannot read"),
        ("record_key", "{folder}/ca/public.key", "not Ed25519"),
        ("realm_folder", "{folder}/elsewhere", "cannot read"),
        ("database", "sqlite:///{folder}/no/such/folder/ca.db", "cannot be opened"),
        ("database", "sqlite:///{folder}/public-root.pem", "cannot be opened"),
    ],
)
async def test_what_is_wrong_stops_the_start_with_one_line(tmp_path: Path, name: str, value: str, why: str) -> None:
    async with open_ca(tmp_path):
        pass  # makes the files
    changes: dict[str, Any] = {name: value.format(folder=tmp_path)}
    with pytest.raises(StartError, match=why) as failure:
        async with open_ca(tmp_path, **changes):
            pytest.fail("it serves")
    assert "\n" not in str(failure.value)
