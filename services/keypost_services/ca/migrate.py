"""Brings a database to the tables that this version expects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from keypost_services.ca.engine import WRITES

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine


class SchemaOutdatedError(Exception):
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


async def migrate(engine: AsyncEngine) -> str:
    """Take all steps that the database has not taken; return the name of the last."""
    async with engine.execution_options(**{WRITES: True}).begin() as connection:
        await connection.run_sync(_upgrade)
    return expected_revision()


async def check_schema(engine: AsyncEngine) -> None:
    """Compare the database with what this version expects.

    Raises:
        SchemaOutdatedError: They differ.
    """
    async with engine.connect() as connection:
        found = await connection.run_sync(_current_revision)
    if found != expected_revision():
        raise SchemaOutdatedError(
            f"the database is at step {found or 'none'}, this version needs {expected_revision()}: "
            "run `keypost-ca migrate`"
        )


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _current_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
