"""Oracle: PostgreSQL's own analyzer reads what guarddb reads, and what guarddb sends.

Every statement becomes the body of a `BEGIN ATOMIC` function. The server resolves its names and stores what it found; of that,
and of nothing else, is asked:

- *on what is sent*: no column under a `null` mask stands in it at all; one under `redact` only in the test that keeps NULL
  apart, and not even there where it cannot be NULL; one under `hash` only inside the hash; a filtered relation only with its
  filter; no function that the policy refuses;
- *on what was read*: every base column that the server found behind an output, or anywhere in the statement, guarddb has found
  as well; and it finds the same in the server's own print of the statement, in which every column is qualified;
- whatever the server takes of the agent's, it takes of what is sent, and what it refuses it still refuses.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import pq

from guarddb import Catalog, PolicyProfile
from guarddb.sql.analysis.classify import read_statement
from guarddb.sql.statement import Link, Output, Statement
from guarddb.tree import parse
from tests.oracles.collisions import SCHEMA_SQL, Collisions
from tests.oracles.draws import Draws
from tests.oracles.grammar import Generated
from tests.oracles.result import Verdict, general
from tests.oracles.server import database, make_roles
from tests.oracles.stored import BaseColumn, Level, Resolved, Tree, kind_of, read
from tests.oracles.ways import EngineWay

_SYSTEM_NUMBERS = {"ctid": -1, "xmin": -2, "cmin": -3, "xmax": -4, "cmax": -5, "tableoid": -6}
_STRENGTH = ("hash", "redact", "null")
#: OIDs of built-in functions (pg_proc.dat): sha256, the comparison of two int4.
_SHA256, _INT4EQ = 3420, 65
_FIRST_USER_OID = 16384
#: The number of docs.tenant, which the filters read.
_TENANT = 2

_STORED = (
    "SELECT prosqlbody::text, pg_get_function_sqlbody(oid) FROM pg_proc WHERE oid = 'pg_temp.probe'::regproc"
)


@dataclass(frozen=True)
class Ruled:
    """One profile, and what it asks of each column by the server's own numbers."""

    name: str
    profile: PolicyProfile
    masks: dict[BaseColumn, str]
    filtered: frozenset[int]
    #: views that read a filtered relation: their definition stands in their place
    inlined: frozenset[int]
    redacts_nulls: bool
    way: EngineWay


@dataclass
class Refused:
    state: str
    message: str


@dataclass
class Taken:
    tree: Resolved
    printed: str


class Analyzer:
    """A connection on which statements are analysed and never run."""

    def __init__(self, dsn: str) -> None:
        self.conn = psycopg.connect(dsn, autocommit=True)
        self.runs = 0

    def ask(self, sql: str) -> Taken | Refused:
        self.runs += 1
        if self.runs % 5000 == 0:
            self.conn.execute("VACUUM pg_proc, pg_depend, pg_type")
        # One message: it costs half of what two do.
        result = self.conn.pgconn.exec_(
            f"CREATE OR REPLACE FUNCTION pg_temp.probe() RETURNS void LANGUAGE sql BEGIN ATOMIC {sql}\n; END; {_STORED}".encode()
        )
        if result.status != pq.ExecStatus.TUPLES_OK:
            fields = (pq.DiagnosticField.SQLSTATE, pq.DiagnosticField.MESSAGE_PRIMARY)
            state, message = ((result.error_field(field) or b"").decode() for field in fields)
            return Refused(state or "?", message)
        row = [(result.get_value(0, column) or b"").decode() for column in (0, 1)]
        tree = Resolved(row[0])
        if tree.top.query is None:
            return Refused("", "a text that is no query")
        return Taken(
            tree,
            row[1].removeprefix("BEGIN ATOMIC").removesuffix("END").strip().removesuffix(";"),
        )


class AnalyzerOracle:
    name = "analyzer"

    def __init__(self, server: Analyzer, rules: list[Ruled], refused_functions: set[int]) -> None:
        self.server = server
        self.rules = rules
        self.refused_functions = refused_functions

    def place(self, number: int) -> str:
        return self.rules[number % len(self.rules)].name

    def make(self, draws: Draws, number: int) -> Generated:
        return Collisions(draws).make()

    def check(self, generated: Generated, number: int) -> Verdict:
        ruled = self.rules[number % len(self.rules)]
        return self.judge(generated.sql, ruled, WRAPPERS[number % len(WRAPPERS)])

    def judge(self, sql: str, ruled: Ruled, wrapper: tuple[str, str] = ("", "")) -> Verdict:
        """What comes of one statement under one profile; `wrapper` is the utility statement around it, as it is sent."""
        before, after = wrapper
        if not re.match(r"(SELECT|TABLE|\()", sql):
            before, after = "", ""  # what writes may not stand in them, and not even a WITH query that does
        taken = self.server.ask(sql)
        answer = ruled.way.ask(Generated(before + sql + after, "", [], None, False, False, [], [], False, []))
        if answer.fault or answer.rule == "internal_error":
            return Verdict("mismatch", f"internal_error: {answer.fault or answer.reason}")
        if isinstance(taken, Refused):
            return self._invalid(sql, taken, answer.rule, answer.sent, before, after)
        different = self._read_otherwise(sql, taken, ruled)
        if different is not None:
            return Verdict("mismatch", different[0], f"{different[1]}\nserver: {taken.printed}")
        if answer.rule:
            if self._may_be_refused(taken.tree, ruled):
                return Verdict("refused", f"{answer.rule}: {general(answer.reason)}")
            return Verdict("blocked", f"{answer.rule}: {general(answer.reason)}", answer.reason)
        sent = _inside(answer.sent, before, after)
        result = taken if sent == sql else self.server.ask(sent)
        if isinstance(result, Refused):
            cause = f"what is sent is refused: {result.state} {general(result.message)}"
            return Verdict("mismatch", cause, f"sent: {sent}\n{result.message}")
        problem = self._exposed(result.tree, ruled)
        if problem is not None:
            return Verdict("mismatch", problem, f"sent: {sent}\nserver: {result.printed}")
        if asked := self._asked_for(taken.tree, result.tree, ruled):
            return Verdict(
                "mismatch",
                "a right is asked for that the statement did not need",
                f"sent: {sent}\n{sorted(asked)}",
            )
        names = result.tree.names()
        if names != taken.tree.names() and (taken.tree.names() or sql.startswith("SELECT")):
            return Verdict(
                "mismatch", "the names of the result", f"sent: {sent}\n{taken.tree.names()}\n{names}"
            )
        return Verdict("same")

    def _invalid(self, sql: str, refused: Refused, rule: str, sent: str, before: str, after: str) -> Verdict:
        """PostgreSQL does not take the agent's text: it must not take what is sent for it either."""
        if rule:
            return Verdict(
                "invalid", f"{refused.state}, and {rule}" if refused.state == "42703" else refused.state
            )
        sent = _inside(sent, before, after)
        if sent != sql and not isinstance(self.server.ask(sent), Refused):
            return Verdict("mismatch", f"{refused.state} is answered", f"sent: {sent}\n{refused.message}")
        return Verdict("invalid", refused.state)

    # ------------------------------------------------------------------ what was read

    def _read_otherwise(self, sql: str, taken: Taken, ruled: Ruled) -> tuple[str, str] | None:
        mine = reading(sql, ruled.way.catalog)
        if mine is None:
            return None  # guarddb does not judge it, and refuses it
        everywhere = taken.tree.uses()
        if missed := missing(everywhere, mine.uses):
            return "a column is used, and guarddb does not see it", f"{sorted(missed)}"
        outputs = taken.tree.outputs()
        if mine.outputs is not None:
            if len(outputs) != len(mine.outputs):
                return "the number of columns", f"{len(outputs)}, and guarddb counts {len(mine.outputs)}"
            for number, (theirs, ours) in enumerate(zip(outputs, mine.outputs, strict=True)):
                if missed := missing(theirs, ours):
                    return (
                        "a column is in an output, and guarddb does not see it",
                        f"output {number}: {sorted(missed)}",
                    )
        printed = reading(taken.printed, ruled.way.catalog)
        if printed is None:
            return None
        if missed := missing(mine.certain, printed.uses):
            return "the print is read otherwise", f"only in the text: {sorted(missed)}"
        missed = missing(everywhere, printed.uses)
        if missed and isinstance(self.server.ask(taken.printed), Taken):
            # (Not every print is one that PostgreSQL would take: a row of an aliased join it takes apart.)
            return "a column of the print is used, and guarddb does not see it", f"{sorted(missed)}"
        return None

    def _may_be_refused(self, tree: Resolved, ruled: Ruled) -> bool:
        """Whether anything that the policy governs is in the statement."""
        if tree.functions() & self.refused_functions:
            return True
        governed = {relation for relation, _ in ruled.masks} | ruled.filtered | ruled.inlined
        for _, _, entry in tree.relations():
            if int(entry["relid"]) < _FIRST_USER_OID:
                return True
        used = {
            column
            for column in tree.uses()
            if column in ruled.masks or (column[1] == 0 and column[0] in governed)
        }
        filtered = {int(entry["relid"]) for _, _, entry in tree.relations()} & (
            ruled.filtered | ruled.inlined
        )
        return bool(used or filtered)

    # ------------------------------------------------------------------ what is sent

    def _exposed(self, tree: Resolved, ruled: Ruled) -> str | None:
        if tree.functions() & self.refused_functions:
            return "a refused function is called"
        problems: list[str] = []

        def visit(level: Level, node: Tree, above: tuple[Tree, ...]) -> None:
            joined = any(n["_"] == "VAR" for n in above) or node.get("varno") != node.get("varnosyn")
            above = tuple(n for n in above if n["_"] != "VAR")
            column = tree.base(node, level)
            if column is None and node["_"] == "VAR":
                column = tree.copy_of(node, level)
            if column is None:
                return
            if column[1] == 0:
                kinds = {kind for (relation, _), kind in ruled.masks.items() if relation == column[0]}
                if kinds:
                    problems.append(f"a whole row with {sorted(kinds)} columns is sent")
                return
            kind = ruled.masks.get(column)
            if kind == "hash" and any(n.get("funcid") == str(_SHA256) for n in above):
                return
            if _never_runs(above):
                return  # it stands there for the error that it makes, and has not made
            if (
                # (Beside a redacted column in a set operation a hashed one is redacted as well.)
                kind in ("redact", "hash")
                and not ruled.redacts_nulls
                # (The columns of an aliased join have the join's names, and only the masked one is sure to be there.)
                and (column not in self.not_null or joined)
                and _is_null_test(above)
            ):
                return
            if kind is not None:
                problems.append(f"a column under {kind} stands in what is sent")

        tree.walk(visit)
        for level, index, entry in tree.relations():
            relation = int(entry["relid"])
            if tree.is_proposed(level, index):
                continue
            if relation in ruled.inlined:
                problems.append("a view over a filtered relation stands in what is sent")
            if relation in ruled.filtered and not _is_filtered(level, index):
                problems.append("a filtered relation stands without its filter")
        return problems[0] if problems else None

    def _asked_for(self, given: Resolved, sent: Resolved, ruled: Ruled) -> set[BaseColumn]:
        """The columns that only the sent text selects, but for what a filter reads and what stands for a row being there."""
        before = given.selected()
        whole = {relation for relation, number in before if number == 0}
        return {
            (relation, number)
            for relation, number in sent.selected() - before
            if relation >= _FIRST_USER_OID
            and relation not in whole
            and not (relation in ruled.filtered and number == _TENANT)
            and not ((relation, number) in self.not_null and (relation, number) not in ruled.masks)
            # The definition of a view is read with the agent's rights where it stands in the view's place.
            and not any(int(entry["relid"]) in ruled.inlined for _, _, entry in given.relations())
        }

    not_null: frozenset[BaseColumn] = frozenset()


#: Utility statements around a query; BEGIN ATOMIC takes only what is inside.
WRAPPERS: tuple[tuple[str, str], ...] = (
    ("", ""), ("", ""), ("", ""), ("", ""),
    ("DECLARE k CURSOR FOR ", ""),
    ("COPY (", ") TO STDOUT"),
    ("PREPARE k AS ", ""),
    ("CREATE TEMP TABLE k AS ", ""),
    ("EXPLAIN ", ""),
)  # fmt: skip


def _inside(sent: str, before: str, after: str) -> str:
    """The query in a sent utility statement; a filter takes the estimates out of EXPLAIN."""
    if before == "EXPLAIN ":
        sent = sent.replace("EXPLAIN (COSTS OFF) ", "EXPLAIN ", 1)
    return sent.removeprefix(before).removesuffix(after)


def _is_null_test(above: tuple[Tree, ...]) -> bool:
    """`CASE WHEN column IS NOT NULL THEN constant END`, which tells that there is a value and nothing else."""
    if len(above) < 3:
        return False
    test, when, case = above[-1], above[-2], above[-3]
    if (
        test["_"] != "NULLTEST"
        or test["nulltesttype"] != "1"
        or when["_"] != "CASEWHEN"
        or case["_"] != "CASEEXPR"
    ):
        return False
    return len(case["args"]) == 1 and _is_constant(when["result"]) and _is_constant(case["defresult"])


def _never_runs(above: tuple[Tree, ...]) -> bool:
    """`CASE WHEN false AND … THEN NULL ELSE constant END`, of which PostgreSQL plans the constant."""
    return any(
        case["_"] == "CASEEXPR"
        and when["_"] == "CASEWHEN"
        and condition["_"] == "BOOLEXPR"
        and condition["boolop"] == "and"
        and condition["args"][0]["_"] == "CONST"
        and set(condition["args"][0]["constvalue"]) == {"0"}
        for case, when, condition in zip(above, above[1:], above[2:], strict=False)
    )


def _is_constant(node: Tree | None) -> bool:
    while node is not None and node["_"] in ("RELABELTYPE", "COERCETODOMAIN"):
        node = node["arg"]
    if node is not None and node["_"] == "FUNCEXPR":  # the length of a varchar(n)
        return all(_is_constant(argument) for argument in node["args"])
    return node is None or node["_"] == "CONST"


def _is_filtered(level: Level, index: int) -> bool:
    query = level.query
    if query["commandType"] == "3" and query["resultRelation"] == str(index):
        return True  # what INSERT writes is checked, not filtered
    conditions: list[Tree | None] = [query["jointree"]["quals"], query.get("mergeJoinCondition")]
    stack = list(query["jointree"]["fromlist"] or ())
    while stack:
        node = stack.pop()
        if node["_"] == "JOINEXPR":
            stack += [node["larg"], node["rarg"]]
            kind = node["jointype"]
            left = index in _indexes(node["larg"])
            right = index in _indexes(node["rarg"])
            if (kind == "0" and (left or right)) or (kind == "1" and right) or (kind == "3" and left):
                conditions.append(node["quals"])
    while conditions:
        condition = conditions.pop()
        if condition is None:
            continue
        if condition["_"] == "BOOLEXPR" and condition["boolop"] == "and":
            conditions += condition["args"]
        elif condition["_"] == "OPEXPR" and condition["opfuncid"] == str(_INT4EQ):
            left_, right_ = condition["args"]
            if (
                left_["_"] == "VAR"
                and left_["varno"] == str(index)
                and left_["varattno"] == "2"
                and right_["_"] == "CONST"
            ):
                return True
    return False


def _indexes(node: Tree) -> set[int]:
    if node["_"] == "RANGETBLREF":
        return {int(node["rtindex"])}
    return _indexes(node["larg"]) | _indexes(node["rarg"])


# ---------------------------------------------------------------------- what guarddb reads


@dataclass
class Reading:
    """The base columns that guarddb finds: in each output (None where their number is not known), and anywhere."""

    outputs: list[set[BaseColumn]] | None
    uses: set[BaseColumn]
    #: what is not counted only because it might be meant
    certain: set[BaseColumn]


def reading(sql: str, catalog: Catalog) -> Reading | None:
    try:
        statement = read_statement(parse(sql)[0], catalog, {"prepared": {}, "portals": {}})
    except Exception:  # whatever it is: decide() says what it makes of it
        return None
    links: list[Link] = [link for root in statement.roots for link, _ in root.uses]
    links += [link for query in statement.queries for o in query.outputs for link in (*o.links, *o.opaque)]
    links += [(reference, "*") for _, reference, _ in statement.row_counts]
    uses = {column for link in links for column in _columns([link])}
    outputs = _outputs(statement)
    return Reading(outputs, uses, set())


def _outputs(statement: Statement) -> list[set[BaseColumn]] | None:
    if statement.top is None:
        return None
    if any(o.open is not None for o in statement.top.outputs):
        return None
    return [_columns([output]) for output in statement.top.outputs]


def _columns(links: list[Link]) -> set[BaseColumn]:
    found: set[BaseColumn] = set()
    seen: set[int] = set()
    stack = list(links)
    while stack:
        link = stack.pop()
        if isinstance(link, Output):
            if id(link) not in seen:
                seen.add(id(link))
                stack += [*link.links, *link.opaque]
                if link.root is not None:
                    stack += [use for use, _ in link.root.uses]
            continue
        reference, name = link
        relation = reference.relation
        if relation is None:
            continue
        numbers = {a.name: a.number for a in relation.attributes}
        if name == "*" or name not in {**numbers, **_SYSTEM_NUMBERS}:
            found.add((relation.oid, 0))
        else:
            found.add((relation.oid, numbers.get(name, _SYSTEM_NUMBERS.get(name, 0))))
    return found


def missing(theirs: set[BaseColumn], ours: set[BaseColumn]) -> set[BaseColumn]:
    """The columns of users' relations that are in one reading and not in the other; a whole row holds each of its columns."""
    return {
        column
        for column in theirs
        if column[0] >= _FIRST_USER_OID and column not in ours and (column[0], 0) not in ours
    }


# ---------------------------------------------------------------------- the profiles

PROFILES: Mapping[str, Mapping[str, object]] = {
    "null": {
        "masks": {
            "customers.ssn": "null",
            "customers.addr": "null",
            "customers.name": "null",
            "parts.ssn": "null",
        }
    },
    "redact": {
        "masks": {
            "customers.ssn": "redact",
            "customers.email": "redact",
            "customers.code": "redact",
            "customers.born": "redact",
            "parts.ssn": "redact",
            "plain.raw": "redact",
        }
    },
    "redact nulls": {
        "masks": {"customers.ssn": "redact", "customers.name": "redact", "parts.ssn": "redact"},
        "guarddb": {"redact_nulls": True},
    },
    "hash": {
        "masks": {
            "customers.ssn": "hash",
            "customers.score": "hash",
            "customers.email": "hash",
            "docs.note": "null",
        }
    },
    "filter": {"masks": {}, "filters": {"docs": "tenant = 1"}},
    "both": {
        "masks": {"customers.ssn": "null", "docs.name": "redact", "docs.note": "null"},
        "filters": {"docs": "tenant = 1"},
    },
    "hash and filter": {
        "masks": {"docs.name": "hash", "docs.note": "hash", "docs.owner": "hash", "customers.email": "hash"},
        "filters": {"docs": "tenant = 1"},
    },
}
ALLOWED_FUNCTIONS = ("one_pair", "some_plain", "named", "email")


def _profile(name: str) -> PolicyProfile:
    given = PROFILES[name]
    masks: Mapping[str, str] = given.get("masks", {})  # type: ignore[assignment]
    filters: Mapping[str, str] = given.get("filters", {})  # type: ignore[assignment]
    return PolicyProfile.model_validate(
        {
            "name": name,
            "access_mode": "read_write",
            "statement_rules": {
                "allow": ["select", "insert", "update", "delete", "ddl", "copy", "explain", "set", "show"]
            },
            "masking_rules": [
                {"table": place.split(".")[0], "column": place.split(".")[1], "kind": kind}
                for place, kind in masks.items()
            ],
            "row_filters": [{"table": table, "predicate": predicate} for table, predicate in filters.items()],
            "guarddb": {
                "function_allowlist": list(ALLOWED_FUNCTIONS),
                "floor_exceptions": ["whereless_write"],
                **given.get("guarddb", {}),  # type: ignore[dict-item]
            },
        }
    )


class _Columns:
    """The columns of the database by the server's numbers, and what masks make of those that are made of others."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self.numbers: dict[tuple[str, str], BaseColumn] = {}
        self.not_null: set[BaseColumn] = set()
        for relation, oid, column, number, not_null in conn.execute(
            "SELECT c.relname, c.oid::int, a.attname, a.attnum, a.attnotnull "
            "FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
            "WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND c.relkind IN ('r', 'p', 'v')"
        ):
            self.numbers[relation, column] = (oid, number)
            if not_null:
                self.not_null.add((oid, number))
        self.children = conn.execute("SELECT inhparent::int, inhrelid::int FROM pg_inherits").fetchall()
        self.views = [
            (oid, Resolved(action))
            for oid, action in conn.execute(
                "SELECT ev_class::int, ev_action::text FROM pg_rewrite "
                "WHERE rulename = '_RETURN' AND ev_class >= 16384 ORDER BY ev_class"
            )
        ]
        self.generated = [
            ((oid, number), read(expression))
            for oid, number, expression in conn.execute(
                "SELECT d.adrelid::int, d.adnum, d.adbin::text FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid "
                "AND a.attnum = d.adnum WHERE a.attgenerated <> ''"
            )
        ]

    def masks(self, given: Mapping[str, str]) -> dict[BaseColumn, str]:
        found: dict[BaseColumn, str] = {}
        for place, kind in given.items():
            relation, column = place.split(".")
            found[self.numbers[relation, column]] = kind
        for (oid, number), expression in self.generated:
            kinds = {found[oid, n] for n in _numbers(expression) if (oid, n) in found}
            if kinds:
                found[oid, number] = "null" if "null" in kinds else "redact"
        for parent, child in self.children:
            for (oid, number), kind in list(found.items()):
                if oid == parent:
                    name = next(
                        column for (_, column), place in self.numbers.items() if place == (oid, number)
                    )
                    below = [p for (_, column), p in self.numbers.items() if column == name and p[0] == child]
                    found.update(dict.fromkeys(below, kind))
        for view, tree in self.views:
            for number, (made_of, copy) in enumerate(zip(tree.outputs(), tree.bare(), strict=True), 1):
                kinds = {found[c] for c in made_of if c in found}
                if kinds:
                    found[view, number] = (
                        found[copy] if copy in found else max(kinds, key=_STRENGTH.index) if copy else "null"
                    )
        return found

    def over(self, filtered: set[int]) -> frozenset[int]:
        """The views that read one of these."""
        found: set[int] = set()
        for view, tree in self.views:
            if any(int(entry["relid"]) in filtered | found for _, _, entry in tree.relations()):
                found.add(view)
        return frozenset(found)


def _numbers(tree: object) -> set[int]:
    found: set[int] = set()
    stack: list[object] = [tree]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack += value
        elif isinstance(value, dict):
            if value.get("_") == "VAR":
                found.add(int(value["varattno"]))
            stack += value.values()
    return found


@contextmanager
def analyzer_oracle(server: str) -> Iterator[AnalyzerOracle]:
    make_roles(server)
    with database(server, "oracle_names", schema=SCHEMA_SQL) as dsn:
        analyzer = Analyzer(dsn)
        try:
            yield oracle_of(analyzer)
        finally:
            analyzer.conn.close()


def oracle_of(analyzer: Analyzer) -> AnalyzerOracle:
    conn = analyzer.conn
    rules = [
        ruled(analyzer, name, _profile(name), given.get("masks", {}), given.get("filters", {}))  # type: ignore[arg-type]
        for name, given in PROFILES.items()
    ]
    refused = {
        oid
        for (oid,) in conn.execute(
            "SELECT oid::int FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname <> ALL (%s)",
            [list(ALLOWED_FUNCTIONS)],
        )
    }
    oracle = AnalyzerOracle(analyzer, rules, refused)
    oracle.not_null = frozenset(_Columns(conn).not_null)
    return oracle


def ruled(
    analyzer: Analyzer,
    name: str,
    profile: PolicyProfile,
    masks: Mapping[str, str],
    filters: Collection[str],
) -> Ruled:
    """A profile over the analyzer's database. `masks`: `table.column` -> kind; `filters`: tables with `tenant = 1`."""
    columns = _Columns(analyzer.conn)
    filtered = {columns.numbers[table, "id"][0] for table in filters}
    filtered |= {child for parent, child in columns.children if parent in filtered}
    return Ruled(
        name,
        profile,
        columns.masks(masks),
        frozenset(filtered),
        columns.over(filtered),
        profile.guarddb.redact_nulls,
        EngineWay(profile, Catalog.from_connection(analyzer.conn), None),
    )


def corpus_oracle(
    analyzer: Analyzer, profile: PolicyProfile, masks: Mapping[str, str], filters: Collection[str]
) -> AnalyzerOracle:
    """The same questions about statements that were not generated."""
    oracle = AnalyzerOracle(analyzer, [ruled(analyzer, profile.name, profile, masks, filters)], set())
    oracle.not_null = frozenset(_Columns(analyzer.conn).not_null)
    return oracle


__all__ = ["Analyzer", "AnalyzerOracle", "analyzer_oracle", "corpus_oracle", "kind_of", "oracle_of"]
