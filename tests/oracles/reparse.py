"""Oracle 4 of the list: the text that is sent, read again by a walker that shares nothing with the engine.

It goes over pglast's node objects, resolves CTE names itself, and asks of every mention of a filtered relation that the
predicate, bound to its alias, is a conjunct of the WHERE that its rows have to pass, or of the ON of a join that drops the
rows for which it is false; and of every written row that RETURNING checks it. No view over a filtered relation may be left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from pglast import ast, parse_sql
from pglast.enums import BoolExprType, BoolTestType, CmdType, JoinType, NullTestType, OnConflictAction

from guarddb import Catalog
from tests.oracles.draws import Draws
from tests.oracles.generator import generate
from tests.oracles.grammar import Generated, Grammar
from tests.oracles.result import Verdict
from tests.oracles.rls import profile
from tests.oracles.schema import FILTERS, SECURED_TABLES, SETTINGS, Filter, tables
from tests.oracles.server import Side, database, make_roles
from tests.oracles.ways import MARKER, EngineWay

_VIEWS = ("v_acct", "v_nest", "v_agg", "v_evt")
#: Columns that some predicate reads; an UPDATE that leaves them alone cannot move a row out of a filter without a sub-select.
_READ_BY_FILTERS = {
    "constant": {"tenant"},
    "in": {"tenant"},
    "setting": {"tenant"},
    "or_null": {"tenant", "n"},
    "not_null": {"tenant"},
}
_PLACES = (
    "location",
    "list_start",
    "list_end",
    "name_location",
    "rexpr_list_start",
    "rexpr_list_end",
    "stmt_location",
    "stmt_len",
)


def plain(value: Any) -> Any:
    """A node as nested tuples, without places, and with `public` left out of names."""
    if isinstance(value, ast.Node):
        found = [type(value).__name__]
        for name in value:
            if name in _PLACES:
                continue
            member = getattr(value, name)
            if member is None or member == () or (name == "schemaname" and member == "public"):
                continue
            found.append((name, plain(member)))
        return tuple(found)
    if isinstance(value, tuple | list):
        return tuple(plain(v) for v in value)
    return value


@lru_cache(maxsize=4096)
def expected(row_filter: Filter, alias: str) -> Any:
    (statement,) = parse_sql(f"SELECT {row_filter.expected(alias)}")
    return plain(statement.stmt.targetList[0].val)


def conjuncts(node: Any) -> Iterator[Any]:
    if isinstance(node, ast.BoolExpr) and node.boolop == BoolExprType.AND_EXPR:
        for argument in node.args:
            yield from conjuncts(argument)
    elif isinstance(node, ast.BooleanTest) and node.booltesttype == BoolTestType.IS_TRUE:
        # `(…) IS TRUE` keeps the same rows, and the filter's own sub-select where it is.
        yield node.arg
    elif (inner := _needed(node)) is not None:
        yield node
        yield from conjuncts(inner)
    elif node is not None:
        yield node


def _needed(node: Any) -> Any:
    """What must be true for a condition to be: of `CASE WHEN a THEN b END` it is a, and so it is of the form that the planner's
    estimators cannot see through, `CASE WHEN a THEN NULL ELSE false END IS NULL`."""
    if isinstance(node, ast.NullTest) and node.nulltesttype == NullTestType.IS_NULL:
        case = node.arg
        if isinstance(case, ast.CaseExpr) and len(case.args) == 1 and case.defresult is not None:
            result = case.args[0].result
            if isinstance(result, ast.A_Const) and result.isnull:
                return case.args[0].expr
    if isinstance(node, ast.CaseExpr) and node.arg is None and len(node.args) == 1 and node.defresult is None:
        return node.args[0].expr
    return None


class Walker:
    """Collects what is wrong with one sent text."""

    def __init__(self, row_filter: Filter) -> None:
        self.filter = row_filter
        self.wrong: list[str] = []
        self.seen = 0

    def walk(self, node: Any, ctes: frozenset[str]) -> None:
        if isinstance(node, tuple | list):
            for each in node:
                self.walk(each, ctes)
            return
        if not isinstance(node, ast.Node):
            return
        clause = getattr(node, "withClause", None)
        if clause is not None:
            ctes = self.with_clause(clause, ctes)
        if isinstance(node, ast.SelectStmt):
            self.from_items(node.fromClause or (), node.whereClause, ctes)
        elif isinstance(node, ast.UpdateStmt):
            self.target(node.relation, node.whereClause, "UPDATE")
            self.from_items(node.fromClause or (), node.whereClause, ctes)
            self.written(node)
        elif isinstance(node, ast.DeleteStmt):
            self.target(node.relation, node.whereClause, "DELETE")
            self.from_items(node.usingClause or (), node.whereClause, ctes)
        elif isinstance(node, ast.InsertStmt):
            self.inserted(node)
        elif isinstance(node, ast.MergeStmt):
            self.target(node.relation, node.joinCondition, "MERGE")
            # Rows of the source that match nothing are inserted: ON keeps none of them away.
            self.from_items((node.sourceRelation,), None, ctes)
            if any(
                c.commandType in (CmdType.CMD_INSERT, CmdType.CMD_UPDATE) for c in node.mergeWhenClauses or ()
            ):
                self.checked(node.relation, node.returningClause, "MERGE")
        for name in node:
            if name in ("relation", "withClause") and not isinstance(node, ast.RangeTableSample):
                continue
            self.walk(getattr(node, name), ctes)

    def with_clause(self, clause: ast.WithClause, ctes: frozenset[str]) -> frozenset[str]:
        if clause.recursive:
            ctes |= {c.ctename for c in clause.ctes}
        for cte in clause.ctes:
            self.walk(cte.ctequery, ctes)
            ctes |= {cte.ctename}
        return ctes

    # ------------------------------------------------------------------ reads

    def from_items(self, items: Any, where: Any, ctes: frozenset[str]) -> None:
        for item in items:
            self.item(item, list(conjuncts(where)), ctes)

    def item(self, item: Any, conditions: list[Any], ctes: frozenset[str]) -> None:
        if isinstance(item, ast.RangeTableSample):
            item = item.relation
        if isinstance(item, ast.JoinExpr):
            on = list(conjuncts(item.quals))
            left = on if item.jointype in (JoinType.JOIN_INNER, JoinType.JOIN_RIGHT) else []
            right = on if item.jointype in (JoinType.JOIN_INNER, JoinType.JOIN_LEFT) else []
            self.item(item.larg, conditions + left, ctes)
            self.item(item.rarg, conditions + right, ctes)
        elif isinstance(item, ast.RangeVar):
            if item.schemaname in (None, "public") and not (item.schemaname is None and item.relname in ctes):
                self.mention(item, conditions, "read")

    def mention(self, relation: ast.RangeVar, conditions: list[Any], how: str) -> None:
        if relation.relname in _VIEWS:
            self.wrong.append(f"the view {relation.relname} is left")
        if relation.relname not in SECURED_TABLES:
            return
        self.seen += 1
        alias = relation.alias.aliasname if relation.alias is not None else relation.relname
        renamed = self.renamed(relation)
        predicate = expected(self.filter, alias)
        if renamed:
            predicate = _rename(predicate, renamed)
        if not any(plain(c) == predicate for c in conditions):
            self.wrong.append(f"{how} of {relation.relname} without its filter")

    @staticmethod
    def renamed(relation: ast.RangeVar) -> dict[str, str]:
        if relation.alias is None or not relation.alias.colnames:
            return {}
        columns = [c.name for c in tables()[relation.relname].columns]
        return dict(zip(columns, (c.sval for c in relation.alias.colnames), strict=False))

    # ------------------------------------------------------------------ writes

    def target(self, relation: ast.RangeVar, where: Any, how: str) -> None:
        self.mention(relation, list(conjuncts(where)), how)

    def checked(self, relation: ast.RangeVar, returning: Any, how: str) -> None:
        """RETURNING holds the predicate over the row, and what raises when it is false."""
        if relation.relname not in SECURED_TABLES:
            return
        alias = relation.alias.aliasname if relation.alias is not None else relation.relname
        text = repr(plain(returning))
        if MARKER not in text or repr(expected(self.filter, alias)) not in text:
            self.wrong.append(f"{how} of {relation.relname} does not check what it writes")

    def written(self, node: ast.UpdateStmt) -> None:
        columns = {t.name for t in node.targetList}
        read = _READ_BY_FILTERS.get(self.filter.name)
        if read is None or columns & read:
            self.checked(node.relation, node.returningClause, "UPDATE")

    def inserted(self, node: ast.InsertStmt) -> None:
        relation = node.relation
        if relation.relname in _VIEWS:
            self.wrong.append("INSERT into a view")
        if relation.relname not in SECURED_TABLES:
            return
        self.seen += 1
        self.checked(relation, node.returningClause, "INSERT")
        conflict = node.onConflictClause
        if conflict is not None and conflict.action == OnConflictAction.ONCONFLICT_UPDATE:
            self.checked(relation, conflict.whereClause, "ON CONFLICT")


def _rename(predicate: Any, names: dict[str, str]) -> Any:
    """The columns of the row under the names that an alias list gives them; `g` is the alias inside every sub-select."""

    def rename(value: Any) -> Any:
        if isinstance(value, tuple):
            if value[:1] == ("ColumnRef",):
                (_, (_, fields)) = value
                if len(fields) == 2 and fields[0] != ("String", ("sval", "g")):
                    name = fields[1][1][1]
                    return ("ColumnRef", ("fields", (fields[0], ("String", ("sval", names.get(name, name))))))
            return tuple(rename(v) for v in value)
        return value

    return rename(predicate)


def wrong(sql: str, row_filter: Filter) -> tuple[list[str], int]:
    """What is wrong with a sent text, and how many mentions of filtered relations it has."""
    statements = parse_sql(sql)
    walker = Walker(row_filter)
    for raw in statements:
        walker.walk(raw.stmt, frozenset())
    return walker.wrong, walker.seen


class ReparseOracle:
    name = "reparse"

    def __init__(self, filters: list[tuple[Filter, EngineWay]]) -> None:
        self.filters = filters
        self.grammar = Grammar(tables(), writes=40)
        self.mentions = 0

    def make(self, draws: Draws, number: int) -> Generated:
        return generate(draws, self.grammar_for(number))

    def grammar_for(self, number: int) -> Grammar:
        return self.grammar

    def place(self, number: int) -> str:
        return f"filter {self.filters[number % len(self.filters)][0].name}"

    def check(self, generated: Generated, number: int) -> Verdict:
        row_filter, way = self.filters[number % len(self.filters)]
        answer = way.ask(generated)
        if answer.rule:
            return Verdict("refused", f"internal_error: {answer.fault}" if answer.fault else answer.rule)
        found, seen = wrong(answer.sent, row_filter)
        self.mentions += seen
        if found:
            return Verdict("mismatch", found[0], f"sent: {answer.sent}\n" + "\n".join(found))
        return Verdict("same")


@contextmanager
def reparse_oracle(server: str) -> Iterator[ReparseOracle]:
    make_roles(server)
    with database(server, "oracle") as dsn:
        side = Side(dsn)
        try:
            catalog = Catalog.from_connection(side.conn)
        finally:
            side.close()
        yield ReparseOracle([(f, EngineWay(profile(f), catalog, None, SETTINGS)) for f in FILTERS])
