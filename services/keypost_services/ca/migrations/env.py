"""Alembic's entry: runs the steps on the connection that ``keypost_services.ca.migrate`` hands over."""

from alembic import context

from keypost_services.ca.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
)

with context.begin_transaction():
    context.run_migrations()
