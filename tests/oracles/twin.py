"""The twin: PostgreSQL itself with the policy compiled into it, which shares no line with our reading of SQL.

Every statement goes two ways: through guarddb over the base tables, and as it is, by plain libpq, through the wall's role. Rows,
tag, description, what the tables hold afterwards and the class of an error agree; or the difference is in the table below, each
with its reason.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import NamedTuple

import psycopg
from psycopg import sql as composed

from guarddb import Catalog, MaskingRule, PolicyProfile, RowFilter
from guarddb.cli.live_wall import read_wall
from guarddb.wall import apply_script
from tests.oracles.draws import Draws
from tests.oracles.generator import generate
from tests.oracles.grammar import Generated, Grammar
from tests.oracles.masks import MaskOracle
from tests.oracles.result import Verdict, general
from tests.oracles.rls import compared, invalid, said
from tests.oracles.schema import (
    ADMITTED_FUNCTIONS,
    FILTERED_TABLES,
    FILTERS,
    MASKINGS,
    PLANNERS,
    SETTINGS,
    Filter,
    Masking,
    tables,
)
from tests.oracles.server import Outcome, Side, database, delete_hidden, make_roles
from tests.oracles.ways import Answer, EngineWay, LiveWay, Way


class Difference(NamedTuple):
    """A difference that is PostgreSQL's: what the wall answers (`SQLSTATE message`) matches, and the statement does."""

    name: str
    wall: str
    statement: str
    reason: str


#: What the wall refuses and guarddb does not.
WALL_REFUSES = (
    Difference(
        "system column",
        r'42703 column "?(\w+\.)?(ctid|xmin|tableoid)"? does not exist|42703 .*(ctid|tableoid|xmin)',
        r"ctid|tableoid|xmin",
        "a view has no system columns",
    ),
    Difference(
        "sample",
        r"0A000 TABLESAMPLE clause can only be applied to tables and materialized views",
        r"TABLESAMPLE",
        "PostgreSQL samples tables, and a view is none",
    ),
    Difference(
        "primary key",
        r"42803 (column .* must appear in the GROUP BY clause or be used in an aggregate function|"
        r"subquery uses ungrouped column)",
        r"GROUP BY",
        "a view has no primary key that the other columns depend on",
    ),
    Difference(
        "masked column written",
        r'(55000|0A000|42501) (cannot (insert into|update|merge into) column|permission denied for view)',
        r"INSERT|UPDATE|MERGE|DELETE",
        "a masked column is an expression in the view; a table with masks and triggers is read only",
    ),
    Difference(
        "conflict on a masked column",
        r"0A000 ON CONFLICT",
        r"ON CONFLICT",
        "a view has no constraints to be named",
    ),
    Difference(
        "locks",
        r"42501 permission denied for view",
        r"FOR (NO KEY )?(UPDATE|SHARE)|FOR KEY SHARE",
        "a lock takes the right to update, and the view's owner has it for what may be written only",
    ),
    Difference(
        "merge before 17",
        r"(42809|0A000) cannot execute MERGE on relation",
        r"MERGE",
        "PostgreSQL merges into views from version 17 on",
    ),
    Difference(
        "row type",
        r"(42846|42804|42883|42P18|42725) ",
        r"",
        "the row of a view is of the view's type, and a hash is a text whatever the column was",
    ),
)  # fmt: skip

#: What PostgreSQL refuses by name and guarddb answers with NULL, which tells nothing and is not what it should say.
GUARDDB_ANSWERS = (
    Difference(
        "name under a mask",
        r"42702 column reference|42P01 missing FROM-clause entry for table \"(old|new)\"",
        r"",
        "NULL stands in place of a masked column, so the server does not see that its name is ambiguous or unknown",
    ),
)

#: Where both answer, and differently.
ANSWERS_DIFFER = (
    Difference(
        "branch of a union",
        "",
        r"\bUNION ALL\b",
        "guarddb masks an output where any branch of the union has a masked column",
    ),
)


#: A view does not pass ONLY on: what a parent has without its children is another view.
_OF_PARENT = re.compile(
    r"\bONLY (?:public\.)?(base|evt)\b"
    r"(?=(?P<bare>\s*(?:$|[,);]|(?:WHERE|SET|JOIN|LEFT|RIGHT|FULL|CROSS|NATURAL|INNER|ON|USING|GROUP|ORDER|LIMIT|RETURNING|WHEN|FOR"
    r"|FETCH|OFFSET|HAVING|WINDOW|UNION|EXCEPT|INTERSECT|TABLESAMPLE)\b))?)"
)


def through_wall(text: str, schema: str) -> str:
    """A statement as it is written to the wall alone."""

    def other(found: re.Match[str]) -> str:
        return f"{schema}.{found[1]}_only" + (f" AS {found[1]}" if found["bare"] is not None else "")

    return _OF_PARENT.sub(other, text).replace("public.", f"{schema}.")


#: Roles are the server's, and several oracles may be open.
_numbers = count()


class Set(NamedTuple):
    masking: Masking | None
    filter: Filter | None
    grammar: Grammar
    way: Way
    wall: Side
    schema: str


class TwinOracle:
    """Compares one statement at a time. The statement's number picks masks and filter."""

    name = "twin"

    def __init__(self, sets: list[Set]) -> None:
        self.sets = sets

    def make(self, draws: Draws, number: int) -> Generated:
        return generate(draws, self.grammar_for(number))

    def grammar_for(self, number: int) -> Grammar:
        return self.sets[number % len(self.sets)].grammar

    def place(self, number: int) -> str:
        chosen = self.sets[number % len(self.sets)]
        return (
            f"masks {chosen.masking and chosen.masking.name}, filter {chosen.filter and chosen.filter.name}"
        )

    def check(self, generated: Generated, number: int) -> Verdict:
        chosen = self.sets[number % len(self.sets)]
        answer = chosen.way.ask(generated)
        text = through_wall(generated.sql, chosen.schema)
        wall = chosen.wall.run(text, generated.params, writes=generated.writes)
        if answer.outcome is None:
            return self.refused(generated, answer, wall)
        got = answer.outcome
        if wall.slow or got.slow:
            return Verdict("slow")
        if invalid(wall) and invalid(got):
            return Verdict("invalid", wall.message)
        settle(generated, wall, got)
        different = compared(wall, got, ordered=generated.ordered)
        if different is None:
            return Verdict("error" if got.state else "same")
        for known in (*WALL_REFUSES, *GUARDDB_ANSWERS) if wall.state else ANSWERS_DIFFER:
            if re.match(known.wall, f"{wall.state} {wall.message}") and re.search(known.statement, text):
                return Verdict("reviewed", known.name)
        return self.excused(generated, answer, wall, different)

    @staticmethod
    def refused(generated: Generated, answer: Answer, wall: Outcome) -> Verdict:
        """guarddb refuses. The wall may answer: with masks, or as row security does."""
        if invalid(wall):
            return Verdict("invalid", wall.message)
        if answer.rule in ("internal_error", "parse_error"):
            return Verdict("mismatch", f"{answer.rule}: {answer.fault}", answer.reason)
        if generated.misuses:
            return Verdict("refused", answer.rule)
        return Verdict("blocked", f"{answer.rule}: {general(answer.reason)}", answer.reason)

    @staticmethod
    def excused(generated: Generated, answer: Answer, wall: Outcome, different: str) -> Verdict:
        """What is left to the plan: which of two errors comes first, and whether one comes at all."""
        got = answer.outcome
        assert got is not None
        if wall.state == "42501" and got.state[:2] == "23":
            return Verdict(
                "plan"
            )  # WITH CHECK is asked before the constraints; nothing is written either way
        if wall.state == "42501" and "DO NOTHING" in generated.sql and not got.state:
            return Verdict("plan")  # and before the index finds that the row conflicts and is not written
        if (
            got.state == "42501"
            and "DO UPDATE" in generated.sql
            and (not wall.state or wall.state[:2] == "22")
        ):
            return Verdict(
                "plan"
            )  # PostgreSQL asks DO UPDATE … WHERE before it asks whether the row may be seen
        if generated.dirty and "22" in (wall.state[:2], got.state[:2]):
            return Verdict("plan")
        return Verdict("mismatch", different, said(answer, wall))


def settle(generated: Generated, wall: Outcome, got: Outcome) -> None:
    """Where the rules say NULL whatever the value is; and a view's row is of another type than its table's."""
    cols = generated.cols or []
    MaskOracle.nulled(generated, wall)
    if len(cols) == len(got.types) == len(wall.types):
        for outcome in (wall, got):
            outcome.types = tuple(
                0 if c.type == "record" or c.mask == "null!" else t
                for c, t in zip(cols, outcome.types, strict=True)
            )


def profile(
    name: str, masking: Masking | None, row_filter: Filter | None, *, behind: bool = False
) -> PolicyProfile:
    masks = masking.masks if masking is not None else {}
    rules = []
    for place, kind in masks.items():
        table, column = place.split(".")
        rules.append(MaskingRule(table=table, column=column, kind=kind))
    filters = (
        []
        if row_filter is None
        else [RowFilter(table=t, predicate=row_filter.policy(t)) for t in FILTERED_TABLES]
    )
    return PolicyProfile(
        name=name,
        access_mode="read_write",
        masking_rules=rules,
        row_filters=filters,
        # The oracle itself reads what the tables hold.
        guarddb={
            "function_allowlist": ["admin.contents", *ADMITTED_FUNCTIONS],
            "wall": f"{name}_wall" if behind else None,
        },
    )


def build(dsn: str, policy: PolicyProfile) -> str:
    """Put the wall up for the role agent; its schema."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        live = read_wall(conn, policy, "agent", SETTINGS)
        assert live is not None
        assert not live.wall.carried.left_out
        conn.execute(apply_script(live.wall, live.rights).encode())
        conn.execute("ALTER FUNCTION admin.contents() SET search_path = public")
        return live.wall.names.schema


class BehindWallOracle(TwinOracle):
    """guarddb behind the wall, which writes names only, and the wall itself: what is not refused is the same to the letter."""

    name = "walled"

    def check(self, generated: Generated, number: int) -> Verdict:
        chosen = self.sets[number % len(self.sets)]
        answer = chosen.way.ask(generated)
        text = through_wall(generated.sql, chosen.schema)
        wall = chosen.wall.run(text, generated.params, writes=generated.writes)
        got = answer.outcome
        if got is None:
            return self.refused(generated, answer, wall)
        if wall.slow or got.slow:
            return Verdict("slow")
        different = compared(wall, got, ordered=generated.ordered)
        if different is not None:
            return Verdict("mismatch", different, said(answer, wall))
        if invalid(wall):
            return Verdict("invalid", wall.message)
        return Verdict("error" if got.state else "same")


@contextmanager
def behind_wall_oracle(server: str, *, live: bool = True) -> Iterator[TwinOracle]:
    """guarddb behind the wall; its connections are always whole ones."""
    with twin_oracle(server, live=live, behind=True) as oracle:
        yield oracle


@contextmanager
def twin_oracle(server: str, *, live: bool = False, behind: bool = False) -> Iterator[TwinOracle]:
    """The oracle, over the engine alone or over guarded connections, on the tables or `behind` the wall."""
    make_roles(server)
    stem = f"twin_{os.getpid()}_{next(_numbers)}"
    with ExitStack() as roles, ExitStack() as stack:
        roles.callback(drop_roles, server, stem)
        dsn = stack.enter_context(database(server, "twin"))
        with psycopg.connect(dsn, autocommit=True) as conn:
            template = conn.info.dbname
        choices: list[tuple[Masking | None, Filter | None]] = [(None, f) for f in FILTERS]
        choices += [(m, None) for m in MASKINGS]
        choices += [(m, f) for m, f in zip((*MASKINGS, *MASKINGS), FILTERS, strict=False)]
        # Without a filter nothing is hidden, so nothing may raise.
        bare = stack.enter_context(database(server, "twin_bare", template=template))
        delete_hidden(bare, FILTERS[1])
        with psycopg.connect(bare, autocommit=True) as conn:
            bare_template = conn.info.dbname
        walled = []
        for i, (masking, row_filter) in enumerate(choices):
            policy = profile(f"{stem}_{i}", masking, row_filter, behind=behind)
            copy = stack.enter_context(
                database(server, "twin_wall", template=template if row_filter else bare_template)
            )
            walled.append((masking, row_filter, policy, copy, build(copy, policy)))
        catalog: Catalog | None = None
        sets = []
        for i, (masking, row_filter, policy, copy, schema) in enumerate(walled):
            planner = PLANNERS[i % len(PLANNERS)]
            way: Way
            if behind:
                way = LiveWay(copy, policy, SETTINGS, planner)
            elif live:
                way = LiveWay(dsn if row_filter else bare, policy, SETTINGS, planner)
            else:
                base = Side(dsn if row_filter else bare, planner)
                catalog = catalog or Catalog.from_connection(base.conn)
                way = EngineWay(policy, catalog, base, SETTINGS)
            wall = Side(copy, {"search_path": f"{schema}, public"})
            for each in (way, wall):
                stack.callback(each.close)
            grammar = Grammar(tables(masking.masks if masking else {}), writes=25, misuse=0.4, dirty=3)
            sets.append(Set(masking, row_filter, grammar, way, wall, schema))
        yield (BehindWallOracle if behind else TwinOracle)(sets)


def drop_roles(server: str, stem: str) -> None:
    with psycopg.connect(server, autocommit=True) as conn:
        pattern = stem.replace("_", r"\_") + r"\_%"
        for (role,) in conn.execute(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE %s", (pattern,)
        ).fetchall():
            conn.execute(composed.SQL("DROP ROLE {}").format(composed.Identifier(role)))
