"""Reading from a database what the wall is compiled from, what is installed of it, and what its role may do."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg.rows import TupleRow

from guarddb import PolicyProfile
from guarddb.wall import (
    DATABASE_QUERY,
    Database,
    Difference,
    Names,
    Rights,
    State,
    Wall,
    compile_wall,
    differences,
    fingerprint_query,
    rights_query,
    signature,
    state,
)


@dataclass(frozen=True, slots=True)
class LiveWall:
    """A wall as it should be and as it is, read in one transaction."""

    wall: Wall
    rights: Rights
    fingerprint: str
    #: definitions as they were installed, by name; None when they may not be read
    installed: dict[str, str] | None

    @property
    def differences(self) -> list[Difference]:
        return differences(self.wall, self.rights, self.fingerprint)

    @property
    def state(self) -> State:
        return state(self.wall, self.rights, self.fingerprint)


def read_wall(
    conn: psycopg.Connection[TupleRow],
    profile: PolicyProfile,
    agent: str | None,
    settings: dict[str, str],
) -> LiveWall | None:
    """The wall of a profile in the database behind a connection; None when there is none and no agent is named.

    Values that the installed wall was given for settings count where `settings` has none.

    Raises:
        psycopg.Error: the server refused.
        guarddb.PolicyError: the profile cannot have a wall.
    """
    names = Names.of(profile)
    with conn.transaction(force_rollback=True):
        conn.execute("SELECT set_config('search_path', 'pg_catalog', true), set_config('jit', 'off', true)")
        rights = _rights(conn, agent or "", names)
        if agent is None:
            agent = str(signature(rights).get("agent", ""))
            if not agent:
                return None
            rights = _rights(conn, agent, names)
        database = Database.from_document(_text(conn, DATABASE_QUERY))
        fingerprint = _text(conn, fingerprint_query(names))
        installed, constants = None, {}
        if signature(rights):
            installed = _table(
                conn, f'SELECT object, definition FROM "{names.private}".installed ORDER BY position'
            )
            constants = _table(conn, f'SELECT name, value FROM "{names.private}".constants') or {}
    wall = compile_wall(profile, database, agent, {**constants, **settings})
    return LiveWall(wall, rights, fingerprint, installed)


def _rights(conn: psycopg.Connection[TupleRow], agent: str, names: Names) -> Rights:
    return Rights.from_document(_text(conn, rights_query(agent, names.schema, names.policy)))


def _text(conn: psycopg.Connection[TupleRow], query: str) -> str:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return str(row[0])


def _table(conn: psycopg.Connection[TupleRow], query: str) -> dict[str, str] | None:
    try:
        with conn.transaction():
            return dict(conn.execute(query.encode()).fetchall())
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
        return None
