"""The same policy twice: as a profile of guarddb's, and as native row-level security with views that mask by hand."""

from __future__ import annotations

import re
from typing import Any

import psycopg
from psycopg import sql

ROLE = "field_twin"

_TABLES = """
SELECT n.nspname, c.relname, c.oid,
  array_agg(a.attname::text ORDER BY a.attnum),
  (array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.atttypid IN (20, 21, 23)))[1],
  array_agg(a.attname::text ORDER BY a.attnum DESC) FILTER (WHERE a.atttypid IN (25, 1043) AND NOT EXISTS (
    SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey)))
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_attribute AS a ON a.attrelid = c.oid
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
  AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
GROUP BY 1, 2, 3
"""


def build(admin: psycopg.Connection[Any], texts: str) -> dict[str, Any]:
    """Put up the native half in a database; returns the profile. `texts`: what will run, for the columns that it names."""
    words = {word.lower() for word in re.findall(r"[\w$]+", texts)}
    masks, filters = [], []
    admin.execute(f"DROP ROLE IF EXISTS {ROLE}")
    admin.execute(f"CREATE ROLE {ROLE}")
    admin.execute("CREATE SCHEMA masked")
    schemas = {"masked"}
    for schema, name, _, columns, number, texts_of in admin.execute(_TABLES).fetchall():
        schemas.add(schema)
        table = sql.Identifier(schema, name)
        if number is not None:
            predicate = sql.SQL("{} <> 3").format(sql.Identifier(number)).as_string(admin)
            filters.append({"table": f'"{schema}"."{name}"', "predicate": predicate})
            admin.execute(sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(table))
            policy = "CREATE POLICY twin ON {} FOR SELECT USING ({})"
            admin.execute(sql.SQL(policy).format(table, sql.SQL(predicate)))
        if schema != "public":
            continue  # (the statements write the schema, so that no view would stand in front of the table)
        hidden = next((column for column in texts_of or () if column.lower() not in words), None)
        if hidden is not None:
            masks.append({"table": f'"{schema}"."{name}"', "column": f'"{hidden}"', "kind": "null"})
        shown = [
            sql.SQL("NULL::text AS {0}" if column == hidden else "{0}").format(sql.Identifier(column))
            for column in columns
        ]
        view = "CREATE VIEW masked.{} WITH (security_invoker) AS SELECT {} FROM {}"
        admin.execute(sql.SQL(view).format(sql.Identifier(name), sql.SQL(", ").join(shown), table))
    for schema in schemas:
        where = sql.Identifier(schema)
        admin.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(where, sql.Identifier(ROLE)))
        admin.execute(
            sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA {} TO {}").format(where, sql.Identifier(ROLE))
        )
    return {"name": "twin", "masking_rules": masks, "row_filters": filters}
