"""``keypost-delivery`` as a process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from keypost.clock import system_clock
from keypost_services.runtime.config import variable_of
from support.clock import ManualClock
from support.delivery import Stack, open_stack, text_of, until
from support.valkey import running_valkey

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = (sys.executable, "-m", "keypost_services.delivery", "serve")


def environment(stack: Stack, **changes: object) -> dict[str, str]:
    settings = stack.settings()
    chosen = {"realm", "tls_certificate", "tls_private_key", "bundle", "directory", "mailboxes_url"}
    chosen |= {"internal_tls_certificate", "internal_tls_private_key", "internal_tls_root"}
    values = {name: getattr(settings, name) for name in chosen} | changes
    return {variable_of(type(settings), name): str(value) for name, value in values.items()}


async def run(env: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_it_serves_until_sigterm(tmp_path: Path) -> None:
    async with open_stack(tmp_path, ManualClock(system_clock())) as stack:
        await serve_until_sigterm(stack, tmp_path)


async def serve_until_sigterm(stack: Stack, tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    alice_pair, bob_pair = stack.realm.enroll("alice"), stack.realm.enroll("bob")
    process = await asyncio.create_subprocess_exec(
        *COMMAND, env=environment(stack, ready_file=ready), stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await until(ready.exists)
        port = json.loads(ready.read_text())["public_port"]
        assert (await (await stack.device(alice_pair, port)).send_text("bob")).HasField("stored")
        async with (await stack.device(bob_pair, port)).receive() as stream:
            assert [text_of(delivery, bob_pair) for delivery in await stream.batch()] == ["hello"]
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_an_unfit_mailbox_server_stops_the_start_with_one_line(stack: Stack, tmp_path: Path) -> None:
    with running_valkey(tmp_path / "unfit", maxmemory_policy="allkeys-lru", appendonly="yes") as server:
        code, _, err = await run(environment(stack, mailboxes_url=server.url))
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith("delivery: KEYPOST_DELIVERY_MAILBOXES_URL: the mailbox server has")
    assert line.endswith("maxmemory-policy allkeys-lru, durability fsync needs noeviction")


async def test_a_mailbox_server_that_is_away_stops_the_start_with_one_line(stack: Stack) -> None:
    stack.valkey.stop()
    code, _, err = await run(environment(stack))
    assert code == 1
    assert len(err.splitlines()) == 1
    assert "KEYPOST_DELIVERY_MAILBOXES_URL" in err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mailboxes_url", "http://127.0.0.1"),
        ("durability", "forever"),
        ("bundle", "/nowhere/bundle.json"),
        ("mailbox_bytes", "1"),
        ("mailbox_sender_percent", "0.1"),
    ],
)
async def test_a_wrong_setting_stops_the_start_with_one_line(stack: Stack, name: str, value: str) -> None:
    code, _, err = await run(environment(stack, **{name: value}))
    assert code == 2
    assert len(err.splitlines()) == 1
    assert f"KEYPOST_DELIVERY_{name.upper()}" in err


async def test_help_documents_every_setting(stack: Stack) -> None:
    code, out, _ = await run({}, "--help")
    assert code == 0
    settings = type(stack.settings())
    assert [name for name in settings.model_fields if variable_of(settings, name) not in out] == []
    assert "default fsync" in out


def test_the_url_s_password_is_not_shown(stack: Stack) -> None:
    settings = stack.settings(mailboxes_url="redis://name:hunter2@127.0.0.1:1/0")
    assert "hunter2" not in repr(settings)
