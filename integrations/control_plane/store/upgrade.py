"""Bringing a database to the present set of tables, whatever it holds now."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import text

from .database import Database, DatabaseError
from .tables import Base

_UPGRADE = 0x67_75_61_72_64_64_63


def alembic_config() -> Config:
    """Alembic's configuration of the steps in `migrations/`."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["metadata"] = Base.metadata
    return config


def upgrade(database: Database) -> None:
    """Run the steps that are missing. Several servers that start at once take turns."""
    config = alembic_config()
    with database.engine.execution_options(guarddb_writes=True).begin() as connection:
        if database.shared:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _UPGRADE})
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError:  # it names a step that is not here
            raise DatabaseError(
                "the database was made by a newer version of guarddb, or is another program's"
            ) from None
