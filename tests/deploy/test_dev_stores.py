"""The stores of the overlay ``dev`` are such as the services take: real servers, started as the manifests say."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from redis import Redis
from redis.exceptions import RedisError

from keypost_services.ca.database import open_store
from keypost_services.ca.database_commands import migrate_database
from keypost_services.delivery.connecting import servers_at
from keypost_services.delivery.durability import MailboxServerRefusedError, check_mailbox_servers
from keypost_services.delivery.functions import FunctionLibrary
from keypost_services.delivery.mailboxes import Durability
from keypost_services.embedded.processes import Process
from keypost_services.embedded.valkey import find_server
from keypost_services.runtime.errors import StartError
from support.manifests.rendering import rendered
from support.manifests.resources import Manifests
from support.manifests.settings import environment_of
from support.postgres import running_postgres
from support.valkey import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.manifests.resources import Pod
    from support.postgres import PostgresServer

SECONDS = 15.0
POLICIES = {"keypost-cache": "allkeys-lru", "keypost-mailboxes": "noeviction", "keypost-limits": "volatile-ttl"}
"""What each Valkey gives up when its memory is full."""


def dev() -> Manifests:
    return Manifests(rendered("dev"))


def pod_of(manifests: Manifests, name: str) -> Pod:
    (found,) = [pod for pod in manifests.pods if pod.name == name]
    return found


def url_of(manifests: Manifests, secret: str, host: str, at: str) -> str:
    """Return the URL in a Secret, of the store ``host``, with the address of the test's server."""
    (data,) = [
        each["data"] for each in manifests.of_kind("Secret") if each["metadata"]["name"].rpartition("-")[0] == secret
    ]
    url = base64.b64decode(data["url"]).decode()
    assert f"@{host}:" in url
    before, _, after = url.partition(f"@{host}:")
    return f"{before}@{at}/{after.partition('/')[2]}"


@pytest.fixture
def valkey(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a Valkey that runs as the manifests have it."""
    name, secret = request.param
    manifests, port = dev(), free_port()
    pod = pod_of(manifests, name)
    container = pod.spec["containers"][0]
    password = environment_of(manifests, pod)["VALKEY_PASSWORD"]
    program, *words = (str(word) for word in [*container["command"], *container["args"]])
    assert program == "valkey-server"
    where = {"/data": str(tmp_path), "$(VALKEY_PASSWORD)": password}
    command = [str(find_server()), *(where.get(word, word) for word in words)]
    process = Process(name, [*command, "--port", str(port), "--bind", "127.0.0.1"], tmp_path / "valkey.log")
    process.start()
    try:
        url = url_of(manifests, secret, name, f"127.0.0.1:{port}")
        process.wait_until(lambda: answers(url), SECONDS)
        yield url
    finally:
        process.ask_to_stop()
        process.wait_stopped(SECONDS)


def answers(url: str) -> bool:
    try:
        with Redis.from_url(url) as client:
            return bool(client.ping())
    except RedisError:
        return False


async def check(url: str) -> None:
    async with servers_at(url, FunctionLibrary(), answer_seconds=SECONDS) as servers:
        await check_mailbox_servers(servers, Durability.FSYNC)


def config(url: str, setting: str) -> Any:
    with Redis.from_url(url, decode_responses=True) as client:
        return client.config_get(setting)[setting]


@pytest.mark.parametrize("valkey", [("keypost-mailboxes", "keypost-delivery-mailboxes")], indirect=True)
async def test_delivery_takes_the_mailboxes(valkey: str) -> None:
    await check(valkey)
    assert config(valkey, "maxmemory-policy") == POLICIES["keypost-mailboxes"]
    assert config(valkey, "save") == ""


@pytest.mark.parametrize(
    "valkey", [("keypost-cache", "keypost-directory-cache"), ("keypost-limits", "keypost-limits")], indirect=True
)
async def test_the_others_give_up_what_is_old_and_would_not_be_taken_for_mailboxes(
    valkey: str, request: pytest.FixtureRequest
) -> None:
    name, _ = request.node.callspec.params["valkey"]
    assert config(valkey, "maxmemory-policy") == POLICIES[name]
    assert int(config(valkey, "maxmemory")) > 0
    assert config(valkey, "appendonly") == "no"
    with pytest.raises(MailboxServerRefusedError):
        await check(valkey)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL as the image makes it of its environment: one administrator, one database."""
    environment = environment_of(dev(), pod_of(dev(), "keypost-postgres"))
    with running_postgres(roles=False) as server:
        user, password = sql.Identifier(environment["POSTGRES_USER"]), sql.Literal(environment["POSTGRES_PASSWORD"])
        server.administer(
            sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(user, password),
            sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(environment["POSTGRES_DB"]), user),
        )
        yield server


def run_as_a_script(text: str, environment: dict[str, str]) -> None:
    subprocess.run(["bash", "-c", text], env=environment, check=True, capture_output=True, timeout=60)


async def test_the_role_is_made_the_migrations_grant_it_what_it_needs_and_the_ca_serves_as_it(
    server: PostgresServer,
) -> None:
    manifests, at = dev(), f"127.0.0.1:{server.port}"
    environment = environment_of(manifests, pod_of(manifests, "keypost-postgres"))
    owners = url_of(manifests, "keypost-migrations-database", "keypost-postgres", at)
    servings = url_of(manifests, "keypost-ca-database", "keypost-postgres", at)
    (roles,) = [each["data"]["roles.sh"] for each in manifests.of_kind("ConfigMap") if "roles.sh" in each["data"]]
    known = {**os.environ, **server.administrators_environment, **environment}
    known["PGPASSWORD"] = environment["POSTGRES_PASSWORD"]
    await asyncio.to_thread(run_as_a_script, roles, known)
    *_, option, role = pod_of(manifests, "keypost-migrations").spec["containers"][0]["command"]
    assert option == "--grant"
    # As the Job and the CA come: the CA may be first, and ends.
    with pytest.raises(StartError, match="keypost-ca migrate"):
        async with open_store(servings):
            pass
    await asyncio.to_thread(migrate_database, owners, role)
    async with open_store(servings) as store:
        assert await store.keep_secret("test", b"of the CA") == b"of the CA"
    with psycopg.connect(servings) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("DELETE FROM audit_entries")
