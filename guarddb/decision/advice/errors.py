"""What to add to an error of PostgreSQL's own about a name that is not there.

PostgreSQL says which name it is and, for columns, sometimes which one was meant. Who wrote the statement needs the names
that there are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from guarddb.decision.advice.names import alike, alike_relations, shown
from guarddb.decision.advice.texts import LIST_TABLES
from guarddb.facts.dialects import FOREIGN_FUNCTIONS

if TYPE_CHECKING:
    from guarddb.decision.on_catalog import CompiledPolicy
    from guarddb.sql.catalog import Catalog

_RELATION = re.compile(r'relation "([^"]+)" does not exist')
_COLUMN = re.compile(r'column "?([^" ]+)"? does not exist')
_FUNCTION = re.compile(r"function (?:\w+\.)?(\w+)\(.*\) does not exist")
_SETTING = re.compile(r'unrecognized configuration parameter "([^"]+)"')

_LISTS = {
    "tables": LIST_TABLES,
    "databases": "SELECT datname FROM pg_catalog.pg_database ORDER BY 1",
    "schemas": "SELECT schema_name FROM information_schema.schemata ORDER BY 1",
    "columns": "SELECT table_name, column_name FROM information_schema.columns ORDER BY 1, ordinal_position",
}


def did_you_mean(
    sqlstate: str | None,
    message: str,
    policy: CompiledPolicy,
    catalog: Catalog,
    relations: tuple[str, ...] = (),
) -> str | None:
    """A hint for an error about a name, or None where nothing near is known.

    Args:
        sqlstate: the error's; undefined table, column, function and setting have hints.
        message: its primary message.
        relations: what the statement reads, as `schema.name`, for columns.
    """
    if sqlstate == "42P01" and (found := _RELATION.search(message)):
        schema, _, name = found[1].rpartition(".")
        near = alike_relations(schema or None, name, policy, catalog)[:3]
        return f"Did you mean {' or '.join(map(shown, near))}?" if near else None
    if sqlstate == "42703" and (found := _COLUMN.search(message)):
        name = found[1].rpartition(".")[2]
        columns = [
            a.name
            for r in catalog.relations.values()
            if f"{r.schema}.{r.name}" in relations
            for a in r.attributes
        ]
        near_columns = alike(name, columns)
        return f"Did you mean {' or '.join(near_columns)}?" if near_columns else None
    if sqlstate == "42883" and (found := _FUNCTION.search(message)):
        instead = FOREIGN_FUNCTIONS.get(found[1].lower())
        return f"In PostgreSQL: {instead}." if instead else None
    if sqlstate == "42704" and (found := _SETTING.search(message)):
        listing = _LISTS.get(found[1].lower())
        return f"That is no setting. Try: {listing}" if listing else None
    return None
