"""Oracle 1: PostgreSQL's own row security with the same predicate, and the same database without the hidden rows.

One text goes two ways: through guarddb to a database without row security, and as it is to a copy with it. Rows, command
tag, description, what the tables hold afterwards and the class of an error must agree. Reads are also compared with a
copy from which the hidden rows were deleted, for what row security itself is known to get wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg

from guarddb import Catalog, PolicyProfile, RowFilter
from tests.oracles.draws import Draws
from tests.oracles.generator import generate
from tests.oracles.grammar import Generated, Grammar
from tests.oracles.result import Verdict, general
from tests.oracles.schema import (
    ADMITTED_FUNCTIONS,
    FILTERED_TABLES,
    FILTERS,
    PLANNERS,
    SETTINGS,
    Filter,
    tables,
)
from tests.oracles.server import Outcome, Side, database, delete_hidden, make_roles, secure
from tests.oracles.ways import Answer, EngineWay, LiveWay, Way

_RECORD = 2249


def profile(row_filter: Filter) -> PolicyProfile:
    return PolicyProfile(
        name=row_filter.name,
        access_mode="read_write",
        row_filters=[RowFilter(table=t, predicate=row_filter.policy(t)) for t in FILTERED_TABLES],
        guarddb={"function_allowlist": list(ADMITTED_FUNCTIONS)},
    )


class RlsOracle:
    """Compares one statement at a time. The statement's number picks the filter."""

    name = "rls"

    def __init__(self, filters: list[tuple[Filter, Way, Side, Side]], initial: str) -> None:
        self.filters = filters
        self.grammar = Grammar(tables())
        self.initial = initial

    def make(self, draws: Draws, number: int) -> Generated:
        return generate(draws, self.grammar_for(number))

    def grammar_for(self, number: int) -> Grammar:
        return self.grammar

    def place(self, number: int) -> str:
        return f"filter {self.filters[number % len(self.filters)][0].name}"

    def check(self, generated: Generated, number: int) -> Verdict:
        _, way, native, without = self.filters[number % len(self.filters)]
        answer = way.ask(generated)
        expected = native.run(generated.sql, generated.params, writes=generated.writes)
        if answer.outcome is None:
            if invalid(expected):
                return Verdict("invalid", expected.message)
            if answer.rule in ("internal_error", "parse_error"):
                return Verdict("mismatch", f"{answer.rule}: {answer.fault}", answer.reason)
            return Verdict("blocked", f"{answer.rule}: {general(answer.reason)}", answer.reason)
        got = answer.outcome
        if expected.slow or got.slow:
            return Verdict("slow")
        difference = self.difference(generated, answer, expected, got, without, verbatim=way.verbatim)
        if difference is not None:
            return difference
        if expected.state:
            return Verdict("invalid", expected.message) if invalid(expected) else Verdict("error")
        if not generated.writes:
            bare = without.run(generated.sql, generated.params)
            different = compared(bare, got, ordered=generated.ordered)
            if different is not None and not bare.state:
                return Verdict("mismatch", f"deleted copy: {different}", said(answer, bare))
        return Verdict("same")

    def stays_inside(self, got: Outcome) -> bool:
        """Whether no hidden row was written: tenant is the second column, and 2 and NULL are never shown."""

        def hidden(contents: str) -> set[str]:
            return {
                r for r in contents.splitlines() if not r.startswith("tag") and r.split(",")[1] in ("", "2")
            }

        return hidden(got.contents) <= hidden(self.initial)

    def difference(
        self,
        generated: Generated,
        answer: Answer,
        expected: Outcome,
        got: Outcome,
        without: Side,
        *,
        verbatim: bool,
    ) -> Verdict | None:
        different = compared(expected, got, ordered=generated.ordered)
        if different is None:
            return None
        if invalid(expected) and invalid(got):
            return Verdict("invalid", expected.message)

        def there(sql: str) -> Outcome:
            """What a text does where there are no hidden rows."""
            return without.run(sql or generated.sql, generated.params, writes=generated.writes)

        if expected.state == "42501" and got.state[:2] == "23":
            # PostgreSQL asks WITH CHECK before the constraints and the unique index, guarddb after the row is made. Nothing
            # is written either way, and the same row with an admitted tenant is told the same.
            return Verdict("plan")
        leaked = not expected.state or expected.state[:2] == "22"
        if got.state == "42501" and leaked and "DO UPDATE" in generated.sql:
            # PostgreSQL runs DO UPDATE … WHERE on a conflicting row before it asks whether that row may be seen, and says
            # nothing when it is false: the agent's condition has then run on a hidden row, and raised there if it can.
            # guarddb asks first. Without hidden rows there is nothing to refuse, or what a trigger makes of a row has left the
            # filter and is refused whatever is hidden.
            bare = there(generated.sql)
            if not bare.state and (expected.state or self.stays_inside(bare)):
                return Verdict("plan")
        if (
            expected.state == "42501"
            and "DO NOTHING" in generated.sql
            and re.search(r"INTO (public\.)?item\b", generated.sql)
        ):
            # Its BEFORE trigger moves rows out of the filter, and what a trigger makes of a row guarddb sees when it is written.
            if not got.state and self.stays_inside(got):
                return Verdict("plan")
        if got.state and got.state != "42501":
            # Which conditions run on a visible row, and in which order, PostgreSQL leaves to the plan. An error is no
            # more than that when the text raises it also where there are no hidden rows.
            bare = there(answer.sent)
            same = bare.state == got.state and (bare.message == got.message or not verbatim)
            if same and (generated.dirty or expected.state):
                return Verdict("plan")
        elif expected.state[:2] == "22":
            bare = there(generated.sql)
            if bare.state == expected.state and bare.message == expected.message:
                return Verdict("plan")
            if not generated.writes and compared(bare, got, ordered=generated.ordered) is None:
                return Verdict("plan")
        return Verdict("mismatch", different, said(answer, expected))


def invalid(outcome: Outcome) -> bool:
    """Whether PostgreSQL refuses the text itself. No row that may be seen raises an error of this class."""
    return outcome.state[:2] == "42" and outcome.state != "42501"


def compared(expected: Outcome, got: Outcome, *, ordered: bool) -> str | None:
    """How two outcomes differ, or None."""
    if expected.state or got.state:
        if expected.state == got.state or (
            expected.state[:2] == got.state[:2] and expected.state != "42501" != got.state
        ):
            return None
        return f"{expected.state or 'runs'} expected, {got.state or 'runs'} came"
    if expected.names != got.names:
        return "column names"
    if any(
        mine != theirs and theirs != _RECORD for mine, theirs in zip(expected.types, got.types, strict=True)
    ):
        # A whole row of what had to become a subquery is of type record; the value is the same.
        return "column types"
    if expected.command != got.command:
        return "command tag"
    if expected.contents != got.contents:
        return "what the tables hold"
    if expected.rows != got.rows and (ordered or expected.multiset != got.multiset):
        return "order of rows" if expected.multiset == got.multiset else "rows"
    return None


def said(answer: Answer, expected: Outcome) -> str:
    came = answer.outcome.shown() if answer.outcome is not None else f"refused: {answer.reason}"
    return f"sent: {answer.sent}\nexpected: {expected.shown()}\ncame:     {came}"


@contextmanager
def rls_oracle(server: str, *, live: bool = False) -> Iterator[RlsOracle]:
    """The oracle, over the engine alone or over guarded connections."""
    make_roles(server)
    with ExitStack() as stack:
        dsn = stack.enter_context(database(server, "oracle"))
        with psycopg.connect(dsn, autocommit=True) as conn:
            name = conn.info.dbname
        copies = []
        for row_filter in FILTERS:
            # All copies before the first connection that stays: only an idle database can be copied.
            native = stack.enter_context(database(server, "oracle_rls", template=name))
            secure(native, row_filter)
            without = stack.enter_context(database(server, "oracle_without", template=name))
            delete_hidden(without, row_filter)
            copies.append((row_filter, native, without))
        raw = Side(dsn)
        stack.callback(raw.close)
        catalog = Catalog.from_connection(raw.conn)
        filters = []
        for (row_filter, native, without), planner in zip(copies, PLANNERS, strict=True):
            policy = profile(row_filter)
            way: Way
            if live:
                way = LiveWay(dsn, policy, SETTINGS, planner)
            else:
                way = EngineWay(policy, catalog, Side(dsn, planner), SETTINGS)
            sides = [Side(native, SETTINGS), Side(without, SETTINGS)]
            for each in (way, *sides):
                stack.callback(each.close)
            filters.append((row_filter, way, *sides))
        yield RlsOracle(filters, raw.run("SELECT 1", (), writes=True).contents)
