"""A database that was restored from a backup: what it lacks comes back from the audit log, and nothing else does."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from keypost.clock import MINUTE
from keypost.keys.v1 import key_info_pb2 as pb
from keypost.protocol.suites import WEAK
from keypost_services.ca.acts import codes_withdrawn
from keypost_services.ca.audit import OPERATOR, Action, AuditBrokenError, Head, Origin, chain
from keypost_services.ca.audit_lines import facts_of
from keypost_services.ca.codes import hash_code
from keypost_services.ca.command_line import app
from keypost_services.ca.database import open_store, open_store_as_it_is
from keypost_services.ca.events import EventFeed
from keypost_services.ca.redo import in_order, lines_of_file, read_entries
from keypost_services.ca.sign_in.port import Proof
from keypost_services.ca.store import Identity, InstalledTrust, OneTimeCode
from keypost_services.ca.store_sql import LEAP
from keypost_services.runtime.errors import ServiceError
from support.ca import ISSUER, OPEN, open_bench
from support.trust_statements import trust_statement

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from typer.testing import Result

    from keypost.protocol.key_requests import DeviceKeyPair
    from keypost_services.ca.store import User
    from support.ca import CaBench

USERS = ["alice", "bob", "carol", "dave", "frank"]
FRANK = Proof(id_token="subject-frank")
AT_ISSUER = ("--issuer", ISSUER)
COMPROMISED = pb.REVOCATION_REASON_COMPROMISED


class Lost:
    """A database, its backup, and what happened in between.

    Attributes:
        url: Of the database as it was restored.
        users: What the lost one had in the end.
        log: The audit log as it was kept elsewhere.
        head: Its head.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder / 'restored.db'}"
        self.log = folder / "audit.jsonl"
        self.users: Mapping[str, User] = {}
        self.head = ""

    def back_up(self) -> None:
        with sqlite3.connect(self.folder / "ca.db") as source, sqlite3.connect(self.folder / "restored.db") as copy:
            source.backup(copy)

    async def lose(self, bench: CaBench) -> None:
        self.users = await bench.store.find_users(USERS)
        self.head = str(await bench.store.audit_head())
        database = f"sqlite:///{self.folder / 'ca.db'}"
        listed = await asyncio.to_thread(command, "audit", "list", "--database", database)
        self.log.write_text(listed.stdout)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def after_restore(self, *arguments: str) -> Result:
        return command("after-restore", "--database", self.url, "--yes", *arguments)

    async def restored(self) -> Mapping[str, User]:
        async with open_store_as_it_is(self.url) as store:
            return await store.find_users(USERS)


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--json"])


async def everything_happens(bench: CaBench, first: DeviceKeyPair) -> None:
    """Have every kind of entry written, and a sign-in at an issuer."""
    await the_realms_keys_change(bench)
    second = await bench.approve(first)
    bench.clock.advance(MINUTE)
    renewed = await bench.renew(second)
    thief = await bench.approve(renewed)
    await bench.approve(thief)
    bench.clock.advance(MINUTE)
    await bench.revoke(renewed, first, reason=COMPROMISED, since_time=bench.clock() - 2 * MINUTE)
    await bench.enroll("bob", suite=WEAK)
    carol = await bench.enroll("carol", suite=WEAK)
    await bench.resets.request("carol", OPEN)
    await bench.cancel_reset(carol)
    await bench.enroll("dave", suite=WEAK)
    await bench.resets.open_now("dave", OPERATOR)
    bench.clock.advance(1)
    _, anew = await bench.enroll_request("dave", suite=WEAK, kind=pb.KEY_REQUEST_KIND_RESET)
    await bench.submit_enroll(anew)
    await bench.add_code("erin")
    await bench.store.withdraw_codes(codes_withdrawn("erin", OPERATOR, bench.clock(), Origin("host:ca-0")))
    await bench.enroll("frank", FRANK, WEAK)
    await bench.resets.request("bob", OPEN)


async def the_realms_keys_change(bench: CaBench) -> None:
    """Have trust statements taken up, two of them of one sequence."""
    for signed in (
        trust_statement(),
        trust_statement(2, (1, 3), {2: 400, 4: 500}),
        trust_statement(3, (3,), {2: 600, 4: 500}, signed_by=3),
        trust_statement(3, (3,), {4: 500}, signed_by=3),
    ):
        await bench.store.enter_trust(InstalledTrust(signed, bench.clock(), Origin("host:ca-0")))


@pytest.fixture
async def lost(tmp_path: Path) -> Lost:
    found = Lost(tmp_path)
    async with open_bench(tmp_path) as bench:
        first = await bench.enroll("alice")
        found.back_up()
        await everything_happens(bench, first)
        await found.lose(bench)
    return found


async def made_fit(lost: Lost, *arguments: str) -> dict[str, Any]:
    result = await asyncio.to_thread(lost.after_restore, *arguments)
    assert result.exit_code == 0, result.stderr
    facts: dict[str, Any] = json.loads(result.stdout)
    return facts


async def test_every_record_comes_back_as_it_was_to_the_revision_and_the_millisecond(lost: Lost) -> None:
    facts = await made_fit(lost, "--audit", str(lost.log), "--head", lost.head, *AT_ISSUER)
    assert facts["entries_redone"] == len(lost.lines()) - 1
    assert {line["action"] for line in lost.lines()} == {str(action) for action in Action}
    restored = await lost.restored()
    # The one reset that was still announced is called off: that is a step more.
    assert (facts["resets_cancelled"], restored["bob"].revision) == (1, lost.users["bob"].revision + 1)
    same = replace(restored["bob"], revision=lost.users["bob"].revision, reset_time=lost.users["bob"].reset_time)
    assert {**restored, "bob": same} == lost.users


async def test_files_that_overlap_may_be_put_together(lost: Lost) -> None:
    lines = lost.log.read_text().splitlines()
    lost.log.write_text("\n".join([*lines[4:], *lines[:8]]))
    assert (await made_fit(lost, "--audit", str(lost.log), *AT_ISSUER))["entries_redone"] == len(lines) - 1


async def test_it_is_done_once(lost: Lost) -> None:
    await made_fit(lost, "--audit", str(lost.log), *AT_ISSUER)
    again = await made_fit(lost, "--audit", str(lost.log), *AT_ISSUER)
    assert (again["entries_redone"], again["resets_cancelled"]) == (0, 0)


async def test_without_the_log_it_says_how_far_the_backup_goes(lost: Lost) -> None:
    facts = await made_fit(lost, "--without-audit")
    assert (facts["entries_redone"], facts["newest_entry_time"]) == (0, lost.lines()[0]["create_time"])


@pytest.mark.parametrize("field", ["action", "username", "create_time", "evidence", "revision", "actor"])
async def test_an_entry_that_was_altered_is_refused(lost: Lost, field: str) -> None:
    lines = lost.lines()
    lines[2][field] = {"action": "enrolled", "revision": 7, "create_time": 1, "evidence": "00"}.get(field, "mallory")
    lost.log.write_text("\n".join(map(json.dumps, lines)))
    await refused(lost, "entry 3 is not what was written")


async def test_an_entry_with_a_hash_of_its_own_that_signs_nothing_is_refused(lost: Lost) -> None:
    entries = list(read_entries(lost.log.read_text().splitlines()))
    forged = replace(entries[1].act, evidence=entries[0].act.evidence)
    (entry,) = chain(Head(entries[0].sequence, entries[0].hash), [forged])
    lost.log.write_text(json.dumps(facts_of(entry)))
    await refused(lost, "entry 2 ")
    assert (await lost.restored())["alice"].revision == 1


async def test_a_log_that_begins_too_late_or_ends_too_early_is_refused(lost: Lost) -> None:
    lines = lost.log.read_text().splitlines()
    lost.log.write_text("\n".join(lines[2:]))
    await refused(lost, "entry 2 is not in its place")
    lost.log.write_text("\n".join(lines[:-1]))
    await refused(lost, "is gone", "--head", lost.head)


async def test_another_log_is_refused(lost: Lost) -> None:
    lines = lost.lines()
    lines[0]["hash"] = "00" * 32
    lost.log.write_text("\n".join(map(json.dumps, lines)))
    await refused(lost, "they are of different logs")


async def test_what_is_no_log_is_refused(lost: Lost) -> None:
    for text in ("{\n", "[]", '{"sequence": 1}'):
        lost.log.write_text(text)
        await refused(lost, "line 1 is no entry")


async def refused(lost: Lost, why: str, *arguments: str) -> None:
    result = await asyncio.to_thread(lost.after_restore, "--audit", str(lost.log), *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert why in result.stderr


async def test_a_code_from_before_is_good_no_longer(tmp_path: Path) -> None:
    """It may have been used up since the backup."""
    lost = Lost(tmp_path)
    async with open_bench(tmp_path, open_sign_in=False) as bench:
        code, binding = await bench.add_code("alice"), bench.binding
        lost.back_up()
        await bench.enroll("alice", code, WEAK)
    # Whatever the clock of the machine says on which it is restored: it may be ahead, and the CA's own behind it.
    facts = await made_fit(lost, "--without-audit")
    assert facts["codes_ended"] == 1
    async with open_store_as_it_is(lost.url) as store:
        kept = await store.find_code(hash_code(code.code or "", "alice", binding))
    assert kept is not None
    assert kept.expire_time == 0
    (tmp_path / "restored.db").rename(tmp_path / "ca.db")
    async with open_bench(tmp_path, open_sign_in=False) as bench:
        with pytest.raises(ServiceError, match="sign-in"):
            await bench.enroll("alice", code, WEAK)


async def test_whoever_watched_before_begins_anew_even_if_nothing_happens(lost: Lost) -> None:
    await made_fit(lost, "--without-audit")
    async with open_store_as_it_is(lost.url) as store:
        feed = EventFeed(store, poll_seconds=5, heartbeat_seconds=5)
        assert await store.newest_sequence() > LEAP
        for after in (0, 1, 5, LEAP // 2):
            with pytest.raises(ServiceError) as refusal:
                await to_the_end(feed, after)
            assert refusal.value.reason == "EVENTS_FORGOTTEN"
        async with asyncio.timeout(10), aclosing(feed.watch(None)) as watching:  # type: ignore[type-var]
            assert (await anext(watching)).newest_sequence == await store.newest_sequence()


async def to_the_end(feed: EventFeed, after: int) -> None:
    async with asyncio.timeout(10), aclosing(feed.watch(after)) as watching:  # type: ignore[type-var]
        async for _ in watching:
            pass


async def test_who_signed_in_first_at_the_issuer_stays_that_user(lost: Lost) -> None:
    """Frank has lost his devices, and the issuer has given his name to somebody else."""
    facts = await made_fit(lost, "--audit", str(lost.log), *AT_ISSUER)
    assert facts["entries_redone"] == len(lost.lines()) - 1
    (lost.folder / "ca.db").unlink()
    (lost.folder / "restored.db").rename(lost.folder / "ca.db")
    async with open_bench(lost.folder) as bench:
        assert await bench.store.find_identities(Identity("frank", ISSUER, "")) == [
            Identity("frank", ISSUER, "subject-frank")
        ]
        with pytest.raises(ServiceError, match="sign-in"):
            await bench.resets.request("frank", Proof(id_token="subject-newcomer"))


async def test_without_the_issuer_nothing_is_made_again(lost: Lost) -> None:
    await refused(lost, "frank enrolled by a sign-in at the issuer")
    assert not (await lost.restored()).keys() - {"alice"}
    await refused(lost, "must", "--issuer", "no url")


async def test_a_noted_head_that_the_database_has_passed_is_compared_with_it(lost: Lost) -> None:
    await refused(lost, "entry 1 in the database is not the one that was noted", "--head", f"1:{'00' * 32}", *AT_ISSUER)
    first = lost.lines()[0]["hash"]
    await made_fit(lost, "--audit", str(lost.log), "--head", f"1:{first}", *AT_ISSUER)


async def test_a_line_that_was_cut_off_is_told(lost: Lost) -> None:
    whole = lost.log.read_text()
    lost.log.write_text(whole[:-40])
    last = len(lost_lines := whole.splitlines())
    await refused(lost, f"line {last}, the last one, is cut off", *AT_ISSUER)
    checked = await asyncio.to_thread(command, "audit", "verify", "--file", str(lost.log))
    assert (checked.exit_code, f"line {last}, the last one, is cut off" in checked.stderr) == (2, True)
    lost.log.write_text("\n".join([*lost_lines[:-1], lost_lines[-1][:-40], ""]))
    await refused(lost, f"line {last} is no entry", *AT_ISSUER)


async def test_the_kept_log_is_verified_by_itself(lost: Lost) -> None:
    lines = lost.log.read_text().splitlines(keepends=True)
    lost.log.write_text("".join([*lines, *lines[3:]]))
    checked = await asyncio.to_thread(command, "audit", "verify", "--file", str(lost.log), "--head", lost.head)
    assert json.loads(checked.stdout)["head"] == lost.head
    lost.log.write_text("".join(lines[:2] + lines[3:]))
    checked = await asyncio.to_thread(command, "audit", "verify", "--file", str(lost.log))
    assert (checked.exit_code, "entry 3 is not in its place" in checked.stderr) == (1, True)


async def test_what_comes_out_otherwise_is_not_made(lost: Lost) -> None:
    """What was written in between is noticed before anything is committed behind it: the log does not fork."""
    entries = in_order(read_entries(lines_of_file(lost.log)), after=1)
    code = next(entry for entry in entries if entry.act.action == Action.CODE_MADE)
    async with open_store(lost.url) as store:
        before = await store.audit_head()
        made = OneTimeCode(code.act.evidence, code.act.username, 0)
        with pytest.raises(AuditBrokenError, match=f"entry {code.sequence} came out otherwise"):
            await store.add_code(made, code.act, [code])
        assert (await store.find_code(made.code_hash), await store.audit_head()) == (None, before)


async def test_nothing_is_done_while_a_ca_serves_or_unless_somebody_agrees(lost: Lost) -> None:
    asked = await asyncio.to_thread(CliRunner().invoke, app, ["after-restore", "--database", lost.url], input="y\nn\n")
    assert (asked.exit_code, "revoked keys are good again" in asked.output) == (2, True)
    forgotten = await asyncio.to_thread(lost.after_restore)
    assert (forgotten.exit_code, "or say --without-audit" in forgotten.stderr) == (2, True)
    await refused(lost, "contradict", "--without-audit")
    async with open_store(lost.url):
        await refused(lost, "another keypost-ca process uses the database")
