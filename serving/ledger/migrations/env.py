"""Runs migrations over the connection that `serving.ledger.database` provides."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, transactional_ddl=True)
context.run_migrations()
