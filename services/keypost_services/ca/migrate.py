"""Brings a database to the tables that this version expects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from keypost_services.ca.engine import WRITES
from keypost_services.ca.engine_postgres import lock_migrations
from keypost_services.ca.grants import GRANTS, NOT_OWNED, grants_to

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_MAY_NOT = "42501"
"""PostgreSQL: insufficient privilege."""


class SchemaDiffersError(Exception):
    """The database is not at the tables that this version expects."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "keypost_services.ca:migrations")
    config.set_main_option("path_separator", "os")
    return config


def expected_revision() -> str:
    """Return the name of the newest step that this version knows."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise AssertionError("the package has lost its migrations")
    return head


async def migrate(engine: AsyncEngine, *, grant_to: str | None = None) -> str:
    """Take all steps that the database has not taken, once, however many processes do so at the same time.

    Args:
        engine: The database.
        grant_to: The role of PostgreSQL that is to serve from it: it is granted what that needs.

    Returns:
        The name of the last step.

    Raises:
        SchemaDiffersError: A newer version has taken steps already, or the role that connects may not take them, or
            may not grant.
    """
    found = await _found(engine)
    _refuse_newer(found)
    if found == expected_revision() and grant_to is None:
        # A role that may only serve has no business with a lock for those who change tables.
        return found
    async with engine.execution_options(**{WRITES: True}).begin() as connection:
        try:
            await _migrate(connection, grant_to)
        except ProgrammingError as error:
            if getattr(error.orig, "sqlstate", None) != _MAY_NOT:
                raise
            raise SchemaDiffersError(
                f"{_differs(found)}, and this role may not take the steps: "
                "run `keypost-ca migrate` as the role that owns the tables"
            ) from error
    return expected_revision()


async def check_schema(engine: AsyncEngine) -> None:
    """Compare the database with what this version expects.

    Raises:
        SchemaDiffersError: They differ.
    """
    found = await _found(engine)
    _refuse_newer(found)
    if found != expected_revision():
        raise SchemaDiffersError(f"{_differs(found)}: run `keypost-ca migrate`")


async def _migrate(connection: AsyncConnection, grant_to: str | None) -> None:
    shared = connection.dialect.name == "postgresql"
    if shared:
        await lock_migrations(connection)
        # Another process may have taken them, and more, while this one waited.
        _refuse_newer(await connection.run_sync(_current_revision))
    await connection.run_sync(_upgrade)
    if grant_to is not None:
        await _grant(connection, grant_to)


async def _grant(connection: AsyncConnection, role: str) -> None:
    # PostgreSQL only warns whoever grants what is not his to grant.
    owners = await connection.execute(text(NOT_OWNED), {"tables": list(GRANTS)})
    if owner := owners.scalars().first():
        raise SchemaDiffersError(
            f"the tables belong to {owner}, and this role may not grant: run `keypost-ca migrate --grant` as that role"
        )
    for statement in grants_to(role, connection.dialect):
        await connection.exec_driver_sql(statement)


async def _found(engine: AsyncEngine) -> str | None:
    async with engine.connect() as connection:
        return await connection.run_sync(_current_revision)


def _refuse_newer(found: str | None) -> None:
    known = [step.revision for step in ScriptDirectory.from_config(_config()).walk_revisions()]
    if found is not None and found not in known:
        raise SchemaDiffersError(
            f"the database is at step {found}, which a newer version has taken: this one knows {known[0]} at most, "
            "and there is no way back"
        )


def _differs(found: str | None) -> str:
    return f"the database is at step {found or 'none'}, this version needs {expected_revision()}"


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _current_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
