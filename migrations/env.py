"""Runs pgqueue's migrations in one schema: its own version table, one migration at a time, no long waits for locks."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

schema: str = context.config.attributes["schema"]


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=None,
        version_table="schema_version",
        version_table_schema=schema,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    context.configure(
        dialect_name="postgresql",
        # The default style doubles every percent sign, which is for a driver and not for a file.
        dialect_opts={"paramstyle": "named"},
        literal_binds=True,
        version_table="schema_version",
        version_table_schema=schema,
    )
    with context.begin_transaction():
        context.execute(text(f'create schema if not exists "{schema}"'))
        context.run_migrations()
else:
    migrate(context.config.attributes["connection"])
