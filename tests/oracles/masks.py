"""Oracle 2: mask by substitution.

The copy's columns were overwritten by their masks. What guarddb answers over the raw columns must be what the copy answers; or
the statement was refused, which is right only when the generator used a masked column for more than selecting it. Two things
are NULL by rule and not in the copy, and the generator says where: a scalar subquery and a whole row over a masked column.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import psycopg

from guarddb import Catalog, MaskingRule, PolicyProfile
from tests.fix_server import temporary_database
from tests.oracles.draws import Draws
from tests.oracles.generator import generate
from tests.oracles.grammar import Generated, Grammar
from tests.oracles.result import Verdict, general
from tests.oracles.rls import compared, invalid, said
from tests.oracles.schema import (
    ADMITTED_FUNCTIONS,
    FILTERS,
    MASKINGS,
    PLANNERS,
    Masking,
    generated_mask,
    tables,
)
from tests.oracles.server import Outcome, Side, delete_hidden, fill, make_roles
from tests.oracles.ways import EngineWay, LiveWay, Way

#: Types whose OIDs differ from database to database.
_OF_THE_DATABASE = frozenset(("record", "mood", "home"))
_TYPES = {"name": "text", "label": "text", "n": "int", "d": "date"}


#: The environment variable of a key for the hashes, and what is in it.
KEY = ("GUARDDB_ORACLE_KEY", "a key of the oracles")


def profile(masking: Masking, *, keyed: bool = False) -> PolicyProfile:
    rules = []
    for place, kind in masking.masks.items():
        table, column = place.split(".")
        rules.append(MaskingRule(table=table, column=column, kind=kind))
    extension: dict[str, object] = {"function_allowlist": list(ADMITTED_FUNCTIONS)}
    if keyed:
        extension["hash_key_env"] = KEY[0]
    return PolicyProfile(name=masking.name, access_mode="read_write", masking_rules=rules, guarddb=extension)


def grammar_of(masking: Masking, *, writes: float = 10, misuse: float = 0.4) -> Grammar:
    return Grammar(tables(masking.masks), writes=writes, misuse=misuse, dirty=0)


def overwritten_sql(masking: Masking) -> str:
    """Overwrite every masked column by its mask, as SQL that guarddb had no part in."""
    loud = "NULL" if generated_mask(masking.masks["acct.name"]) == "null" else "'[redacted]'"
    statements = [f"UPDATE acct SET loud = {loud} WHERE name IS NOT NULL;"]
    for place, kind in masking.masks.items():
        table, column = place.split(".")
        text = _TYPES[column] == "text"
        if kind == "hash":
            value = f"encode(sha256(convert_to({column}::text, 'UTF8')), 'hex')"
            statements.append(f"UPDATE {table} SET {column} = {value} WHERE {column} IS NOT NULL;")
        elif kind == "redact" and text:
            statements.append(f"UPDATE {table} SET {column} = '[redacted]' WHERE {column} IS NOT NULL;")
        else:
            statements.append(f"UPDATE {table} SET {column} = NULL;")
    return "\n".join(statements)


#: Stands for the hash of a value that is in no table: what shares an output with a masked column is hashed as well.
_OTHER = b"a hash"


def _is_hash(value: bytes | None) -> bool:
    return value is not None and re.fullmatch(rb"[0-9a-f]{64}", value) is not None


class MaskOracle:
    name = "masks"

    def __init__(
        self, sets: list[tuple[Masking, Grammar, Way, Side, Side]], keyed: Mapping[bytes, bytes]
    ) -> None:
        self.sets = sets
        #: of every value that is hashed: plain hash -> hash with the key
        self.keyed = keyed

    def make(self, draws: Draws, number: int) -> Generated:
        return generate(draws, self.grammar_for(number))

    def grammar_for(self, number: int) -> Grammar:
        return self.sets[number % len(self.sets)][1]

    def place(self, number: int) -> str:
        return f"masks {self.sets[number % len(self.sets)][0].name}"

    def check(self, generated: Generated, number: int) -> Verdict:
        _, _, way, raw, copy = self.sets[number % len(self.sets)]
        answer = way.ask(generated)
        expected = copy.run(generated.expected_sql, generated.params, writes=generated.writes)
        if answer.outcome is None or invalid(expected):
            # PostgreSQL refuses the text; or what it does with a column cannot be done with the mask.
            plain = raw.run(generated.sql, generated.params, writes=generated.writes)
            if invalid(plain):
                return Verdict("invalid", plain.message)
        if answer.outcome is None:
            if answer.rule == "internal_error":
                return Verdict("mismatch", f"internal_error: {answer.fault}", answer.reason)
            if generated.misuses:
                return Verdict("refused", answer.rule)
            return Verdict("blocked", f"{answer.rule}: {general(answer.reason)}", answer.reason)
        got = answer.outcome
        if expected.slow or got.slow:
            return Verdict("slow")
        cols = generated.cols or []
        # The tables of the copy are others, and hold other values. The whole row of a table is of its own type, and a NULL
        # is of the column's type, which the copy's need not be.
        expected.contents = got.contents
        if len(cols) == len(got.types) == len(expected.types):
            for outcome in (expected, got):
                outcome.types = tuple(
                    0 if c.type in _OF_THE_DATABASE or c.mask == "null!" else t
                    for c, t in zip(cols, outcome.types, strict=True)
                )
        self.nulled(generated, expected)
        if self.keyed:
            self.hash_with_key(generated, expected, got)
        different = compared(expected, got, ordered=generated.ordered)
        if different is not None:
            if generated.misuses:
                different = f"misuse let through: {generated.misuses[0]}: {different}"
            return Verdict("mismatch", different, said(answer, expected))
        return Verdict("error" if got.state else "same")

    def hash_with_key(self, generated: Generated, expected: Outcome, got: Outcome) -> None:
        """Hashes with the key in the place of plain ones; of what an expression made, that it is one."""
        if re.search(r"\b(UNION|INTERSECT|EXCEPT)\b", generated.sql) is None:
            known = set(self.keyed.values())
            expected.rows = [
                tuple(self.keyed.get(v or b"", _OTHER) if _is_hash(v) else v for v in row)
                for row in expected.rows
            ]
            got.rows = [
                tuple(_OTHER if _is_hash(v) and v not in known else v for v in row) for row in got.rows
            ]
            return
        # What only shares an output with a masked column is NULL, where a plain hash may be shown: nothing may tell what
        # the hash of a guess is. So each row says only where there is a hash or NULL.
        for outcome in (expected, got):
            outcome.rows = [
                tuple(_OTHER if v is None or _is_hash(v) else v for v in row) for row in outcome.rows
            ]

    @staticmethod
    def nulled(generated: Generated, expected: Outcome) -> None:
        """Where the rules say NULL whatever the value is."""
        places = [i for i, c in enumerate(generated.cols or ()) if c.mask == "null!"]
        if not places or expected.state:
            return
        expected.rows = [
            tuple(None if i in places else v for i, v in enumerate(row)) for row in expected.rows
        ]


@contextmanager
def mask_oracle(server: str, *, live: bool = False, keyed: bool = False) -> Iterator[MaskOracle]:
    """`keyed`: hashes are made with a key, which only a live connection can do."""
    make_roles(server)
    hashes: dict[bytes, bytes] = {}
    everything = FILTERS[1]
    with ExitStack() as stack:

        def filled(stem: str, masking: Masking, *, overwritten: bool) -> str:
            dsn = stack.enter_context(temporary_database(server, stem))
            types = {p: "text" for p, kind in masking.masks.items() if kind == "hash"} if overwritten else {}
            with psycopg.connect(dsn, autocommit=True) as conn:
                fill(conn, types=types, generated=not overwritten)
            # Nothing is hidden here, so nothing may raise.
            delete_hidden(dsn, everything)
            with psycopg.connect(dsn, autocommit=True) as conn:
                if overwritten:
                    conn.execute(overwritten_sql(masking))
                # Updated rows have moved; so have the raw ones then, and ctid is the same in both.
                else:
                    conn.execute(moved_sql(masking))
            return dsn

        sets: list[tuple[Masking, Grammar, Way, Side, Side]] = []
        for masking, planner in zip(MASKINGS, PLANNERS, strict=False):
            dsn = filled("oracle_raw", masking, overwritten=False)
            raw = Side(dsn)
            copy = Side(filled("oracle_masked", masking, overwritten=True))
            policy = profile(masking, keyed=keyed)
            if keyed:
                hashes.update(both_hashes(values_of(raw)))
            way: Way
            if live:
                way = LiveWay(dsn, policy, planner=planner)
            else:
                way = EngineWay(policy, Catalog.from_connection(raw.conn), Side(dsn, planner))
            for each in (way, raw, copy):
                stack.callback(each.close)
            sets.append((masking, grammar_of(masking), way, raw, copy))
        yield MaskOracle(sets, hashes)


def both_hashes(values: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Of each value the plain hash and the one with the key."""
    for value in values:
        keyed = hmac.new(KEY[1].encode(), value, "sha256").hexdigest()
        yield hashlib.sha256(value).hexdigest().encode(), keyed.encode()


def values_of(raw: Side) -> Iterator[bytes]:
    """Every value of every column: what is in one output with a masked column is hashed with it."""
    raw.pgconn.exec_(b"RESET ROLE")
    columns = raw.pgconn.exec_(
        b"SELECT format('SELECT %I::text FROM %I.%I', column_name, table_schema, table_name) "
        b"FROM information_schema.columns WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"
    )
    for number in range(columns.ntuples):
        values = raw.pgconn.exec_(columns.get_value(number, 0) or b"")
        for row in range(values.ntuples):
            if (value := values.get_value(row, 0)) is not None:
                yield value
    raw.pgconn.exec_(b"SET ROLE agent")


def moved_sql(masking: Masking) -> str:
    """The same updates that leave every value as it is."""
    statements = ["UPDATE acct SET boss = boss WHERE name IS NOT NULL;"]
    for place, kind in masking.masks.items():
        table, column = place.split(".")
        some = kind == "hash" or (kind == "redact" and _TYPES[column] == "text")
        where = f" WHERE {column} IS NOT NULL" if some else ""
        statements.append(f"UPDATE {table} SET {column} = {column}{where};")
    return "\n".join(statements)


def without_hashes(masking: Masking) -> Masking:
    """Hashes show whether two values are equal, which is what they are for; here nothing may show."""
    return replace(masking, masks={p: "null" if k == "hash" else k for p, k in masking.masks.items()})
