"""Columns of the server's own relations that are not for everybody: named as they are, or behind a view.

A view that somebody made over pg_stats or pg_class shows what they show. (What a view calls runs as its author wrote it.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from guarddb.decision.case import Case
from guarddb.decision.hidden_columns import is_only_shown, names_of, without
from guarddb.decision.on_catalog import CompiledPolicy, Governance, is_system
from guarddb.decision.refusal import Finding, Refusal
from guarddb.decision.relation_rules import ClosedColumn
from guarddb.facts import functions as facts
from guarddb.facts.system_relations import SEQUENCE, ClosedColumns, closed_columns
from guarddb.sql.names import literal, quote, quote_qualified, string_list
from guarddb.sql.statement import Link, Reference, Statement
from guarddb.tree import Node, nodes
from guarddb.vocabulary import Rule

if TYPE_CHECKING:
    from guarddb.decision.draft import Draft


def is_listed_by_name(reference: Reference, policy: CompiledPolicy) -> bool:
    """An entry that names the relation with its schema; `schema.*` is not naming it."""
    return any(
        p.schema is not None
        and p.name is not None
        and p.matches(reference.schema, reference.name, bare="public", strict=True)
        for p in policy.profile.allow_patterns
    )


def closed_to(reference: Reference, statement: Statement, governance: Governance) -> Refusal | None:
    """A column of a system relation that shows others' SQL, or counts what this policy hides."""
    policy = governance.policy
    for closed in _closed_of(reference, governance):
        used = _uses_of(reference, statement, closed.columns)
        if used is None or _is_own(reference, statement, closed, policy):
            continue
        if closed.own_row and _can_be_replaced(reference, statement, policy):
            continue  # `own_rows` sees to it
        if _comes_as_null(reference, statement, closed):
            continue  # so does `closed_as_null`
        shown = f'"{reference.qualified_name}"'
        if not closed.tells:
            return Refusal(
                "table_not_allowed",
                f"{used} of {shown} {closed.what}; it needs an explicit schema-qualified entry in this credential's allowlist",
                _other_columns(reference, governance)
                + (
                    " Your own session's is open: WHERE pid = pg_backend_pid()."
                    if closed.own_row and _shows_own(policy)
                    else ""
                ),
            )
        return Refusal(
            _rule(closed, governance),
            f"{used or 'all'} of {shown} {closed.what}, and this policy hides {_hidden(closed, governance)}",
            _other_columns(reference, governance) if closed.columns else "Leave this relation out.",
        )
    return None


def closes_any(reference: Reference, case: Case) -> bool:
    """Whether there are columns of a relation, its own or behind it, that some statements may not use."""
    return bool(_closed_of(reference, case.governance) or _behind(reference, case.governance))


def is_closed(reference: Reference, governance: Governance) -> bool:
    """Whether a view may not be read at all, for what it reads."""
    return None in _behind(reference, governance)


def _closed_of(reference: Reference, governance: Governance) -> list[ClosedColumns]:
    """What of a relation this policy closes."""
    relation = reference.relation
    sequence = relation is not None and relation.kind == "S"
    return [
        closed
        for closed in (SEQUENCE if sequence else closed_columns(reference.schema, reference.name))
        if (
            not closed.tells.isdisjoint(_hidden_from(reference, governance))
            if closed.tells
            else not is_listed_by_name(reference, governance.policy)
        )
    ]


def _hidden_from(reference: Reference, governance: Governance) -> frozenset[str]:
    """What a policy hides and a system relation may not tell of: an entry that names it opens it for what is only not listed.

    >>> import guarddb
    >>> listed = {"table_allowlist": ["customers", "pg_catalog.pg_stats"]}
    >>> guarddb.evaluate("SELECT * FROM pg_stats", listed).rule
    'ok'
    >>> guarddb.evaluate("SELECT * FROM pg_stats", {**listed, "table_denylist": ["salaries"]}).rule
    'masked_column_predicate'
    """
    policy = governance.policy
    if policy.profile.deny_patterns or not is_listed_by_name(reference, policy):
        return governance.hides
    return governance.hides - {"list"}


def _rule(closed: ClosedColumns, governance: Governance) -> Rule:
    if not closed.tells:
        return "table_not_allowed"
    return "row_filter_unsafe" if "filter" in closed.tells & governance.hides else "masked_column_predicate"


def _hidden(closed: ClosedColumns, governance: Governance) -> str:
    return " and ".join(HIDDEN_SHOWN[what] for what in sorted(closed.tells & governance.hides))


#: How a refusal speaks of what a policy hides.
HIDDEN_SHOWN = {
    "filter": "rows behind filters",
    "mask": "values behind masks",
    "list": "relations that its lists close",
    "written": "values behind masks that may be overwritten",
    "place": "values behind masks that decide in which partition a row is",
}


def _other_columns(reference: Reference, governance: Governance) -> str:
    system = facts.system_relation(reference.schema, reference.name)
    shut: set[str] = set()
    for closed in closed_columns(reference.schema, reference.name):
        if not closed.tells or closed.tells & governance.hides:
            shut |= closed.columns or set()
    if system is None:
        return f"Leave out {', '.join(sorted(shut))}."
    return f"Select the other columns by name: {', '.join(c for c in system.columns if c not in shut)}."


def _uses_of(reference: Reference, statement: Statement, columns: frozenset[str] | None) -> str | None:
    """The first of these columns that a statement may see, as text for a person; None when it sees none."""
    if columns is None:
        return "every row"
    if reference.unmapped_alias:
        return "a column under another name"
    if reference.mode == "copy":
        listed = string_list(statement.fields.get("attlist", ()))
        used = [column for column in listed if column in columns]
        return f'column "{used[0]}"' if used else None if listed else "the whole row"
    for each in statement.definitions if reference.mode == "ddl" else ():
        # (The bare columns of an index and of statistics.)
        for kind, fields in nodes(each.fields):
            if kind in ("IndexElem", "StatsElem") and fields.get("name") in columns:
                return f'column "{fields["name"]}"'
    links = [link for query in statement.queries for o in query.outputs for link in (*o.links, *o.opaque)]
    links += [link for root in statement.roots for link, _ in root.uses]
    for link in links:
        if isinstance(link, tuple) and link[0] is reference:
            if link[1] == "*":
                return "the whole row"
            if link[1] in columns:
                return f'column "{link[1]}"'
    return None


def _only_of_this_session(reference: Reference, statement: Statement, columns: frozenset[str] | None) -> bool:
    """`WHERE pid = pg_backend_pid()`, and the closed columns only selected: no condition runs on others' rows."""
    if columns is None or reference.query is None:
        return False
    for root in statement.roots:
        for link, _ in root.uses:
            if isinstance(link, tuple) and link[0] is reference and (link[1] in columns or link[1] == "*"):
                return False
    pids = {
        id(node)
        for root in statement.roots
        if root.query is reference.query and root.clause == "where"
        for link, node in root.uses
        if link == (reference, "pid") and node is not None
    }
    condition: Node = reference.query.fields.get("whereClause", {})
    conjuncts = [condition]
    if condition.get("BoolExpr", {}).get("boolop") == "AND_EXPR":
        conjuncts = condition["BoolExpr"]["args"]
    for each in conjuncts:
        fields = each.get("A_Expr", {})
        if fields.get("kind") != "AEXPR_OP" or string_list(fields.get("name", ())) != ["="]:
            continue
        sides = [fields.get("lexpr", {}), fields.get("rexpr", {})]
        for one, other in (sides, sides[::-1]):
            call = other.get("FuncCall", {})
            if (
                id(one.get("ColumnRef")) in pids
                and string_list(call.get("funcname", ()))
                in (["pg_backend_pid"], ["pg_catalog", "pg_backend_pid"])
                and not call.get("args")
            ):
                return True
    return False


# ---------------------------------------------------------------------- by row


def own_rows(case: Case, draft: Draft) -> Refusal | None:
    """Columns that are this session's own in its own row: others' rows show what PostgreSQL shows to a role without rights.

    >>> import guarddb
    >>> sent = guarddb.evaluate("SELECT query FROM pg_stat_activity", {"max_rows": 5}).rewritten_sql
    >>> sent[sent.index("CASE") : sent.index(" ELSE")]
    'CASE WHEN a.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() THEN a."query"'
    """
    for reference, columns in shown_by_row(case) if draft.lists else ():
        draft.rewriter.replace_relation(reference, _by_row(reference, columns, own=_shows_own(case.policy)))
    return None


def shown_by_row(case: Case) -> list[tuple[Reference, frozenset[str]]]:
    """The mentions of relations that have such columns, which `closed_to` let pass because they are replaced."""
    statement = case.statement

    def is_replaced(reference: Reference, closed: ClosedColumns) -> bool:
        return (
            closed.own_row
            and _uses_of(reference, statement, closed.columns) is not None
            and not _is_own(reference, statement, closed, case.policy)
        )

    return _closed_mentions(case, is_replaced)


def _closed_mentions(
    case: Case, wanted: Callable[[Reference, ClosedColumns], bool]
) -> list[tuple[Reference, frozenset[str]]]:
    """The mentions of system relations that have closed columns of some kind, with their names."""
    if case.policy.profile.forbids_nothing:
        return []
    return [
        (reference, closed.columns or frozenset())
        for reference in case.statement.references
        if is_system(reference.schema)
        for closed in _closed_of(reference, case.governance)
        if wanted(reference, closed)
    ]


def _comes_as_null(reference: Reference, statement: Statement, closed: ClosedColumns) -> bool:
    """Whether a secret or a sample is only shown, beside columns that are open."""
    return (
        not closed.tells
        and not closed.own_row
        and closed.columns is not None
        and is_only_shown(reference, statement, closed.columns)
    )


def shown_as_null(case: Case) -> list[tuple[Reference, frozenset[str]]]:
    """The mentions of relations of which such columns are shown."""
    return _closed_mentions(case, lambda reference, closed: _comes_as_null(reference, case.statement, closed))


def closed_as_null(case: Case, draft: Draft) -> Refusal | None:
    """Put NULL where a secret of the server's own relations would be shown.

    >>> import guarddb
    >>> guarddb.evaluate("SELECT subname, subconninfo FROM pg_subscription", {}).rewritten_sql[:76]
    'SELECT subname, subconninfo FROM (SELECT a."subname", NULL::pg_catalog.text '
    """
    for reference, columns in shown_as_null(case) if draft.lists else ():
        draft.rewriter.replace_relation(reference, without(reference, case.statement, columns))
    return None


def secret_as_null(case: Case) -> Finding | None:
    """A note that says so."""
    for reference, columns in shown_as_null(case):
        names = ", ".join(sorted(columns & names_of(reference, case.statement)))
        return Finding(
            "ok",
            f'{names} of "{reference.qualified_name}" comes as NULL: only an explicit entry in an allowlist opens it',
        )
    return None


def _can_be_replaced(reference: Reference, statement: Statement, policy: CompiledPolicy) -> bool:
    return (
        # A profile that lists what is open opens this by an entry only.
        not policy.profile.table_allowlist
        and reference.mode == "read"
        and reference.wrapper is not None
        and reference.sample is None
        and not reference.system_columns
        and (statement.ddl is None or statement.ddl[0] in ("CreateTableAsStmt", "CopyStmt"))
        and facts.system_relation(reference.schema, reference.name) is not None
    )


def _shows_own(policy: CompiledPolicy) -> bool:
    """Whether the session's own text is shown: it is the one that was sent, with filters and masks in it."""
    return policy.hides.isdisjoint(("filter", "mask"))


def _is_own(
    reference: Reference, statement: Statement, closed: ClosedColumns, policy: CompiledPolicy
) -> bool:
    """Whether a relation is read for the row of this session only, which shows nothing that is not its own."""
    return (
        closed.own_row and _shows_own(policy) and _only_of_this_session(reference, statement, closed.columns)
    )


def _by_row(reference: Reference, closed: frozenset[str], *, own: bool) -> str:
    relation = facts.system_relation(reference.schema, reference.name)
    assert relation is not None
    of_others = f"{literal(_OF_OTHERS)}::pg_catalog.text"
    is_own = "a.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"
    shown = [
        f"{f'CASE WHEN {is_own} THEN a.{quote(name)} ELSE {of_others} END' if own else of_others} AS {quote(name)}"
        if name in closed
        else f"a.{quote(name)}"
        for name in relation.columns
    ]
    return f"SELECT {', '.join(shown)} FROM {quote_qualified(reference.schema, reference.name)} AS a"


#: PostgreSQL's own words.
_OF_OTHERS = "<insufficient privilege>"


# ---------------------------------------------------------------------- views


#: Of a view whose definition nobody could read.
_NOT_READ = ClosedColumns(None, "what it reads is not known")


def looks_at_values(statement: Statement) -> bool:
    """Whether a definition computes with the rows of what it names, and shows them by an error: an index, statistics."""
    return any(each.verb == "create" and each.object in _MADE_OF_VALUES for each in statement.definitions)


_MADE_OF_VALUES = ("index", "statistics")


def closed_behind(reference: Reference, case: Case) -> Refusal | None:
    """A column of a view that shows such a column, or a view that chooses its rows by one or reads what is closed as a whole."""
    governance = case.governance
    shown_by = _behind(reference, governance)
    for column, found in shown_by.items():
        closed = found.closed
        if column is not None and _uses_of(reference, case.statement, frozenset((column,))) is None:
            continue
        if closed is _NOT_READ:
            return Refusal(
                "statement_not_allowed",
                f'the definition of the view "{found.relation}" is not understood, so nobody knows what it shows',
                "Read the tables themselves.",
            )
        if closed.columns is None and not closed.tells:
            return Refusal(
                "table_not_allowed",
                f'"{reference.qualified_name}" reads "{found.relation}", which {closed.what}; '
                "that one needs an explicit schema-qualified entry in this credential's allowlist",
                "Ask the tables themselves for the data you need.",
            )
        why = f"{closed.what}"
        if closed.tells:
            why += ", and this policy hides " + _hidden(closed, governance)
        subject = "the choice of its rows" if column is None else f'column "{column}"'
        return Refusal(
            _rule(closed, governance),
            f'{subject} of "{reference.qualified_name}" comes from "{found.relation}" and {why}',
            "Leave this relation out."
            if column is None
            else f"Leave out {', '.join(sorted(c for c in shown_by if c is not None))}.",
        )
    return None


def _behind(reference: Reference, governance: Governance) -> Mapping[str | None, ClosedColumn]:
    """What of a view comes from a closed column, by the view's own columns; None: which rows it has."""
    rules = governance.rules(reference)
    statement, view = rules.definition, reference.relation
    if rules.closed is not None or view is None or view.definition is None:
        return rules.closed or {}
    if statement is None or statement.top is None:
        rules.closed = {None: ClosedColumn(reference.qualified_name, _NOT_READ)}
        return rules.closed
    found: dict[str | None, ClosedColumn] = {}
    rules.closed = found  # (Set before it is complete: a view that reads itself ends here.)
    outputs = statement.top.outputs
    # A star that is not taken apart may be any column.
    names = [a.name for a in view.attributes] if len(outputs) == len(view.attributes) else []
    for output, name in zip(outputs, names, strict=False):
        for closed in _reached(output, statement, governance):
            found.setdefault(name, closed)
    for root in statement.roots:
        # (What an output is made of has been followed.)
        if names and root.clause == "target":
            continue
        for link, _ in root.uses:
            for closed in _reached(link, statement, governance):
                found.setdefault(None, closed)
    for below in statement.references:
        for each in _closed_of(below, governance):
            if each.columns is None:
                found.setdefault(None, ClosedColumn(below.qualified_name, each))
        if (rows := _behind(below, governance).get(None)) is not None:
            found.setdefault(None, rows)
    if not names:
        for output in outputs:
            for closed in _reached(output, statement, governance):
                found.setdefault(None, closed)
    return found


def _reached(link: Link, statement: Statement, governance: Governance) -> Iterator[ClosedColumn]:
    """The closed columns that a link goes back to, in whatever expression."""
    seen: set[int] = set()
    stack: list[Link] = [link]
    while stack:
        item = stack.pop()
        if not isinstance(item, tuple):
            if id(item) not in seen:
                seen.add(id(item))
                stack += (*item.links, *item.opaque)
                stack += [use for use, _ in item.root.uses] if item.root is not None else []
            continue
        reference, column = item
        for closed in _closed_of(reference, governance):
            if closed.columns is not None and (column == "*" or column in closed.columns):
                if _is_own(reference, statement, closed, governance.policy):
                    continue
                yield ClosedColumn(reference.qualified_name, closed)
        for name, found in _behind(reference, governance).items():
            if name is not None and column in (name, "*"):
                yield found


#: What writes rows of a view.
_WRITES = ("insert", "update", "delete", "merge")


def writes_the_servers_own(reference: Reference, case: Case) -> Refusal | None:
    """A write to a view that PostgreSQL passes on to a relation of its own: UPDATE of a view over pg_settings is SET.

    >>> import guarddb
    >>> guarddb.evaluate("UPDATE pg_settings SET setting = 'x' WHERE name = 'a'", {"access_mode": "read_write"}).rule
    'protected_setting'
    """
    if reference.mode not in _WRITES or case.policy.profile.forbids_nothing:
        return None
    below: Reference | None = reference
    for _ in range(_MAX_DEPTH):
        if below is None:
            return None
        if is_system(below.schema) and below is not reference:
            return Refusal(
                "protected_setting" if below.name == "pg_settings" else "table_denied",
                f'a write of "{reference.qualified_name}" would write "{below.qualified_name}", which belongs to the system',
                "Read it; change only tables of your own.",
            )
        below = _passes_on_to(below, case.governance)
    return None


#: A view is built on so many others at most; deeper ones are not read at all.
_MAX_DEPTH = 64


def _passes_on_to(reference: Reference, governance: Governance) -> Reference | None:
    """The relation that a view's rows are written to, when PostgreSQL does that by itself."""
    definition = governance.rules(reference).definition
    if definition is None or definition.top is None:
        return None
    items = definition.top.fields.get("fromClause", ())
    node = items[0].get("RangeVar") if len(items) == 1 else None
    return next((each for each in definition.references if each.node is node), None)
