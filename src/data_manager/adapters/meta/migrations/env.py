"""How Alembic runs our migrations: on the connection it is handed, inside the transaction that is already open."""

from alembic import context

from data_manager.adapters.meta.predecessor import SCHEMA

given = context.config.attributes
context.configure(connection=given["connection"], target_metadata=SCHEMA, on_version_apply=given["on_version_apply"])
with context.begin_transaction():
    context.run_migrations()
