"""Oracle: changes first, and then a look, on two databases that differ only in what the agent may not know.

Definitions, settings and writes to what the filters read, by a role that owns the tables. Whatever guarddb lets through must look
the same on both databases, and so must what is asked afterwards: a definition that looked at hidden rows or masked values, or a
change that brings hidden rows into sight, tells the two apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace

import psycopg
from cachetools import LRUCache

from guarddb import Catalog, PolicyProfile
from guarddb.decision.decide import compile_policy, decide
from tests.fix_server import one_at_a_time, temporary_database
from tests.oracles.definitions import Definitions
from tests.oracles.draws import Draws
from tests.oracles.generator import generate
from tests.oracles.grammar import Generated, Grammar
from tests.oracles.masks import grammar_of, without_hashes
from tests.oracles.result import Verdict
from tests.oracles.schema import FILTERS, MASKINGS, PLANNERS, SETTINGS, more_rows_sql, rows_sql
from tests.oracles.server import Outcome, Side, database, fill, make_roles
from tests.oracles.variants import other_values_sql, profile, seen
from tests.oracles.ways import MARKER

_NEXT = ";\n  "
_KINDS = ["select", "insert", "update", "delete", "ddl", "copy", "explain", "set", "show", "other"]


@dataclass
class Step:
    """What came of one statement: a refusal, or an outcome and the text that was sent."""

    rule: str
    reason: str
    sent: str = ""
    outcome: Outcome | None = None


class Guarded:
    """A database behind the engine, whose catalog is read again after each change."""

    def __init__(self, policy: PolicyProfile, side: Side) -> None:
        self.policy = compile_policy(policy, SETTINGS)
        self.side = side
        self.catalog = Catalog.from_connection(side.conn)
        #: by the changes that have run: reading one takes most of the time
        self.catalogs: LRUCache[tuple[str, ...], Catalog] = LRUCache(4000)

    def after(self, ran: tuple[str, ...]) -> Catalog:
        """The catalog once these have run."""
        if ran not in self.catalogs:
            self.catalogs[ran] = Catalog.from_connection(self.side.conn)
        return self.catalogs[ran]

    def steps(self, changes: list[str], look: Generated) -> list[Step]:
        """Run all of it in one transaction, which is rolled back."""
        found: list[Step] = []
        catalog = self.catalog
        ran: tuple[str, ...] = ()
        self.side.pgconn.exec_(b"BEGIN")
        try:
            for sql in (*changes, look.sql):
                plan = decide(sql, self.policy, catalog)
                decision = plan.decision
                if decision.blocked:
                    found.append(Step(decision.rule, decision.reason))
                    continue
                self.side.pgconn.exec_(b"SAVEPOINT step")
                outcome = self.side.run(plan.sql, look.params if sql is look.sql else ())
                if outcome.state:
                    self.side.pgconn.exec_(b"ROLLBACK TO SAVEPOINT step")
                elif any(each.handling.changes_catalog for each in plan.statements):
                    ran = (*ran, sql)
                    if sql is not look.sql:
                        catalog = self.after(ran)
                if outcome.state == "22P02" and MARKER in outcome.message:
                    outcome.state = "42501"
                if plan.statements[0].handling.hidden_returning and not outcome.state:
                    outcome.rows, outcome.names, outcome.types = [], (), ()
                found.append(Step("", "", plan.sql, outcome))
        finally:
            self.side.pgconn.exec_(b"ROLLBACK")
            self.side.tidy()
        return found


class ChangesOracle:
    """The statement's number picks masks and filter."""

    name = "changes"

    def __init__(self, sets: list[tuple[str, Grammar, Guarded, Guarded]]) -> None:
        self.sets = sets

    def make(self, draws: Draws, number: int) -> Generated:
        grammar = self.sets[number % len(self.sets)][1]
        features: list[str] = []
        changes = [
            Definitions(draws, grammar.tables, features).make()
            for _ in range(1 + draws.weighted(((5, 0), (3, 1), (2, 2))))
        ]
        look = generate(draws, grammar)
        return replace(look, sql=_NEXT.join((*changes, look.sql)), features=features, made=draws.made)

    def place(self, number: int) -> str:
        return self.sets[number % len(self.sets)][0]

    def check(self, generated: Generated, number: int) -> Verdict:
        _, _, one, other = self.sets[number % len(self.sets)]
        *changes, sql = generated.sql.split(_NEXT)
        look = replace(generated, sql=sql)
        first, second = one.steps(changes, look), other.steps(changes, look)
        for mine, theirs in zip(first, second, strict=True):
            if (mine.rule, mine.reason) != (theirs.rule, theirs.reason):
                return Verdict("mismatch", "the refusal", f"one:   {mine.reason}\nother: {theirs.reason}")
            if mine.rule == "internal_error":
                return Verdict("mismatch", "internal_error", mine.reason)
            if mine.outcome is None or theirs.outcome is None:
                continue
            if mine.outcome.slow or theirs.outcome.slow:
                return Verdict("slow")
            ordered = mine is first[-1] and generated.ordered
            different = seen(mine.outcome, theirs.outcome, ordered=ordered)
            if different is not None:
                detail = f"sent: {mine.sent}\none:   {mine.outcome.shown()}\nother: {theirs.outcome.shown()}"
                return Verdict("mismatch", different, detail)
        tried = first[:-1]
        if all(step.rule for step in tried):
            return Verdict("refused", tried[0].rule)
        return Verdict("error" if all(s.rule or (s.outcome and s.outcome.state) for s in tried) else "same")


@contextmanager
def changes_oracle(server: str) -> Iterator[ChangesOracle]:
    make_roles(server)
    with one_at_a_time(server) as conn:
        with suppress(psycopg.errors.DuplicateObject):
            conn.execute("CREATE ROLE builder LOGIN")
        conn.execute("GRANT keeper TO builder")
    with ExitStack() as stack:
        empty = stack.enter_context(temporary_database(server, "oracle_none"))
        with psycopg.connect(empty, autocommit=True) as conn:
            fill(conn, rows=False)
            conn.execute("GRANT USAGE, CREATE ON SCHEMA public, admin TO builder")
            template = conn.info.dbname
        sets = []
        for i, row_filter in enumerate(FILTERS):
            masking = without_hashes(MASKINGS[i % len(MASKINGS)])
            fixed = "n" if row_filter.name == "or_null" else ""
            policy = profile(masking, row_filter)
            policy = policy.model_copy(
                update={
                    "statement_rules": policy.statement_rules.model_copy(update={"allow": _KINDS}),
                    "guarddb": policy.guarddb.model_copy(
                        update={"floor_exceptions": ["destructive_ddl", "whereless_write"] if i % 2 else []}
                    ),
                }
            )
            policy = PolicyProfile.model_validate(policy.model_dump())
            sides = []
            for variant in (0, 1):
                dsn = stack.enter_context(database(server, f"oracle_c{variant}", template=template))
                with psycopg.connect(dsn, autocommit=True) as conn:
                    conn.execute(rows_sql(variant))
                    conn.execute(other_values_sql(masking, variant, fixed=fixed))
                    if variant:
                        conn.execute(more_rows_sql())
                side = Side(dsn, PLANNERS[i], role="builder")
                stack.callback(side.close)
                sides.append(Guarded(policy, side))
            place = f"masks {masking.name}, filter {row_filter.name}"
            sets.append((place, grammar_of(masking, writes=0), sides[0], sides[1]))
        yield ChangesOracle(sets)
