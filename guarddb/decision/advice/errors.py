"""What to add to an error of PostgreSQL's own about a name that is not there.

PostgreSQL says which name it is and, for columns, sometimes which one was meant. Who wrote the statement needs the names
that there are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from guarddb.decision.advice.names import alike_relations, column_alike, columns_of, shown
from guarddb.decision.advice.texts import LIST_TABLES
from guarddb.facts.dialects import FOREIGN_FUNCTIONS, FOREIGN_OPERATORS
from guarddb.facts.functions import builtin
from guarddb.tree import SQLSyntaxError, below, parse

if TYPE_CHECKING:
    from guarddb.decision.on_catalog import CompiledPolicy, Governance
    from guarddb.sql.catalog import Catalog, Relation

_RELATION = re.compile(r'relation "([^"]+)" does not exist')
_COLUMN = re.compile(r'column "?([^" ]+)"? does not exist')
_FUNCTION = re.compile(r"function (?:\w+\.)?(\w+)\(.*\) does not exist")
_OPERATOR = re.compile(r"operator does not exist: .*?(?<= )?([-+*/<>=~!@#%^&|`?]+)")
_CALLED = re.compile(r"(\w+)\s*\(")
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
    sql: str = "",
    said: str = "",
) -> str | None:
    """A hint for an error about a name, or None where nothing near is known.

    Args:
        sqlstate: the error's; undefined table, column, function and setting have hints.
        message: its primary message.
        relations: what the statement reads, as `schema.name`, for columns.
        sql: the statement, which says whose column it was to be.
        said: PostgreSQL's own hint; with it no list of columns is needed.
    """
    if sqlstate == "42P01" and (found := _RELATION.search(message)):
        schema, _, name = found[1].rpartition(".")
        near = alike_relations(schema or None, name, policy, catalog)[:3]
        return f"Did you mean {' or '.join(map(shown, near))}?" if near else None
    if sqlstate == "42703" and (found := _COLUMN.search(message)):
        qualifier, _, name = found[1].rpartition(".")
        for called in _CALLED.findall(sql):  # dateadd(day, 1, x): `day` would be a column
            if (
                not qualifier
                and (instead := FOREIGN_FUNCTIONS.get(called.lower()))
                and not builtin(called.lower())
            ):
                return f"{called}() is no function of PostgreSQL's: {instead}."
        if not qualifier and re.search(rf'=\s*"{re.escape(name)}"', sql):
            return f"Text goes in single quotes: '{name}'. Double quotes are for names."
        return _column_meant(
            name, _meant(qualifier, sql, relations, catalog), policy.governance(catalog), said
        )
    if sqlstate == "42883" and (found := _OPERATOR.search(message)):
        instead = FOREIGN_OPERATORS.get(found[1])
        return f"In PostgreSQL: {instead}." if instead else None
    if sqlstate == "42883" and (found := _FUNCTION.search(message)):
        instead = FOREIGN_FUNCTIONS.get(found[1].lower())
        return f"In PostgreSQL: {instead}." if instead else None
    if sqlstate == "42704" and (found := _SETTING.search(message)):
        listing = _LISTS.get(found[1].lower())
        return f"That is no setting. Try: {listing}" if listing else None
    return None


def _meant(qualifier: str, sql: str, relations: tuple[str, ...], catalog: Catalog) -> list[Relation]:
    """The relations whose column it was to be: those of a statement, or the one that is called by the name in front of it."""
    read = [r for r in catalog.relations.values() if f"{r.schema}.{r.name}" in relations]
    if not qualifier:
        return read
    try:
        mentions = below(parse(sql), ("RangeVar",))
    except SQLSyntaxError:
        return []
    names = {
        fields["relname"]
        for fields in mentions
        if fields.get("alias", {}).get("aliasname", fields["relname"]) == qualifier
    }
    return [relation for relation in read if relation.name in names]


def _column_meant(name: str, relations: list[Relation], governance: Governance, said: str) -> str | None:
    if (near := column_alike(name, relations)) is not None:
        return near
    if said or len(relations) != 1 or not governance.rules_for(relations[0]).governed:
        return None  # an error about a table that no rule is about is PostgreSQL's, word for word
    return columns_of(relations[0], governance)
