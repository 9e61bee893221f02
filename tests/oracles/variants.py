"""Oracle 3 of the list: two databases that differ only in what the agent may not know.

Hidden rows have other values and there are more of them; masked values are others, and where the mask is NULL also others are
NULL. Every statement, well-meant or not, must look the same on both: rows, tag, description, notices, and an error to its
last letter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg

from guarddb import Catalog, PolicyProfile, RowFilter
from tests.fix_server import temporary_database
from tests.oracles.draws import Draws
from tests.oracles.generator import generate
from tests.oracles.grammar import Generated, Grammar
from tests.oracles.masks import grammar_of, profile as masks_of, without_hashes
from tests.oracles.result import Verdict
from tests.oracles.rls import invalid
from tests.oracles.schema import (
    FILTERED_TABLES,
    FILTERS,
    MASKINGS,
    PLANNERS,
    SETTINGS,
    Filter,
    Masking,
    more_rows_sql,
    rows_sql,
)
from tests.oracles.server import Outcome, Side, database, fill, make_roles
from tests.oracles.ways import EngineWay, LiveWay, Way


def profile(masking: Masking, row_filter: Filter) -> PolicyProfile:
    return masks_of(masking).model_copy(
        update={"row_filters": [RowFilter(table=t, predicate=row_filter.policy(t)) for t in FILTERED_TABLES]}
    )


def other_values_sql(masking: Masking, variant: int, *, fixed: str = "") -> str:
    """Give masked columns other values in variant 1, and move the same rows in variant 0. `fixed`: a column that stays."""
    statements = []
    for place, kind in masking.masks.items():
        table, column = place.split(".")
        other = {
            "name": "coalesce(name, '4') || '7'",
            "label": "coalesce(label, 'x') || 'y'",
            "n": "coalesce(n, 4) % 1000 + 11",
            "d": "coalesce(d, date '2001-01-01') + 400",
        }[column]
        if kind == "redact" and column in ("name", "label"):
            # [redacted] shows that there is a value.
            other = f"CASE WHEN {column} IS NOT NULL THEN {other} END"
        else:
            other = f"CASE WHEN {column} IS NULL OR id % 4 > 0 THEN {other} END"
        statements.append(
            f"UPDATE {table} SET {column} = {other if variant and column != fixed else column};"
        )
    return "\n".join(statements)


class VariantsOracle:
    name = "variants"

    def __init__(self, sets: list[tuple[Masking, Filter, Grammar, Way, Way]]) -> None:
        self.sets = sets

    def make(self, draws: Draws, number: int) -> Generated:
        return generate(draws, self.grammar_for(number))

    def grammar_for(self, number: int) -> Grammar:
        return self.sets[number % len(self.sets)][2]

    def place(self, number: int) -> str:
        masking, row_filter = self.sets[number % len(self.sets)][:2]
        return f"masks {masking.name}, filter {row_filter.name}"

    def check(self, generated: Generated, number: int) -> Verdict:
        _, _, _, one, other = self.sets[number % len(self.sets)]
        first, second = one.ask(generated), other.ask(generated)
        if (first.rule, first.reason) != (second.rule, second.reason):
            return Verdict("mismatch", "the refusal", f"one:   {first.reason}\nother: {second.reason}")
        if first.outcome is None or second.outcome is None:
            # Nothing was sent, so nothing was seen; whether it had to be refused is for the other oracles.
            return Verdict("refused", f"internal_error: {first.fault}" if first.fault else first.rule)
        if first.outcome.slow or second.outcome.slow:
            return Verdict("slow")
        different = seen(first.outcome, second.outcome, ordered=generated.ordered)
        if different is not None:
            detail = f"sent: {first.sent}\none:   {first.outcome.shown()}\nother: {second.outcome.shown()}"
            return Verdict("mismatch", different, detail)
        if invalid(first.outcome):
            return Verdict("invalid", first.outcome.message)
        return Verdict("error" if first.outcome.state else "same")


def seen(one: Outcome, other: Outcome, *, ordered: bool) -> str | None:
    """How two outcomes differ for who may see everything but the contents of the tables."""
    for what in ("state", "message", "detail", "command", "names", "types", "notices"):
        if what == "detail" and one.state[:2] == other.state[:2] == "23":
            # Which row of several violates a constraint first is the plan's; the driver cuts this DETAIL, which the text alone
            # cannot. Live runs compare what is left of it.
            one_detail, other_detail = (
                (one.detail, other.detail) if not (one.detail and other.detail) else ("", "")
            )
            if one_detail == other_detail:
                continue
        if getattr(one, what) != getattr(other, what):
            return f"{what} ({one.state or 'runs'}, {other.state or 'runs'})"
    if one.rows != other.rows and (ordered or one.multiset != other.multiset):
        return "rows"
    return None


@contextmanager
def variants_oracle(server: str, *, live: bool = False) -> Iterator[VariantsOracle]:
    make_roles(server)
    with ExitStack() as stack:
        empty = stack.enter_context(temporary_database(server, "oracle_empty"))
        with psycopg.connect(empty, autocommit=True) as conn:
            fill(conn, rows=False)
            template = conn.info.dbname
        sets = []
        # Every filter, and every set of masks in turn.
        for i, row_filter in enumerate(FILTERS):
            masking = without_hashes(MASKINGS[i % len(MASKINGS)])
            # A filter that reads a masked column shows by what it hides what the column holds.
            fixed = "n" if row_filter.name == "or_null" else ""
            policy = profile(masking, row_filter)
            ways: list[Way] = []
            for variant in (0, 1):
                # Copies of one, so that every type and table has the same OID in both.
                dsn = stack.enter_context(database(server, f"oracle_v{variant}", template=template))
                with psycopg.connect(dsn, autocommit=True) as conn:
                    conn.execute(rows_sql(variant))
                    conn.execute(other_values_sql(masking, variant, fixed=fixed))
                    if variant:
                        conn.execute(more_rows_sql())
                if live:
                    ways.append(LiveWay(dsn, policy, SETTINGS, PLANNERS[i]))
                else:
                    side = Side(dsn, PLANNERS[i])
                    ways.append(EngineWay(policy, Catalog.from_connection(side.conn), side, SETTINGS))
                stack.callback(ways[-1].close)
            grammar = grammar_of(masking, writes=25, misuse=1)
            sets.append((masking, row_filter, grammar, ways[0], ways[1]))
        yield VariantsOracle(sets)
