"""How Alembic runs our migrations: on the connection it is handed, inside the transaction that is already open."""

from alembic import context

from data_manager.adapters.meta.tables import metadata

given = context.config.attributes
context.configure(connection=given["connection"], target_metadata=metadata, on_version_apply=given["on_version_apply"])
with context.begin_transaction():
    context.run_migrations()
