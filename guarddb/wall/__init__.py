"""The wall: a profile compiled into roles, grants, row security and views of PostgreSQL itself.

Pure: a profile and a snapshot of the database in, SQL text and a description out. What it says is carried out, and read, by
the command line and by the driver.
"""

from guarddb.wall.check import Difference, State, differences, signature, state
from guarddb.wall.database import DATABASE_QUERY, Database
from guarddb.wall.rights import Rights, rights_query
from guarddb.wall.script import (
    apply_script,
    drop_script,
    fingerprint_query,
    rewrite_script,
    statistics_script,
)
from guarddb.wall.wall import Names, Wall, compile_wall

__all__ = [
    "DATABASE_QUERY",
    "Database",
    "Difference",
    "Names",
    "Rights",
    "State",
    "Wall",
    "apply_script",
    "compile_wall",
    "differences",
    "drop_script",
    "fingerprint_query",
    "rewrite_script",
    "rights_query",
    "signature",
    "state",
    "statistics_script",
]
