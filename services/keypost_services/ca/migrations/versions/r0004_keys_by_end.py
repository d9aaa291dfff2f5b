"""Good keys by when they end: so many that end soon are counted without reading the rest."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_GOOD = sa.text("state = 1")


def upgrade() -> None:
    """Take the step."""
    op.create_index(
        "ix_device_keys_expire_time_state",
        "device_keys",
        # The state too, although it is always the same: else every row is looked at for it.
        ["expire_time", "state"],
        postgresql_where=_GOOD,
        sqlite_where=_GOOD,
        # In a large database the operator makes it beforehand, CONCURRENTLY: that is no part of a transaction.
        if_not_exists=True,
    )
