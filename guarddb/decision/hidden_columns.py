"""Secrets and samples in the server's own relations come as NULL where a statement only shows them beside other columns.

So what psql and pgAdmin ask about subscriptions, user mappings and statistics is answered, but for the secret. A statement that
asks for nothing else, takes a whole row, or chooses, joins or sorts rows by such a column is refused: NULL would be untrue there.
"""

from __future__ import annotations

from collections.abc import Iterator

from guarddb.facts import functions as facts
from guarddb.sql.names import quote, quote_qualified
from guarddb.sql.statement import PREDICATE_CLAUSES, Link, Output, Reference, Statement
from guarddb.tree import nodes

#: The types of the columns: NULL keeps the type that the column has.
_TYPES = {"subconninfo": "text", "umoptions": "_text"}
_TEXTS = frozenset(("pg_stats_ext",))


def is_only_shown(reference: Reference, statement: Statement, columns: frozenset[str]) -> bool:
    """Whether a reference can become a subquery in which these columns are NULL, and its other columns still answer something."""
    if not _has_a_place(reference, statement):
        return False
    used = _used(reference, statement)
    if used is None or not used & columns or not used - columns:
        return False
    for root in statement.roots:
        if root.clause in PREDICATE_CLAUSES:
            for link, _ in root.uses:
                if any(column in columns for column in _columns_of(link, reference)):
                    return False
    return bool(names_of(reference, statement) - columns)


def without(reference: Reference, statement: Statement, columns: frozenset[str]) -> str:
    """The subquery."""
    relation = facts.system_relation(reference.schema, reference.name)
    assert relation is not None
    names = _names(reference, statement)
    shown = [
        f"NULL::pg_catalog.{_type(reference, name)} AS {quote(name)}"
        if name in columns
        else f"a.{quote(name)}"
        for name in names
    ]
    return f"SELECT {', '.join(shown)} FROM {quote_qualified(reference.schema, reference.name)} AS a"


def _type(reference: Reference, column: str) -> str:
    return _TYPES.get(column, "_text" if reference.name in _TEXTS else "anyarray")


def _has_a_place(reference: Reference, statement: Statement) -> bool:
    query = reference.query
    return (
        reference.mode == "read"
        and reference.wrapper is not None
        and reference.sample is None
        and query is not None
        # (By its key a table's other columns are grouped too, and a subquery has none.)
        and not query.fields.get("groupClause")
        and not reference.system_columns
        and not reference.alias_columns
        and (statement.ddl is None or statement.ddl[0] == "CopyStmt")
        and facts.system_relation(reference.schema, reference.name) is not None
        # Of what NATURAL joins by, exact columns tell.
        and (
            reference.exact
            or not any(
                name == "JoinExpr" and node.get("isNatural") for name, node in nodes(statement.wrapper)
            )
        )
    )


def _used(reference: Reference, statement: Statement) -> set[str] | None:
    """The columns of a reference that a statement names; None where it takes them by a star or the whole row."""
    used = names_of(reference, statement)
    for root in statement.roots:
        used |= {link[1] for link, _ in root.uses if isinstance(link, tuple) and link[0] is reference}
    for query in statement.queries:
        for output in query.outputs:
            if output.star and any(isinstance(link, tuple) and link[0] is reference for link in output.links):
                return None
    return None if "*" in used else used


def names_of(reference: Reference, statement: Statement) -> set[str]:
    """The columns of a reference that a target list names."""
    links = [
        link
        for query in statement.queries
        for output in query.outputs
        for link in (*output.links, *output.opaque)
    ]
    links += [link for root in statement.roots if root.clause == "target" for link, _ in root.uses]
    return {link[1] for link in links if isinstance(link, tuple) and link[0] is reference}


def _columns_of(link: Link, reference: Reference) -> Iterator[str]:
    """The columns of a reference that a link goes back to."""
    seen: set[int] = set()
    stack: list[Link] = [link]
    while stack:
        item = stack.pop()
        if isinstance(item, Output):
            if id(item) not in seen:
                seen.add(id(item))
                stack += (*item.links, *item.opaque)
                stack += [use for use, _ in item.root.uses] if item.root is not None else []
        elif item[0] is reference:
            yield item[1]


def _names(reference: Reference, statement: Statement) -> list[str]:
    """All columns where this server's are known, and else those that the statement uses."""
    relation = facts.system_relation(reference.schema, reference.name)
    used = _used(reference, statement)
    assert relation is not None
    assert used is not None
    return [name for name in relation.columns if name in used or reference.exact]
