"""compose.yaml, run: from the host, through published ports, as somebody who uses it."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from keypost import Client, Passphrase, UnreachableError
from keypost.protocol.suites import STRONG
from keypost_services.embedded.story import Notebook, Scene, Story, summary

if TYPE_CHECKING:
    from pathlib import Path

    from support.images.composed import Composed

SERVICES = ("ca", "directory", "delivery")
STORES = ("postgres", "cache", "mailboxes", "limits")
READ_ALL = 'for file in $(find /etc/keypost -type f); do echo "$file $(base64 -w0 $file)"; done'
MESSAGES = 40
UNREAD = 100
SECONDS = 600.0
LAST = "the last one"


async def test_the_story(stack: Composed, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    notebook = Notebook(told.append, stack.ca_steps())
    codes = {name: stack.code_for(name) for name in ("alice", "bob")}
    await Story(Scene([stack.bundle(tmp_path / "bundle.json")], STRONG.name, tmp_path, codes), notebook).play()
    assert summary(notebook, None)["ok"], [check for check in notebook.checks if not check.ok]
    assert len(notebook.checks) > 15
    assert [event["chapter"] for event in told if event["event"] == "chapter"] == list(range(1, 8))


def test_every_container_is_hardened(stack: Composed) -> None:
    for service in (*SERVICES, *STORES, "provision", "migrations"):
        found = stack.inspected(service)
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert "no-new-privileges" in " ".join(host["SecurityOpt"]), service
        assert not found["EffectiveCaps"], service
        assert found["Config"]["User"] in ("10001:10001", "999:999"), service
        published = [each for ports in host["PortBindings"].values() for each in ports or ()]
        assert [each["HostIp"] for each in published] == ["127.0.0.1"] * (service in SERVICES), service


def test_a_part_has_what_it_needs_and_no_other_one_can_read_it(stack: Composed) -> None:
    holders = {"record-keys": {"ca"}, "pgpass": {"ca"}, "root.key": set(), "mailboxes-url": {"delivery"}}
    files = {service: stack.run_in(service, "find", "/etc/keypost", "-type", "f") for service in (*SERVICES, *STORES)}
    for name, expected in holders.items():
        assert {service for service, found in files.items() if name in found} == expected, name


def test_no_password_and_no_key_is_in_what_podman_shows_or_in_a_log(stack: Composed) -> None:
    shown = "".join(
        json.dumps(stack.inspected(service)) + stack.log(service)
        for service in (*SERVICES, *STORES, "provision", "migrations")
    )
    words = {
        word
        for service in STORES
        for word in re.findall(r"^[\w-]{40,}$", stack.run_in(service, "sh", "-c", "cat /etc/keypost/*"), re.MULTILINE)
    }
    assert len(words) == 5, "two roles, three Valkeys"
    words |= set(
        re.findall(
            r"^[A-Za-z0-9+/=]{40,}$",
            stack.run_in("ca", "sh", "-c", "cat /etc/keypost/*/*.key /etc/keypost/tls/*/*.key"),
            re.MULTILINE,
        )
    )
    assert len(words) >= 8
    assert [word for word in words if word in shown] == []


def test_stores_are_out_of_reach(stack: Composed) -> None:
    (network,) = json.loads(stack.engine.podman("network", "inspect", f"{stack.project}_stores").stdout)
    assert network["internal"]
    for service in STORES:
        assert list(stack.inspected(service)["NetworkSettings"]["Networks"]) == [f"{stack.project}_stores"]


def test_the_second_time_nothing_is_made_anew(stack: Composed) -> None:
    before = {service: stack.run_in(service, "sh", "-c", READ_ALL) for service in (*SERVICES, *STORES)}
    stack.engine.podman("start", stack.container("provision"))
    stack.wait_for("provision")
    assert stack.log("provision").splitlines()[-1] == "all there already"
    assert {service: stack.run_in(service, "sh", "-c", READ_ALL) for service in (*SERVICES, *STORES)} == before


async def test_all_services_stop_in_good_order_and_start_again_while_messages_flow_and_nothing_is_lost(
    stack: Composed, tmp_path: Path
) -> None:
    """Each is process 1 of its container: SIGTERM drains it, and it ends with 0 before it would be killed."""
    bundle, secret = stack.bundle(tmp_path / "bundle.json"), Passphrase("secret")
    names = [f"{name}-{secrets.token_hex(4)}" for name in ("carol", "dave")]
    codes = [await asyncio.to_thread(stack.code_for, name) for name in names]
    async with (
        await Client.open(tmp_path / "carol", unlock=secret, bundle=bundle) as carol,
        await Client.open(tmp_path / "dave", unlock=secret, bundle=bundle) as dave,
    ):
        await carol.enroll(names[0], code=codes[0])
        await dave.enroll(names[1], code=codes[1])
        unread = asyncio.Semaphore(UNREAD)
        # One that fails ends the others.
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
            restarting = tasks.create_task(asyncio.to_thread(stop_and_start, stack))
            reading = tasks.create_task(read_until_last(dave, unread))
            sending = tasks.create_task(send_while(restarting, carol, names[1], unread))
        again = [(message.text, message.redelivered) async for message in dave.receive(follow=False)]
    assert reading.result() == sending.result()
    assert again == [(LAST, True)], "handed out, and not said to be handled"


async def send_while(happening: asyncio.Task[None], sender: Client, to: str, unread: asyncio.Semaphore) -> list[str]:
    """Send until something is over, something more, and the last one; return the texts.

    No more are under way than ``unread`` lets: a mailbox refuses what one sender puts into it beyond a share.
    """
    sent, arrived = list[str](), False
    while not (sent and sent[-1] == LAST):
        await unread.acquire()
        sent.append(LAST if happening.done() and arrived and len(sent) >= MESSAGES else f"message {len(sent)}")
        try:
            await sender.send(to, sent[-1])
            arrived = True
        except UnreachableError:
            arrived = False  # it stays in the outbox, and goes out before the next
    return sent


async def read_until_last(reader: Client, unread: asyncio.Semaphore) -> list[str]:
    got = list[str]()
    async with aclosing(reader.receive()) as receiving:
        async for message in receiving:
            got.append(message.text)
            unread.release()
            if message.text == LAST:
                break
    return got


def stop_and_start(stack: Composed) -> None:
    down = [name for name in reversed(stack.order) if name in (*SERVICES, *STORES)]
    for service in down:
        assert stack.stop(service) < stack.grace(service), service
        assert stack.state(service)["ExitCode"] == 0, stack.log(service)
    for service in SERVICES:
        last = json.loads(stack.log(service).splitlines()[-1])
        assert last["event"] == "stopped"
    for service in reversed(down):
        stack.start(service)
