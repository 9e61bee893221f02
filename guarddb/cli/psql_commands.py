"""psql's backslash commands for `guarddb shell --psql-compatible`: what they ask the catalogs, under the policy.

`command_sql` turns `\\dt+ app.*` into statements; several where a shorter one serves when the policy refuses the first (sizes of
tables under a row filter).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_COMMAND = re.compile(r"\\(?P<name>[a-zA-Z]+?)(?P<flags>[S+]*)(?:\s+(?P<pattern>\S.*?))?\s*;?\s*$")


@dataclass(frozen=True, slots=True)
class Question:
    """One table of an answer: its title, and statements of which the first that passes is shown, with their parameters."""

    title: str
    statements: tuple[str, ...]
    parameters: tuple[str | None, ...]


_KIND = (
    "CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'i' THEN 'index' "
    "WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table' WHEN 'p' THEN 'partitioned table' WHEN 'I' THEN 'partitioned index' "
    'END AS "Type"'
)
_OF_USERS = "n.nspname <> 'pg_catalog' AND n.nspname !~ '^pg_toast' AND n.nspname <> 'information_schema'"
#: The letters behind \d that choose relations, and the pg_class.relkind that each means.
_RELKINDS = {"t": "rp", "i": "iI", "v": "v", "m": "m", "s": "S", "E": "f", "P": "p"}


def command_sql(text: str) -> list[Question] | None:
    r"""What a backslash command asks; None for one that is not known.

    >>> command_sql("\\dn")[0].title
    'List of schemas'
    >>> command_sql("\\nothing") is None
    True
    """
    found = _COMMAND.fullmatch(text.strip())
    if found is None:
        return None
    name, flags, pattern = found["name"], found["flags"], found["pattern"]
    verbose, system = "+" in flags, "S" in flags
    if name in ("d", "z", "dp") and pattern is not None and name == "d":
        return _describe(pattern)
    if name in _LISTS:
        title, columns, more, source, where, order, schema, object_ = _LISTS[name]
        condition, parameters = _matches(pattern, schema, object_)
        if pattern is None and not system and where:
            condition = where
        selected = ", ".join([columns, *([more] if verbose and more else [])])
        return [
            Question(
                title,
                (f"SELECT {selected} FROM {source} WHERE {condition or 'true'} ORDER BY {order}",),
                parameters,
            )
        ]
    letters = name[1:] if name.startswith("d") else ""
    if name == "d" or (letters and set(letters) <= set(_RELKINDS)):
        return [_relations(letters or "tvmsE", pattern, verbose=verbose, system=system)]
    return None


def _relations(letters: str, pattern: str | None, *, verbose: bool, system: bool) -> Question:
    kinds = ", ".join(f"'{kind}'" for letter in letters for kind in _RELKINDS[letter])
    condition, parameters = _matches(pattern, "n.nspname", "c.relname")
    if pattern is None and not system:
        condition = f"{_OF_USERS} AND pg_catalog.pg_table_is_visible(c.oid)"
    columns = (
        'n.nspname AS "Schema", c.relname AS "Name", '
        + _KIND
        + ', pg_catalog.pg_get_userbyid(c.relowner) AS "Owner"'
    )
    joins = "pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
    if letters == "i":
        columns += ', t.relname AS "Table"'
        joins += (
            " LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid"
            " LEFT JOIN pg_catalog.pg_class t ON t.oid = i.indrelid"
        )
    rest = f" FROM {joins} WHERE c.relkind IN ({kinds}) AND {condition or 'true'} ORDER BY 1, 2"
    statements = [f"SELECT {columns}{rest}"]
    if verbose:
        description = "pg_catalog.obj_description(c.oid, 'pg_class') AS \"Description\""
        size = 'pg_catalog.pg_size_pretty(pg_catalog.pg_table_size(c.oid)) AS "Size"'
        statements = [
            f"SELECT {columns}, {size}, {description}{rest}",
            f"SELECT {columns}, {description}{rest}",
        ]
    return Question("List of relations", tuple(statements), parameters)


def _describe(pattern: str) -> list[Question]:
    condition, parameters = _matches(pattern, "n.nspname", "c.relname")
    visible = "" if "." in pattern else " AND pg_catalog.pg_table_is_visible(c.oid)"
    of = (
        "pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        f" WHERE {condition}{visible}"
    )
    columns = (
        'SELECT n.nspname || \'.\' || c.relname AS "Relation", a.attname AS "Column", '
        'pg_catalog.format_type(a.atttypid, a.atttypmod) AS "Type", '
        "CASE WHEN a.attnotnull THEN 'not null' ELSE '' END AS \"Nullable\", "
        'pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS "Default" '
        "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid "
        "LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum "
        f"WHERE {condition}{visible} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, a.attnum"
    )
    indexes = (
        'SELECT i.relname AS "Index", pg_catalog.pg_get_indexdef(x.indexrelid) AS "Definition" '
        "FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid "
        f"WHERE x.indrelid IN (SELECT c.oid FROM {of}) ORDER BY 1"
    )
    constraints = (
        'SELECT k.conname AS "Constraint", pg_catalog.pg_get_constraintdef(k.oid, true) AS "Definition" '
        f"FROM pg_catalog.pg_constraint k WHERE k.conrelid IN (SELECT c.oid FROM {of}) ORDER BY 1"
    )
    return [
        Question(f"Relation {pattern}", (columns,), parameters),
        Question("Indexes", (indexes,), parameters),
        Question("Constraints", (constraints,), parameters),
    ]


def _matches(pattern: str | None, schema: str | None, name: str) -> tuple[str | None, tuple[str | None, ...]]:
    """The condition for a psql pattern, and its parameters."""
    if pattern is None:
        return None, ()
    schema_part, dot, name_part = pattern.rpartition(".")
    conditions = [f"{name} OPERATOR(pg_catalog.~) %s COLLATE pg_catalog.default"]
    parameters: list[str | None] = [_regular(name_part if dot else pattern)]
    if dot and schema is not None:
        conditions.append(f"{schema} OPERATOR(pg_catalog.~) %s COLLATE pg_catalog.default")
        parameters.append(_regular(schema_part))
    return " AND ".join(conditions), tuple(parameters)


def _regular(pattern: str) -> str:
    """A psql name pattern as a regular expression: `*` and `?` are wild, quotes keep case.

    >>> _regular("Cust*")
    '^(cust.*)$'
    """
    parts = []
    quoted = False
    for character in pattern:
        if character == '"':
            quoted = not quoted
        elif character == "*" and not quoted:
            parts.append(".*")
        elif character == "?" and not quoted:
            parts.append(".")
        else:
            parts.append(re.escape(character if quoted else character.lower()))
    return f"^({''.join(parts)})$"


#: Command -> title, columns, columns with +, FROM, WHERE without a pattern, ORDER BY, and what a pattern is compared with.
_LISTS: dict[str, tuple[str, str, str, str, str, str, str | None, str]] = {
    "dn": (
        "List of schemas",
        'n.nspname AS "Name", pg_catalog.pg_get_userbyid(n.nspowner) AS "Owner"',
        "pg_catalog.obj_description(n.oid, 'pg_namespace') AS \"Description\"",
        "pg_catalog.pg_namespace n",
        "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'",
        "1",
        None,
        "n.nspname",
    ),
    **dict.fromkeys(
        ("du", "dg"),
        (
            "List of roles",
            (
                'r.rolname AS "Role name", r.rolsuper AS "Superuser", r.rolcreaterole AS "Create role", '
                'r.rolcreatedb AS "Create DB", r.rolcanlogin AS "Login", r.rolbypassrls AS "Bypass RLS"'
            ),
            "pg_catalog.shobj_description(r.oid, 'pg_authid') AS \"Description\"",
            "pg_catalog.pg_roles r",
            "r.rolname !~ '^pg_'",
            "1",
            None,
            "r.rolname",
        ),
    ),
    "l": (
        "List of databases",
        (
            'd.datname AS "Name", pg_catalog.pg_get_userbyid(d.datdba) AS "Owner", '
            'pg_catalog.pg_encoding_to_char(d.encoding) AS "Encoding", d.datcollate AS "Collate", d.datctype AS "Ctype"'
        ),
        "",
        "pg_catalog.pg_database d",
        "",
        "1",
        None,
        "d.datname",
    ),
    "df": (
        "List of functions",
        (
            'n.nspname AS "Schema", p.proname AS "Name", pg_catalog.pg_get_function_result(p.oid) AS "Result data type", '
            'pg_catalog.pg_get_function_arguments(p.oid) AS "Argument data types", '
            "CASE p.prokind WHEN 'a' THEN 'agg' WHEN 'w' THEN 'window' WHEN 'p' THEN 'proc' ELSE 'func' END AS \"Type\""
        ),
        'p.provolatile AS "Volatility", pg_catalog.obj_description(p.oid, \'pg_proc\') AS "Description"',
        "pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace",
        f"{_OF_USERS} AND pg_catalog.pg_function_is_visible(p.oid)",
        "1, 2, 4",
        "n.nspname",
        "p.proname",
    ),
    "da": (
        "List of aggregate functions",
        (
            'n.nspname AS "Schema", p.proname AS "Name", pg_catalog.pg_get_function_result(p.oid) AS "Result data type", '
            'pg_catalog.pg_get_function_arguments(p.oid) AS "Argument data types"'
        ),
        "pg_catalog.obj_description(p.oid, 'pg_proc') AS \"Description\"",
        "pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace AND p.prokind = 'a'",
        f"{_OF_USERS}",
        "1, 2, 4",
        "n.nspname",
        "p.proname",
    ),
    "dT": (
        "List of data types",
        (
            'n.nspname AS "Schema", pg_catalog.format_type(t.oid, NULL) AS "Name", '
            "pg_catalog.obj_description(t.oid, 'pg_type') AS \"Description\""
        ),
        "",
        "pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace AND t.typrelid = 0 AND t.typelem = 0",
        f"{_OF_USERS}",
        "1, 2",
        "n.nspname",
        "t.typname",
    ),
    "dD": (
        "List of domains",
        (
            'n.nspname AS "Schema", t.typname AS "Name", pg_catalog.format_type(t.typbasetype, t.typtypmod) AS "Type", '
            't.typnotnull AS "Not null", t.typdefault AS "Default"'
        ),
        "",
        "pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace AND t.typtype = 'd'",
        f"{_OF_USERS}",
        "1, 2",
        "n.nspname",
        "t.typname",
    ),
    "dx": (
        "List of installed extensions",
        (
            'e.extname AS "Name", e.extversion AS "Version", n.nspname AS "Schema", '
            "pg_catalog.obj_description(e.oid, 'pg_extension') AS \"Description\""
        ),
        "",
        "pg_catalog.pg_extension e LEFT JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace",
        "",
        "1",
        None,
        "e.extname",
    ),
    "db": (
        "List of tablespaces",
        's.spcname AS "Name", pg_catalog.pg_get_userbyid(s.spcowner) AS "Owner"',
        "",
        "pg_catalog.pg_tablespace s",
        "",
        "1",
        None,
        "s.spcname",
    ),
    "do": (
        "List of operators",
        (
            'n.nspname AS "Schema", o.oprname AS "Name", pg_catalog.format_type(nullif(o.oprleft, 0), NULL) AS "Left arg type", '
            'pg_catalog.format_type(nullif(o.oprright, 0), NULL) AS "Right arg type", '
            'pg_catalog.format_type(o.oprresult, NULL) AS "Result type"'
        ),
        "",
        "pg_catalog.pg_operator o JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace",
        f"{_OF_USERS}",
        "1, 2, 3, 4",
        "n.nspname",
        "o.oprname",
    ),
    "dy": (
        "List of event triggers",
        'e.evtname AS "Name", e.evtevent AS "Event", pg_catalog.pg_get_userbyid(e.evtowner) AS "Owner"',
        "",
        "pg_catalog.pg_event_trigger e",
        "",
        "1",
        None,
        "e.evtname",
    ),
    "dL": (
        "List of languages",
        'l.lanname AS "Name", pg_catalog.pg_get_userbyid(l.lanowner) AS "Owner", l.lanpltrusted AS "Trusted"',
        "",
        "pg_catalog.pg_language l",
        "l.lanplcallfoid <> 0",
        "1",
        None,
        "l.lanname",
    ),
    "dO": (
        "List of collations",
        'n.nspname AS "Schema", c.collname AS "Name", c.collprovider AS "Provider", c.collisdeterministic AS "Deterministic"',
        "",
        "pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace",
        f"{_OF_USERS}",
        "1, 2",
        "n.nspname",
        "c.collname",
    ),
    **dict.fromkeys(
        ("dp", "z"),
        (
            "Access privileges",
            'n.nspname AS "Schema", c.relname AS "Name", '
            + _KIND
            + ", pg_catalog.array_to_string(c.relacl, E'\\n') AS \"Access privileges\"",
            "",
            (
                "pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
                "AND c.relkind IN ('r', 'v', 'm', 'S', 'f', 'p')"
            ),
            f"{_OF_USERS} AND pg_catalog.pg_table_is_visible(c.oid)",
            "1, 2",
            "n.nspname",
            "c.relname",
        ),
    ),
}
