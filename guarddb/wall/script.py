"""The SQL that installs a wall, and the SQL that takes it away. Both may be run again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import resources

from guarddb.sql.names import literal, quote, quote_qualified
from guarddb.wall.rights import Right, Rights
from guarddb.wall.wall import MARK, OPEN_POLICY, PINS, Names, Wall, allowed_function, shown_schemas

_FINGERPRINT = (resources.files("guarddb.wall") / "fingerprint.sql").read_text()


def fingerprint_query(names: Names) -> str:
    """One row, one text, which changes when anything of the installed wall does. Run it with search_path = pg_catalog."""
    values = {
        "schema": literal(names.schema),
        "policy": literal(names.policy),
        "reader": literal(names.reader),
        "keeper": literal(names.keeper),
    }
    query = "\n".join(line for line in _FINGERPRINT.splitlines() if not line.startswith("--"))
    return query % values


def apply_script(wall: Wall, rights: Rights) -> str:
    """The whole installation as one transaction.

    `rights` is what the agent's role may do now: what is not part of the wall is taken from it, and what everybody may do is
    given to the other roles by name instead, so that nobody but the agent notices.
    """
    names = wall.names
    roles = [names.reader, *([names.keeper] if wall.needs_keeper else [])]
    parts = [
        f"-- The wall of the policy {_comment(wall.profile.name)} for the role {_comment(wall.agent)}.",
        "BEGIN;",
        *_SESSION,
        _path(wall),
        *(_role(role) for role in roles),
        "" if rights.exists else f"CREATE ROLE {quote(wall.agent)} LOGIN;",
        *(_join(role, wall) for role in roles),
        *_schemas(wall, roles),
        _clean(names),
        f"GRANT USAGE ON SCHEMA {quote(names.schema)} TO {quote(wall.agent)};",
    ]
    parts += _given(wall)
    for name, definition in wall.objects.items():
        parts.append(f"-- {_comment(name)}\n{definition.replace(PINS, PINS.format(pins=_pins(wall)), 1)}")
    parts += _agent(wall, rights)
    parts += _taken(wall, rights)
    parts.append(_remember(wall))
    for role in roles:
        for schema in (names.schema, names.private):
            parts.append(f"REVOKE CREATE ON SCHEMA {quote(schema)} FROM {quote(role)};")
    parts += [_leave(role, wall) for role in roles]
    # Last of all, when everything is as it stays.
    parts += [_sign(wall), "COMMIT;"]
    return "\n\n".join(part for part in parts if part) + "\n"


def drop_script(names: Names) -> str:
    """What takes the wall away: its schemas, roles, policies, and row security that was on for its sake alone. The agent's
    role stays, and may do nothing. What was taken from everybody comes back with the last wall that stands."""
    restore = f"""\
DO $wall$
DECLARE
  line record;
  other text;
  handed text[];
BEGIN
  IF to_regclass({literal(f"{quote(names.private)}.restore")}) IS NOT NULL THEN
    -- What everybody had, and who has it by name instead, is the other wall's to give back.
    SELECT format('%I.restore', n.nspname || '_private') INTO other FROM pg_namespace AS n
      WHERE n.nspname <> {literal(names.schema)} AND n.nspowner = (SELECT oid FROM pg_roles WHERE rolname = current_user)
        AND starts_with(obj_description(n.oid, 'pg_namespace'), {literal(MARK + '"')})
        AND to_regclass(format('%I.restore', n.nspname || '_private')) IS NOT NULL
      ORDER BY n.nspname LIMIT 1;
    IF other IS NOT NULL THEN
      SELECT array_agg(DISTINCT r.statement) INTO handed FROM {quote(names.private)}.restore AS r JOIN (
          SELECT substr(g.statement, 7, length(g.statement) - 16) AS what FROM {quote(names.private)}.restore AS g
          WHERE g.statement ~ '^GRANT .* ON (TABLE|SEQUENCE|SCHEMA|DATABASE|ROUTINE) .* TO PUBLIC$') AS w
        ON r.statement = 'GRANT ' || w.what || ' TO PUBLIC' OR starts_with(r.statement, 'REVOKE ' || w.what || ' FROM ');
      EXECUTE format('INSERT INTO %s SELECT unnest($1) ON CONFLICT DO NOTHING', other) USING handed;
      DELETE FROM {quote(names.private)}.restore WHERE statement = ANY (handed);
    END IF;
    FOR line IN SELECT statement FROM {quote(names.private)}.restore ORDER BY statement LOOP
      BEGIN
        EXECUTE line.statement;
      EXCEPTION WHEN undefined_object OR undefined_function OR undefined_table THEN NULL;
      END;
    END LOOP;
  END IF;
END $wall$;"""
    roles = ", ".join(literal(role) for role in (names.reader, names.keeper))
    join = f"""\
DO $wall$
DECLARE role text;
BEGIN
  FOR role IN SELECT rolname FROM pg_roles WHERE rolname IN ({roles})
    AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) LOOP
    EXECUTE format('GRANT %I TO CURRENT_USER', role);
  END LOOP;
END $wall$;"""
    drop_roles = f"""\
DO $wall$
DECLARE role text;
BEGIN
  FOR role IN SELECT rolname FROM pg_roles WHERE rolname IN ({roles}) LOOP
    EXECUTE format('DROP OWNED BY %I', role);
    BEGIN
      EXECUTE format('DROP ROLE %I', role);
    EXCEPTION WHEN dependent_objects_still_exist THEN
      RAISE WARNING 'the role % has rights in another database and stays', role;
    END;
  END LOOP;
END $wall$;"""
    return (
        "\n\n".join(
            [
                "BEGIN;",
                *_SESSION,
                "SET LOCAL search_path TO pg_catalog;",
                join,
                restore,
                _clean(names),
                f"DROP SCHEMA IF EXISTS {quote(names.private)}, {quote(names.schema)} CASCADE;",
                drop_roles,
                "COMMIT;",
            ]
        )
        + "\n"
    )


#: Views of the system that show what other sessions lock and write, a row counter at a time.
_STATISTICS = (
    "pg_locks", "pg_stat_io", "pg_stat_all_tables", "pg_stat_user_tables", "pg_stat_sys_tables", "pg_stat_all_indexes",
    "pg_stat_user_indexes", "pg_statio_all_tables", "pg_statio_user_tables", "pg_statio_all_indexes",
    "pg_statio_user_indexes", "pg_stat_xact_all_tables", "pg_stat_xact_user_tables", "pg_stat_database", "pg_stat_wal",
)  # fmt: skip


def statistics_script(names: Names) -> str:
    """What closes the system's counters to everybody but those who monitor: as a superuser, when the operator says so."""
    views = ", ".join(literal(view) for view in _STATISTICS)
    table = f"{quote(names.private)}.restore"
    return f"""\
DO $wall$
DECLARE item record;
BEGIN
  FOR item IN SELECT c.oid::regclass AS relation FROM pg_catalog.pg_class AS c
    WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relname IN ({views})
      AND EXISTS (SELECT FROM aclexplode(c.relacl) AS x WHERE x.grantee = 0 AND x.privilege_type = 'SELECT') LOOP
    IF NOT EXISTS (SELECT FROM pg_class AS c, aclexplode(c.relacl) AS x
        WHERE c.oid = item.relation AND x.grantee = 'pg_monitor'::regrole AND x.privilege_type = 'SELECT') THEN
      EXECUTE format('GRANT SELECT ON %s TO pg_monitor', item.relation);
      INSERT INTO {table} VALUES (format('REVOKE SELECT ON %s FROM pg_monitor', item.relation)) ON CONFLICT DO NOTHING;
    END IF;
    EXECUTE format('REVOKE SELECT ON %s FROM PUBLIC', item.relation);
    INSERT INTO {table} VALUES (format('GRANT SELECT ON %s TO PUBLIC', item.relation)) ON CONFLICT DO NOTHING;
  END LOOP;
END $wall$;
"""


def rewrite_script(wall: Wall) -> list[str]:
    """Statements, each outside of a transaction, that take old defaults of masked columns out of the catalogs."""
    return [
        f"VACUUM (FULL) {quote_qualified(r.schema, r.name)};" for r in wall.carried.rewrite if r.kind == "r"
    ]


_SESSION = (
    "SET LOCAL client_min_messages TO warning;",
    "SET LOCAL lock_timeout TO '10s';",
    "SET LOCAL DateStyle TO 'ISO, MDY';",
    "SET LOCAL standard_conforming_strings TO on;",
)


def _comment(text: str) -> str:
    return '"' + " ".join(text.split()) + '"'


def _path(wall: Wall) -> str:
    schemas = dict.fromkeys(["pg_catalog", "public", *wall.database.extension_schemas])
    return f"SET LOCAL search_path TO {', '.join(quote(schema) for schema in schemas)};"


def _pins(wall: Wall) -> str:
    # Not to be moved by the session: what a text looks like, and what a date is.
    return " ".join(f"SET {quote(name)} TO {literal(value)}" for name, value in wall.database.pins.items())


def _role(role: str) -> str:
    return f"""\
DO $wall$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(role)}) THEN
    CREATE ROLE {quote(role)} NOLOGIN NOINHERIT;
  END IF;
END $wall$;"""


def _join(role: str, wall: Wall) -> str:
    """For the length of the transaction: whoever gives something to a role has to be able to act as it."""
    if wall.database.superuser:
        return ""
    return f"GRANT {quote(role)} TO CURRENT_USER;"


def _leave(role: str, wall: Wall) -> str:
    return "" if wall.database.superuser else f"REVOKE {quote(role)} FROM CURRENT_USER;"


def _schemas(wall: Wall, roles: Iterable[str]) -> list[str]:
    names = wall.names
    schema, private = quote(names.schema), quote(names.private)
    mark = literal('{"guarddb": "wall, private part"}')
    parts = [
        f"""\
DO $wall$
BEGIN
  IF EXISTS (SELECT FROM pg_namespace AS n JOIN pg_class AS c ON c.relnamespace = n.oid
      WHERE n.nspname = {literal(names.schema)}
      AND coalesce(obj_description(n.oid, 'pg_namespace'), '') NOT LIKE '{{"guarddb": "wall%') THEN
    RAISE EXCEPTION 'the schema % is not a wall''s, and is not empty', {literal(names.schema)};
  END IF;
  IF EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_roles AS r ON r.oid = c.relowner
      WHERE r.rolname IN ({literal(names.reader)}, {literal(names.keeper)})
      AND n.nspname NOT IN ({literal(names.schema)}, {literal(names.private)})) THEN
    RAISE EXCEPTION 'the role % belongs to another wall: give the policy another name', {literal(names.reader)};
  END IF;
END $wall$;""",
        f"CREATE SCHEMA IF NOT EXISTS {schema};\nCREATE SCHEMA IF NOT EXISTS {private};",
        f"COMMENT ON SCHEMA {private} IS {mark};",
        f"COMMENT ON SCHEMA {schema} IS {mark};",
        f"REVOKE ALL ON SCHEMA {schema}, {private} FROM PUBLIC;",
        f"CREATE TABLE IF NOT EXISTS {private}.installed (position int, object text PRIMARY KEY, definition text NOT NULL);",
        f"CREATE TABLE IF NOT EXISTS {private}.restore (statement text PRIMARY KEY);",
        f"CREATE TABLE IF NOT EXISTS {private}.constants (name text PRIMARY KEY, value text NOT NULL);",
        f"CREATE TABLE IF NOT EXISTS {private}.settings (login name, name text, value text, PRIMARY KEY (login, name));",
    ]
    return parts + [f"GRANT CREATE, USAGE ON SCHEMA {schema}, {private} TO {quote(role)};" for role in roles]


def _clean(names: Names) -> str:
    """Take away what an earlier installation made, so that what is made now is all there is."""
    roles = ", ".join(literal(role) for role in (names.reader, names.keeper))
    schemas = f"{literal(names.schema)}, {literal(names.private)}"
    return f"""\
DO $wall$
DECLARE item record;
BEGIN
  FOR item IN SELECT polrelid::regclass AS relation FROM pg_policy WHERE polname = {literal(names.policy)} LOOP
    EXECUTE format('DROP POLICY %I ON %s', {literal(names.policy)}, item.relation);
    IF EXISTS (SELECT FROM pg_policy WHERE polrelid = item.relation AND polname = '{OPEN_POLICY}')
      AND NOT EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = item.relation AND p.polname <> '{OPEN_POLICY}'
        AND EXISTS (SELECT FROM pg_namespace AS n WHERE p.polname = left('guarddb_' || n.nspname, 63)
          AND obj_description(n.oid, 'pg_namespace') LIKE '{{"guarddb": "wall%')) THEN
      EXECUTE format('DROP POLICY {OPEN_POLICY} ON %s', item.relation);
      EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', item.relation);
    END IF;
  END LOOP;
  FOR item IN SELECT string_agg(c.oid::regclass::text, ', ') AS list FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname IN ({schemas}) AND c.relkind = 'v' HAVING count(*) > 0 LOOP
    EXECUTE 'DROP VIEW ' || item.list;
  END LOOP;
  FOR item IN SELECT p.oid::regprocedure::text AS name FROM pg_proc AS p
    JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE n.nspname IN ({schemas}) LOOP
    EXECUTE 'DROP FUNCTION ' || item.name;
  END LOOP;
  -- Column by column: DROP OWNED would take what the roles may do in the wall's own schemas as well.
  FOR item IN
    SELECT c.oid::regclass AS relation, x.grantee::regrole AS role,
      string_agg(DISTINCT x.privilege_type, ', ') AS privileges
    FROM pg_class AS c
    CROSS JOIN LATERAL (
      SELECT grantee, privilege_type FROM aclexplode(c.relacl)
      UNION ALL
      SELECT e.grantee, e.privilege_type FROM pg_attribute AS a CROSS JOIN LATERAL aclexplode(a.attacl) AS e
      WHERE a.attrelid = c.oid) AS x
    WHERE x.grantee IN (SELECT oid FROM pg_roles WHERE rolname IN ({roles})) AND x.grantee <> c.relowner
    GROUP BY c.oid, x.grantee LOOP
    EXECUTE format('REVOKE %s ON %s FROM %s', item.privileges, item.relation, item.role);
  END LOOP;
  FOR item IN SELECT p.oid::regprocedure AS routine, x.grantee::regrole AS role
    FROM pg_proc AS p CROSS JOIN LATERAL aclexplode(p.proacl) AS x
    WHERE x.grantee IN (SELECT oid FROM pg_roles WHERE rolname IN ({roles})) AND x.grantee <> p.proowner LOOP
    EXECUTE format('REVOKE ALL ON ROUTINE %s FROM %s', item.routine, item.role);
  END LOOP;
END $wall$;"""


def _agent(wall: Wall, rights: Rights) -> list[str]:
    """What the agent's sessions begin with; and nothing is left to the role that the wall does not give."""
    if rights.exists and not rights.may_alter:
        return []
    role = f"ALTER ROLE {quote(wall.agent)} IN DATABASE {quote(wall.database.database)}"
    # What an extension brought, types and operators, is found behind the wall's views; tables there stay out of reach.
    path = dict.fromkeys(
        [wall.names.schema, "public", *shown_schemas(wall), *wall.database.extension_schemas]
    )
    parts = [f"{role} SET search_path TO {', '.join(quote(schema) for schema in path)};"]
    changed = ["search_path", "default_transaction_read_only"]
    if wall.profile.access_mode == "read_only":
        parts.append(f"{role} SET default_transaction_read_only TO on;")
    else:
        parts.append(f"{role} RESET default_transaction_read_only;")
    if wall.profile.statement_timeout_ms:
        parts.append(f"{role} SET statement_timeout TO {wall.profile.statement_timeout_ms};")
        changed.append("statement_timeout")
    return [*(_as_it_was(wall, rights, role, name) for name in changed), "\n".join(parts)]


def _as_it_was(wall: Wall, rights: Rights, role: str, setting: str) -> str:
    """The role's own setting, for the end; not again where an earlier installation noted it."""
    before = dict(each.split("=", 1) for each in rights.settings).get(setting)
    if before is None:
        statement = f"{role} RESET {setting}"
    else:
        statement = f"{role} SET {setting} TO {before if setting == 'search_path' else literal(before)}"
    table = f"{quote(wall.names.private)}.restore"
    return (
        f"INSERT INTO {table} SELECT {literal(statement)} WHERE NOT EXISTS (SELECT FROM {table}\n"
        f"  WHERE statement = {literal(f'{role} RESET {setting}')}\n"
        f"  OR starts_with(statement, {literal(f'{role} SET {setting} TO ')}));"
    )


def _taken(wall: Wall, rights: Rights) -> list[str]:
    parts: list[str] = []
    for right in rights.rights:
        if not right.revocable or not right.on_objects or _is_ours(wall, right):
            continue
        if right.via == "direct":
            if right.kind == "function" and _allowed(wall, right):
                continue
            parts.append(f"REVOKE {right.granted} FROM {quote(wall.agent)};")
        elif right.via == "PUBLIC" and _closed_to_everybody(wall, right):
            others = _others(wall, rights)
            if others:
                parts.append(_instead(wall, right, others))
            parts.append(f"REVOKE {right.granted} FROM PUBLIC;")
            parts.append(_restore(wall, f"GRANT {right.granted} TO PUBLIC"))
    return parts


def _given(wall: Wall) -> list[str]:
    """What the agent's role will be given on objects that stay, and has not now, is taken from it again at the end."""
    checks = []
    for name in wall.objects:
        kind, _, shown = name.partition(" ")
        if kind == "schema":
            checks.append(
                (f"USAGE ON SCHEMA {quote(shown)}", "pg_namespace", "nspacl", f"c.nspname = {literal(shown)}")
            )
    for oid in sorted(wall.carried.sequences):
        sequence = wall.database.by_oid.get(oid)
        if sequence is not None:
            relation = quote_qualified(sequence.schema, sequence.name)
            checks.append(
                (
                    f"USAGE ON SEQUENCE {relation}",
                    "pg_class",
                    "relacl",
                    f"c.oid = {literal(relation)}::regclass",
                )
            )
    for routine in wall.database.functions:
        if allowed_function(wall.profile, routine.schema, routine.name):
            schema = routine.schema
            checks.append(
                (
                    f"USAGE ON SCHEMA {quote(schema)}",
                    "pg_namespace",
                    "nspacl",
                    f"c.nspname = {literal(schema)}",
                )
            )
            found = f"c.oid = {literal(routine.by_types)}::regprocedure"
            checks.append((f"EXECUTE ON ROUTINE {routine.signature}", "pg_proc", "proacl", found))
    table = f"{quote(wall.names.private)}.restore"
    agent = literal(wall.agent)
    return [
        f"INSERT INTO {table} SELECT {literal(f'REVOKE {what} FROM {quote(wall.agent)}')} WHERE NOT EXISTS (\n"
        f"  SELECT FROM {catalog} AS c, aclexplode(c.{acl}) AS x WHERE {found}\n"
        f"  AND x.privilege_type = {literal(what.split()[0])}"
        f" AND x.grantee = (SELECT oid FROM pg_roles WHERE rolname = {agent})) ON CONFLICT DO NOTHING;"
        for what, catalog, acl, found in dict.fromkeys(checks)
    ]


#: Kind of object -> where its ACL is, and its default ACL where that is NULL.
_ACLS = {
    "table": ("pg_class", "relacl", "regclass", "r", "relowner"),
    "sequence": ("pg_class", "relacl", "regclass", "s", "relowner"),
    "function": ("pg_proc", "proacl", "regprocedure", "f", "proowner"),
    "schema": ("pg_namespace", "nspacl", "regnamespace", "n", "nspowner"),
    "database": ("pg_database", "datacl", None, "d", "datdba"),
}


def _instead(wall: Wall, right: Right, others: Iterable[str]) -> str:
    """To the roles by name what everybody had. What they did not have by name before is taken from them again at the end."""
    catalog, acl, kind, letter, owner = _ACLS[right.kind]
    if kind is None:
        found = f"c.datname = {literal(wall.database.database)}"
    else:
        name = right.object
        if right.kind == "function":
            name = next(each.by_types for each in wall.database.functions if each.signature == name)
        found = f"c.oid = {literal(name)}::{kind}"
    columns = f" AND a.attname IN ({', '.join(map(literal, right.columns))})" if right.columns else ""
    had = (
        f"SELECT FROM {catalog} AS c, pg_attribute AS a, aclexplode(a.attacl) AS x WHERE {found} AND a.attrelid = c.oid{columns}"
        if columns
        else f"SELECT FROM {catalog} AS c, aclexplode(coalesce(c.{acl}, acldefault('{letter}', c.{owner}))) AS x WHERE {found}"
    )
    roles = ", ".join(literal(role) for role in others)
    return f"""\
DO $wall$
DECLARE item name;
BEGIN
  FOR item IN SELECT r.rolname FROM pg_roles AS r WHERE r.rolname IN ({roles})
    AND NOT EXISTS ({had} AND x.grantee = r.oid AND x.privilege_type = {literal(right.privilege)}) LOOP
    EXECUTE {literal(f"GRANT {right.granted} TO ")} || quote_ident(item);
    INSERT INTO {quote(wall.names.private)}.restore
      VALUES ({literal(f"REVOKE {right.granted} FROM ")} || quote_ident(item)) ON CONFLICT DO NOTHING;
  END LOOP;
END $wall$;"""


def _restore(wall: Wall, statement: str) -> str:
    table = f"{quote(wall.names.private)}.restore"
    return f"INSERT INTO {table} VALUES ({literal(statement)}) ON CONFLICT DO NOTHING;"


def _is_ours(wall: Wall, right: Right) -> bool:
    return right.schema in (wall.names.schema, wall.names.private) or (
        right.kind == "sequence" and f"sequence {'.'.join(right.names)}" in wall.objects
    )


def _allowed(wall: Wall, right: Right) -> bool:
    return any(
        routine.signature == right.object and allowed_function(wall.profile, routine.schema, routine.name)
        for routine in wall.database.functions
    )


def _closed_to_everybody(wall: Wall, right: Right) -> bool:
    if right.kind in ("table", "sequence"):
        return True
    if right.kind == "schema":
        return right.privilege == "CREATE"
    if right.kind == "database":
        # A temporary table comes before all others that a function of the users' may mean.
        return right.privilege == "TEMPORARY" and wall.carried.opaque is not None
    if right.kind != "function":
        return False
    for routine in wall.database.functions:
        if routine.signature == right.object:
            # What defaults, constraints and types call is called by whoever uses these.
            return not routine.trusted and not (routine.needed and not routine.definer)
    return False


def _others(wall: Wall, rights: Rights) -> list[str]:
    """The roles that are given by name what everybody had: all but the agent's own and what it is a member of."""
    own = {wall.agent, wall.names.reader, wall.names.keeper}
    own |= {right.object for right in rights.rights if right.kind == "membership"}
    return [role for role in wall.database.roles if role not in own]


def _remember(wall: Wall) -> str:
    """The definitions, to show later what has changed."""
    table = f"{quote(wall.names.private)}.installed"
    rows = ",\n".join(
        f"  ({position}, {literal(name)}, {literal(definition)})"
        for position, (name, definition) in enumerate(wall.objects.items())
    )
    constants = f"{quote(wall.names.private)}.constants"
    values = ", ".join(
        f"({literal(name)}, {literal(value)})"
        for name, value in sorted(wall.settings.items())
        if name in wall.profile.filter_settings
    )
    return (
        f"DELETE FROM {table};\nDELETE FROM {constants};"
        + (f"\nINSERT INTO {table} VALUES\n{rows};" if rows else "")
        + (f"\nINSERT INTO {constants} VALUES {values};" if values else "")
    )


def _sign(wall: Wall) -> str:
    names = wall.names
    document = json.dumps(wall.comment())
    views = ", ".join(literal(name) for name in sorted(wall.exposed))
    return f"""\
SET LOCAL search_path TO pg_catalog;
DO $wall$
DECLARE
  fingerprint text;
  absent json;
BEGIN
  {fingerprint_query(names)} INTO fingerprint;
  SELECT coalesce(json_agg(v.name ORDER BY v.name), '[]') INTO absent FROM unnest(ARRAY[{views}]::text[]) AS v (name)
    WHERE to_regclass(format('%I.%I', {literal(names.schema)}, v.name)) IS NULL;
  EXECUTE format('COMMENT ON SCHEMA %I IS %L', {literal(names.schema)},
    left({literal(document)}, -1) || ', "absent": ' || absent || ', "fingerprint": "' || fingerprint || '"}}');
END $wall$;"""
