"""Is the wall up that a profile speaks of? Asked when a connection is made, and when the policy or the catalog changes.

The wall is compiled once more from the profile and the database, and compared with what is installed: its checksum, the
fingerprint of what is there, and what the session's role may do besides. See `guarddb.wall`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from psycopg import errors as e

from guarddb.decision.wall_in_force import Wall
from guarddb.driver.asking import ask_gen, begin_aside_gen, end_aside_gen
from guarddb.driver.settings import hold_gen
from guarddb.errors import PolicyUnavailable, refusal_message
from guarddb.policy.errors import PolicyError
from guarddb.sql.names import literal, quote
from guarddb.wall import (
    DATABASE_QUERY,
    Database,
    Names,
    Rights,
    compile_wall,
    differences,
    fingerprint_query,
    rights_query,
    signature,
)

if TYPE_CHECKING:
    from psycopg import BaseConnection
    from psycopg.abc import PQGen

    from guarddb.driver.session import Session
    from guarddb.policy.profile import PolicyProfile

logger = logging.getLogger("guarddb")

#: Until the transaction or savepoint is rolled back; the answers are read as UTF-8.
_SETTINGS = (
    b"SELECT pg_catalog.set_config('search_path', 'pg_catalog', true), pg_catalog.set_config('jit', 'off', true),"
    b" pg_catalog.set_config('client_encoding', 'UTF8', true)"
)
#: What changes when roles do: memberships, who passes by row security, rights on parameters and on objects to come; and the
#: comments on schemas, in which a wall is signed. None of it is in the catalog's fingerprint, and every name is qualified, for it
#: runs under the session's own search path as well.
_ROLES = b"""SELECT pg_catalog.md5(pg_catalog.concat(
  (SELECT pg_catalog.string_agg(pg_catalog.concat(roleid, ' ', member), ',' ORDER BY roleid, member)
    FROM pg_catalog.pg_auth_members),
  (SELECT pg_catalog.string_agg(pg_catalog.concat(oid, ' ', rolsuper, ' ', rolinherit, ' ', rolcreaterole, ' ', rolbypassrls), ','
    ORDER BY oid) FROM pg_catalog.pg_roles),
  (SELECT pg_catalog.string_agg(pg_catalog.concat(parname, ' ', paracl), ',' ORDER BY parname COLLATE pg_catalog."C")
    FROM pg_catalog.pg_parameter_acl),
  (SELECT pg_catalog.string_agg(pg_catalog.concat(oid, ' ', defaclacl), ',' ORDER BY oid) FROM pg_catalog.pg_default_acl),
  (SELECT pg_catalog.string_agg(pg_catalog.concat(d.objoid, ' ', d.description), ',' ORDER BY d.objoid)
    FROM pg_catalog.pg_description AS d
    WHERE d.objoid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
      AND d.classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass::pg_catalog.oid)))"""
#: Nobody has statistics on what the WITH queries of a large catalog return.
_NO_NESTED_LOOPS = b"SELECT pg_catalog.set_config('enable_nestloop', 'off', true)"
_HINT = "guarddb wall --check shows what is not as it should be, guarddb wall --apply mends it"
#: How many differences a refusal names.
_NAMED = 3
_SAVEPOINT = b"guarddb_wall"


class _Fault(Exception):
    """The wall does not hold. `args`: why."""


def wall_gen(session: Session, conn: BaseConnection[Any]) -> PQGen[None]:
    """Put the wall in force, or find that it is not up.

    Raises:
        PolicyUnavailable: it is not, and the profile does not say to go on without it.
    """
    profile = session.profile
    if profile is None or profile.guarddb.wall is None or session.observe:
        session.wall_due = False
        _take(session, None)
        return
    try:
        wall: Wall | None = yield from _read_gen(session, conn, profile)
    except (_Fault, PolicyError, ValueError, e.Error) as ex:
        if isinstance(ex, e.OperationalError):
            raise
        reason = " ".join(str(ex).split())
        if profile.guarddb.without_wall == "refuse":
            _take(session, None)
            session.wall_due = True
            message = f'the wall "{profile.guarddb.wall}" is not up: {reason}'
            raise PolicyUnavailable(refusal_message(profile.name, message), hint=_HINT) from None
        logger.warning(
            'policy "%s": the wall "%s" is NOT UP, guarddb alone masks and filters: %s',
            profile.name,
            profile.guarddb.wall,
            reason,
        )
        wall = None
    session.wall_due = False
    _take(session, wall)


def look_at_roles_gen(session: Session, conn: BaseConnection[Any], *, catalog_is_same: bool) -> PQGen[None]:
    """The wall is due again when roles are others than they were, or what the wall says of settings for this login.

    Args:
        catalog_is_same: the functions by which it says it are there; else the wall is due anyway.
    """
    wall = session.wall
    if wall is None:
        return
    if session.wall_roles != (yield from _text_gen(conn, _ROLES.decode())):
        session.wall_due = True
        return
    for name, value in wall.late.items() if catalog_is_same else ():
        if value != (yield from _text_gen(conn, _late(wall.schema, name))):
            session.wall_due = True


def _late(schema: str, name: str) -> str:
    """Asks what a wall has for a setting of this login."""
    return f"SELECT coalesce({quote(schema)}.setting({literal(name)}), '')"


def _take(session: Session, wall: Wall | None) -> None:
    before = session.wall
    if (wall and wall.checksum) != (before and before.checksum):
        session.wall = wall
        session.renew()


def _read_gen(session: Session, conn: BaseConnection[Any], profile: PolicyProfile) -> PQGen[Wall]:
    names = Names.of(profile)
    yield from _step_aside_gen(session, conn, names)
    idle = yield from begin_aside_gen(conn, _SAVEPOINT)
    try:
        yield from ask_gen(conn, _SETTINGS)
        # (Before what it is about: a change in between is then found by the next look.)
        session.wall_roles = yield from _text_gen(conn, _ROLES.decode())
        role = yield from _text_gen(conn, "SELECT current_user")
        rights = Rights.from_document(
            (yield from _text_gen(conn, rights_query(role, names.schema, names.policy)))
        )
        signed = signature(rights)
        if "checksum" not in signed:
            raise _Fault("it is not installed")
        if signed.get("agent") != role:
            raise _Fault(
                f'it is for the role "{signed.get("agent")}", and this session has the role "{role}"'
            )
        fingerprint = yield from _text_gen(conn, fingerprint_query(names))
        yield from ask_gen(conn, _NO_NESTED_LOOPS)
        database = Database.from_document((yield from _text_gen(conn, DATABASE_QUERY)))
        given = _given(session)
        constants = {name: given[name] for name in signed.get("settings", ()) if name in given}
        late: dict[str, str] = {}
        for name in signed.get("settings_of_logins", ()):
            late[name] = yield from _text_gen(conn, _late(names.schema, name))
    finally:
        yield from end_aside_gen(conn, _SAVEPOINT, idle=idle)
    found = compile_wall(profile, database, role, constants)
    wrong = [each for each in differences(found, rights, fingerprint) if each.level != "open"]
    if wrong:
        shown = "; ".join(f"{each.level}: {each.kind} {each.object}: {each.what}" for each in wrong[:_NAMED])
        raise _Fault(shown if len(wrong) <= _NAMED else f"{shown}; and {len(wrong) - _NAMED} more")
    for name, value in late.items():
        if given.get(name) != value:
            raise _Fault(f'it holds another value of "{name}" for this login than the connection was given')
    absent = set(signed.get("absent", ()))
    views = {relation: view for relation, view in found.view_names.items() if view not in absent}
    only = {relation: view for relation, view in found.only_names.items() if view not in absent}
    return Wall(names.schema, views, found.checksum, only, late, found.asked_first, found.asked_by_one)


def _given(session: Session) -> dict[str, str]:
    policy = session.in_force
    assert policy is not None
    return dict(policy.compiled.policy.settings)


def _step_aside_gen(session: Session, conn: BaseConnection[Any], names: Names) -> PQGen[None]:
    """Names mean the tables to the engine, so the wall's schema is taken out of the session's search path."""
    query = (
        "SELECT pg_catalog.string_agg(pg_catalog.quote_ident(s), ', ' ORDER BY n)"
        " FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS p (s, n)"
        f" WHERE s OPERATOR(pg_catalog.<>) {literal(names.schema)}"
        f" AND {literal(names.schema)} OPERATOR(pg_catalog.=) ANY (pg_catalog.current_schemas(false)::pg_catalog.text[])"
        " HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 0"
    )
    rows = yield from ask_gen(conn, query.encode(conn.pgconn._encoding))
    if rows and rows[0][0] is not None:
        session.held["search_path"] = rows[0][0].decode(conn.pgconn._encoding)
        yield from hold_gen({"search_path": session.held["search_path"]}, conn)
        session.freshness.settings_changed()


def _text_gen(conn: BaseConnection[Any], query: str) -> PQGen[str]:
    ((value, *_),) = yield from ask_gen(conn, query.encode())
    return (value or b"").decode()
