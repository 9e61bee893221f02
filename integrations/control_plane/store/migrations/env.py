"""How Alembic runs the steps: on the connection that `upgrade` holds."""

from __future__ import annotations

from alembic import context

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"], target_metadata=attributes["metadata"], render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
