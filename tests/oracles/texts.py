"""The analyzer's questions about texts that were not generated: files of SQL, PostgreSQL's own regression suite among them.

`python -m tests.oracles --oracle analyzer --from DIRECTORY` runs the files of a directory where they lie, each in a database of
its own (after `test_setup.sql`, where there is one). Everything is run as it stands, so that tables come and go; before a
SELECT, INSERT, UPDATE, DELETE or MERGE runs, the server's analyzer is asked about it and about what guarddb would send. Which
columns are masked is chosen by the names of the tables.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import psycopg
from psycopg import pq

from guarddb import PolicyProfile
from guarddb.tree import SQLSyntaxError, parse
from tests.fix_server import temporary_database
from tests.oracles.analyzer import Analyzer, AnalyzerOracle, Refused, Taken, corpus_oracle
from tests.oracles.result import Finding, Report, Verdict

_KINDS = ("null", "redact", "hash")
_ASKED = frozenset(("SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"))
#: Utility statements after which the tables are the same.
_CHANGES_NOTHING = frozenset(
    (
        "ExplainStmt",
        "VariableSetStmt",
        "VariableShowStmt",
        "AnalyzeStmt",
        "VacuumStmt",
        "DeclareCursorStmt",
        "FetchStmt",
        "ClosePortalStmt",
        "PrepareStmt",
        "ExecuteStmt",
        "DeallocateStmt",
        "CommentStmt",
        "LockStmt",
        "CopyStmt",
        "NotifyStmt",
        "ListenStmt",
        "CheckPointStmt",
    )
)
#: Of the whole server, of other databases, or of the time that they take.
_LEFT_OUT = re.compile(
    r"TABLESPACE|CREATE DATABASE|DROP DATABASE|ALTER SYSTEM|pg_sleep|pg_terminate|infinite_recurse|SUBSCRIPTION|"
    r"generate_series\(1, ?\d{6,}",
    re.IGNORECASE,
)
_LONGEST = 150


def statements(text: str) -> Iterator[str]:
    """The statements of a file written for psql, without its commands, its variables and the data of its COPYs."""
    pending: list[str] = []
    data = False
    for line in text.splitlines():
        if data:
            data = line != "\\."
            continue
        if line.startswith("\\") or (not pending and not line.strip()):
            pending = [] if line.startswith("\\") else pending
            continue
        pending.append(line)
        if not re.search(r";\s*(--.*)?$", line):
            continue
        sql = "\n".join(pending)
        try:
            parse(sql)
        except SQLSyntaxError:
            if len(pending) > _LONGEST or not _is_open(sql):
                pending = []
            continue
        pending = []
        data = re.search(r"\bfrom\s+stdin\b", sql, re.IGNORECASE) is not None
        yield sql


def _is_open(sql: str) -> bool:
    """Whether a text may go on behind this semicolon: within quotes, or the body of a function."""
    quotes = sql.count("'") % 2 == 1 or sql.count("$$") % 2 == 1
    return (
        quotes
        or re.search(r"\$\w*\$|BEGIN ATOMIC|CREATE (OR REPLACE )?(RULE|SCHEMA)", sql, re.IGNORECASE)
        is not None
    )


def chosen_masks(conn: psycopg.Connection) -> dict[str, str]:
    """One or two columns of each table in `public`, by its name, and a kind for each."""
    found: dict[str, str] = {}
    for relation, columns in conn.execute(
        "SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum) FROM pg_class c JOIN pg_attribute a "
        "ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
        "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') "
        "AND c.oid NOT IN (SELECT inhrelid FROM pg_inherits) GROUP BY 1"
    ):
        if re.fullmatch(r"[a-z_][a-z0-9_]*", relation) is None:
            continue
        number = crc32(relation.encode())
        for place in {number % len(columns), len(columns) - 1}:
            column = columns[place]
            if len(columns) > 1 and re.fullmatch(r"[a-z_][a-z0-9_]*", column):
                found[f"{relation}.{column}"] = _KINDS[(number + place) % len(_KINDS)]
    return found


def profile_of(masks: dict[str, str]) -> PolicyProfile:
    return PolicyProfile.model_validate(
        {
            "name": "texts",
            "access_mode": "read_write",
            "masking_rules": [
                {"table": place.split(".")[0], "column": place.split(".")[1], "kind": kind}
                for place, kind in masks.items()
            ],
            "guarddb": {
                "function_allowlist": ["*"],
                "floor_exceptions": ["whereless_write"],
            },
        }
    )


class Within(Analyzer):
    """The analyzer on the connection on which the texts run, with its temporary tables and whatever is not committed."""

    def ask(self, sql: str) -> Taken | Refused:
        pgconn = self.conn.pgconn
        if pgconn.transaction_status == pq.TransactionStatus.INERROR:
            return Refused("25P02", "the transaction has failed")
        within = pgconn.transaction_status == pq.TransactionStatus.INTRANS
        if within:
            pgconn.exec_(b"SAVEPOINT guarddb_probe")
        try:
            return super().ask(sql)
        finally:
            if within:
                pgconn.exec_(b"ROLLBACK TO SAVEPOINT guarddb_probe")


class Texts:
    """The statements of files, one database for each."""

    def __init__(self, directory: Path) -> None:
        self.files = sorted(directory.glob("**/*.sql"))
        self.setup = next((f for f in self.files if f.name == "test_setup.sql"), None)
        self.report = Report("analyzer, texts", 0)

    def run(self, server: str) -> Report:
        with temporary_database(server, "texts_setup") as template:
            if self.setup is not None:
                with psycopg.connect(template, autocommit=True) as conn:
                    _run_all(conn, self.setup)
            name = template_name(template)
            for file in self.files:
                if file is self.setup:
                    continue
                with suppress(psycopg.Error), temporary_database(server, "texts", name) as dsn:
                    self.file(dsn, file)
                print(f"{file.name}: {dict(self.report.verdicts)}", file=sys.stderr, flush=True)
        return self.report

    def file(self, dsn: str, file: Path) -> None:
        analyzer = Within(dsn)
        conn = analyzer.conn
        oracle: AnalyzerOracle | None = None
        try:
            conn.execute("SET statement_timeout = '5s'")
            for sql in statements(file.read_text(encoding="utf-8", errors="replace")):
                kinds = {next(iter(raw["stmt"])) for raw in parse(sql) if raw.get("stmt")}
                failed = conn.pgconn.transaction_status == pq.TransactionStatus.INERROR
                if kinds <= _ASKED and len(kinds) == 1 and not failed:
                    oracle = self.ask(oracle, analyzer, sql.strip().rstrip(";"), file.name)
                if not kinds <= _CHANGES_NOTHING | _ASKED or re.search(
                    r"\bselect\b.*\binto\b", sql, re.I | re.S
                ):
                    oracle = None
                if not _LEFT_OUT.search(sql):
                    _run(conn, sql)
        finally:
            conn.close()

    @staticmethod
    def oracle(analyzer: Analyzer) -> AnalyzerOracle:
        masks = chosen_masks(analyzer.conn)
        return corpus_oracle(analyzer, profile_of(masks), masks, ())

    def ask(self, known: AnalyzerOracle | None, analyzer: Analyzer, sql: str, file: str) -> AnalyzerOracle:
        """Ask about one statement; the oracle for the next. `known`: the one of before, where nothing was defined since."""
        report = self.report
        report.statements += 1
        oracle = known or self.oracle(analyzer)
        verdict = self.verdict(oracle, sql)
        if verdict.kind == "mismatch" and known is not None:
            # A function, or a SELECT, may have made a table.
            oracle = self.oracle(analyzer)
            verdict = self.verdict(oracle, sql)
        report.verdicts[verdict.kind] += 1
        if verdict.kind == "invalid":
            report.reviewed[f"invalid {verdict.cause}"] += 1
            report.examples.setdefault(f"reviewed: invalid {verdict.cause}", sql)
        if verdict.kind in ("mismatch", "blocked"):
            counted = report.causes if verdict.kind == "mismatch" else report.blocks
            counted[verdict.cause] += 1
            report.examples.setdefault(verdict.cause, sql)
            if verdict.kind == "mismatch" and counted[verdict.cause] <= 20:
                report.findings.append(Finding(verdict, sql, [], file, report.statements))
                print(report.findings[-1].shown(), file=sys.stderr, flush=True)
        return oracle

    @staticmethod
    def verdict(oracle: AnalyzerOracle, sql: str) -> Verdict:
        try:
            return oracle.judge(sql, oracle.rules[0])
        except (KeyError, AttributeError, TypeError) as ex:
            # A tree that the oracle's own reader does not know.
            return Verdict("invalid", f"the oracle: {type(ex).__name__}: {ex}")


def template_name(dsn: str) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"])


def _run(conn: psycopg.Connection, sql: str) -> None:
    """Run a statement, whatever comes of it."""
    if re.search(r"\b(from|to)\s+(stdin|stdout)\b", sql, re.IGNORECASE):
        return
    conn.pgconn.exec_(sql.encode())


def _run_all(conn: psycopg.Connection, file: Path) -> None:
    for sql in statements(file.read_text()):
        _run(conn, sql)


def texts_report(server: str, directory: Path) -> Report:
    """What the analyzer's oracle finds in the files of a directory."""
    return Texts(directory).run(server)
