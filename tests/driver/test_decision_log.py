"""The decision log: what a record says, the file and its chain, and what becomes of statements when it cannot be written."""

from __future__ import annotations

import asyncio
import errno
import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

import guarddb
from guarddb import DecisionRecord, JsonlSink, PostgresSink
from guarddb.cli import main
from guarddb.decision.plan import Decision
from guarddb.runtime.chain import head_path, verify, verify_lines
from guarddb.runtime.decision_log import normalised
from tests.driver.conftest import Connect, block, open_policy, run

ROOT = Path(__file__).parents[2]


def record(number: int = 1, **fields: Any) -> DecisionRecord:
    told: dict[str, Any] = {
        "decision": Decision("allow"),
        "text": f"SELECT {number}",
        "outcome": "done",
        "time": datetime(2026, 3, 1, tzinfo=UTC),
        "statement_id": f"stmt_{number}",
    }
    return DecisionRecord(**{**told, **fields})


def filled(path: Path, lines: int = 10, **options: Any) -> JsonlSink:
    sink = JsonlSink(path, **options)
    for number in range(lines):
        sink(record(number))
    return sink


def log_files(path: Path) -> list[Path]:
    return [each for each in path.parent.glob(f"{path.name}*") if each.suffix not in (".head", ".reserve")]


# ---------------------------------------------------------------- records


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("SELECT * FROM t WHERE a = 'secret' AND b = 7", "SELECT * FROM t WHERE a = ? AND b = ?"),
        ("SELECT $$secret$$, E'x', X'1f', 1.5e3, U&'y'", "SELECT ?, ?, ?, ?, ?"),
        ("SELECT 1 -- secret\n, 2 /* secret */", "SELECT ? , ?"),
        ('SELECT "Column" FROM t WHERE x = $1', 'SELECT "Column" FROM t WHERE x = $1'),
        ("SELECT 'open", None),
        ("INSERT INTO größe VALUES ('é', -5)", "INSERT INTO größe VALUES (?, -?)"),
    ],
)
def test_a_text_is_normalised(text: str, shown: str | None) -> None:
    assert normalised(text) == shown


async def test_a_record_says_what_became_of_a_statement(connect: Connect) -> None:
    records: list[DecisionRecord] = []
    conn = await connect(on_decision=records.append, agent="reporter", policy=open_policy(name="sales"))
    await run(conn.execute("CREATE TEMP TABLE t (a int, b text)"))
    await run(conn.execute("INSERT INTO t VALUES (%s, %s), (2, 'y')", [1, "x"]))
    await run((await run(conn.execute("SELECT a, b FROM t"))).fetchall())
    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.execute("DELETE FROM t"))
    await run(conn.commit())
    with pytest.raises(psycopg.errors.DivisionByZero):
        await run(conn.execute("SELECT 1 / (a - a) FROM t"))
    await run(conn.rollback())
    create, insert, select, delete, divide = records
    assert [r.outcome for r in records] == ["done", "done", "done", "refused", "failed"]
    assert (insert.rows, select.rows, delete.rows) == (2, 2, None)
    assert select.size == 4
    assert insert.parameter_types[0] in ("int2", "unknown")
    assert len(insert.parameter_types) == 2
    assert (delete.decision.rule, delete.sqlstate, delete.duration) == ("whereless_write", "42501", 0)
    assert (divide.sqlstate, divide.decision.verdict) == ("22012", "allow")
    assert {r.agent for r in records} == {"reporter"}
    assert {r.policy for r in records} == {"sales"}
    assert len({r.statement_id for r in records}) == 5
    assert (
        len({create.transaction_id, insert.transaction_id, select.transaction_id, delete.transaction_id}) == 1
    )
    assert divide.transaction_id != create.transaction_id
    assert select.duration > 0


async def test_a_record_holds_no_values_unless_asked(connect: Connect) -> None:
    records: list[DecisionRecord] = []
    policy = open_policy(row_filters=[{"table": "t", "predicate": "b = 'tenant-secret'"}])
    conn = await connect(on_decision=records.append, policy=policy, autocommit=True)
    for sql in ("SELECT 'secret', %s", "SELECT 'secret' FRM x", "SELECT secret('"):
        with suppress(psycopg.Error):
            await run(conn.execute(sql, ["secret"] if "%s" in sql else None))
    assert len(records) == 3
    for each in records:
        assert "secret" not in re.sub(r"secret\(", "", json.dumps(each.to_dict()))
    assert "secret" in json.dumps(records[0].to_dict(literals=True))


#: Literals are secrets here. What is proposed instead of a statement, or said about one that cannot be read, quotes them.
WITH_SECRETS = (
    "SELECT a FROM t WHERE m = 'secret' AND b = 'secret'",
    "SELECT lower(m), 'secret' FROM t WHERE a > 5555",
    "SELECT pg_sleep(1), 'secret'",
    "INSERT INTO t (a, b) VALUES (1, 'another')",  # the hint has the filter with the value of its setting
    "INSERT INTO t (a, m) VALUES (1, 'secret') ON CONFLICT (m) DO NOTHING",
    "DELETE FROM t WHERE 'secret' = 'secret'",
    "SELECT TOP 5 a FROM t WHERE b = 'secret'",
    "SELECT 'secret",
    "SELECT 1 'secret' 'secret'",
    "SELECT $$secret",
    "SELECT * FROM missing WHERE b = 'secret'",
    "SELECT b FROM t WHERE bb = 'secret'",
    "COPY (SELECT 'secret') TO '/tmp/secret'",
    "SELECT set_config('app.x', 'secret', false)",
    "ALTER TABLE t ADD COLUMN c text DEFAULT ('secret' || random())",
    "ALTER TABLE t ADD CONSTRAINT k CHECK (b <> 'secret')",
    "CREATE ROLE x PASSWORD 'secret'",
    "COMMENT ON TABLE t IS 'secret'",
    "DO 'secret'",
    "SELECT '{secret'::int[]",
)


@pytest.mark.parametrize("sql", WITH_SECRETS)
async def test_what_is_said_of_a_statement_holds_no_values_either(
    fresh_dsn: str, sql: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the file, and in the log lines about refusals."""
    with psycopg.connect(fresh_dsn, autocommit=True) as plain:
        plain.execute("CREATE TABLE t (a int, b text, m text UNIQUE)")
    policy = open_policy(
        table_denylist=["missing"],
        masking_rules=[{"table": "t", "column": "m", "kind": "hash"}],
        row_filters=[{"table": "t", "predicate": "b = current_setting('app.b')"}],
        migration_safety="warn",
        guarddb={},
    )
    sink = JsonlSink(tmp_path / "log.jsonl")
    with (
        guarddb.connect(
            fresh_dsn, policy=policy, on_decision=sink, settings={"app.b": "secret"}, autocommit=True
        ) as conn,
        suppress(psycopg.Error),
    ):
        conn.execute(sql.encode())
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert "secret" not in line
    assert "secret" not in caplog.text


async def test_the_action_policy_and_the_budget_are_in_the_record(connect: Connect) -> None:
    records: list[DecisionRecord] = []
    conn = await connect(
        on_decision=records.append,
        policy=open_policy(budget_queries_per_hour=2),
        action_policy={"blocked_actions": ["*:*:delete"]},
        budgets="memory://",
        agent=f"agent {id(records)}",
        autocommit=True,
    )
    await run(conn.execute("SELECT 1"))
    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.execute("DELETE FROM pg_class WHERE false"))
    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.execute("DELETE FROM nowhere WHERE 1 = id"))
    await run(conn.execute("SELECT 1"))
    with pytest.raises(guarddb.BudgetExceeded):
        await run(conn.execute("SELECT 1"))
    assert [r.outcome for r in records] == ["done", "refused", "refused", "done", "refused"]
    assert records[0].risk is not None
    assert records[0].to_dict()["risk"]["score"] == 5
    assert records[2].decision.rule == "action_blocked"
    assert records[4].sqlstate == "53400"


async def test_every_door_is_recorded(connect: Connect) -> None:
    records: list[DecisionRecord] = []
    conn = await connect(on_decision=records.append)
    await run(conn.cursor().executemany("SELECT %s::int", [(1,), (2,)]))
    async with block(conn.pipeline()):
        await run(conn.execute("SELECT 1"))
        await run(conn.execute("SELECT 2"))
    cur = conn.cursor()
    if hasattr(conn, "__aenter__"):
        assert [row async for row in cur.stream("SELECT 3")]
    else:
        assert list(cur.stream("SELECT 3"))
    assert [r.text for r in records] == ["SELECT $1::int"] * 2 + ["SELECT 1", "SELECT 2", "SELECT 3"]
    assert {r.outcome for r in records} == {"done"}


async def test_a_function_of_two_arguments_is_called_as_before(connect: Connect) -> None:
    seen: list[Any] = []

    def watch(decision: Decision, sql: str) -> None:
        seen.append((decision.verdict, sql))

    conn = await connect(on_decision=watch, autocommit=True)
    await run(conn.execute("SELECT 1"))
    assert seen == [("allow", "SELECT 1")]


async def test_a_sink_that_fails_breaks_nothing(connect: Connect) -> None:
    def broken(record: DecisionRecord) -> None:
        raise RuntimeError("boom")

    conn = await connect(on_decision=broken, autocommit=True)
    assert await run((await run(conn.execute("SELECT 1"))).fetchone()) == (1,)


# ---------------------------------------------------------------- the file


async def test_statements_are_lines_of_json(connect: Connect, tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    conn = await connect(on_decision=JsonlSink(path), agent="a", autocommit=True)
    await run(conn.execute("SELECT 'secret'"))
    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.execute("DELETE FROM t"))
    first, second = map(json.loads, path.read_text().splitlines())
    assert (first["seq"], first["text"], first["outcome"], first["agent"]) == (1, "SELECT ?", "done", "a")
    assert (second["seq"], second["prev"], second["decision"]["rule"]) == (
        2,
        first["hash"],
        "whereless_write",
    )
    assert "secret" not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert verify([path]).intact


def test_a_log_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    filled(path, 3).close()
    filled(path, 3)
    assert [json.loads(line)["seq"] for line in path.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    assert verify([path]).lines == 6


def damaged(path: Path, change: Callable[[list[bytes]], None]) -> list[tuple[int, str]]:
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines)
    path.write_bytes(b"".join(lines))
    return [(fault.line, fault.fault) for fault in verify([path]).faults]


def swap(lines: list[bytes], a: int, b: int) -> None:
    lines[a], lines[b] = lines[b], lines[a]


def rehash(lines: list[bytes]) -> None:
    from guarddb.runtime.chain import canonical, digest

    entry = json.loads(lines[3])
    entry["agent"] = "nobody"
    entry["hash"] = digest(entry, None)
    lines[3] = canonical(entry) + b"\n"


@pytest.mark.parametrize(
    ("change", "faults"),
    [
        (lambda lines: None, []),
        (lambda lines: lines.__setitem__(3, lines[3].replace(b"SELECT", b"DELETE")), [(4, "changed")]),
        (lambda lines: lines.__setitem__(3, b"garbage\n"), [(4, "truncated")]),
        (lambda lines: lines.__setitem__(3, b"{}\n"), [(4, "changed")]),
        (rehash, [(5, "changed")]),
        (lambda lines: lines.pop(3), [(4, "removed")]),
        (lambda lines: lines.__delitem__(slice(3, 6)), [(4, "removed")]),
        (lambda lines: lines.pop(0), [(1, "removed")]),
        (lambda lines: lines.__delitem__(slice(0, 4)), [(1, "removed")]),
        (lambda lines: swap(lines, 3, 4), [(4, "reordered"), (5, "reordered")]),
        (lambda lines: swap(lines, 2, 7), [(3, "reordered"), (4, "reordered")]),
        (lambda lines: lines.insert(5, lines[2]), [(6, "reordered")]),
        (lambda lines: lines.__setitem__(9, lines[9][:50]), [(10, "truncated")]),
        (lambda lines: lines.__setitem__(4, lines[4][:50] + b"\n"), [(5, "truncated")]),
        (lambda lines: lines.pop(), [(10, "removed")]),
        (lambda lines: lines.__delitem__(slice(5, 10)), [(6, "removed")]),
        (lambda lines: lines.clear(), [(1, "removed")]),
    ],
)
def test_what_was_done_to_a_log_is_found(
    tmp_path: Path, change: Callable[[list[bytes]], None], faults: list[tuple[int, str]]
) -> None:
    path = tmp_path / "d.jsonl"
    filled(path)
    found = damaged(path, change)
    assert found[: len(faults)] == faults
    assert bool(found) == bool(faults)


def _lines_away(path: Path, kept: int) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:kept]))


@pytest.mark.parametrize("kept", [0, 1, 5, 9, None])
@pytest.mark.parametrize("how", ["open", "closed", "by another process"])
@pytest.mark.parametrize("max_bytes", [0, 1_000])
def test_the_next_line_does_not_seal_a_cut(
    tmp_path: Path, kept: int | None, how: str, max_bytes: int
) -> None:
    """Taking lines away needs no key: whoever writes next must not give their numbers out once more."""
    path = tmp_path / "log"
    sink = filled(path, key=b"k")
    if how == "closed":
        sink.close()
    if kept is None:
        path.unlink()
    else:
        _lines_away(path, kept)
    if how == "open":
        sink.max_bytes = max_bytes
        for number in range(5):
            sink(record(number))
    else:
        filled(path, 5, key=b"k", max_bytes=max_bytes).close()
        if how == "by another process":
            sink(record(1))
    outcome = verify(log_files(path), b"k")
    assert {fault.fault for fault in outcome.faults} <= {"removed"}
    if (
        max_bytes and not kept
    ):  # the name of the oldest closed file says where it begins: earlier ones may have been given up
        assert any("begins with record 11" in note for note in outcome.notes) or outcome.faults
        return
    first = 1 if kept is None else kept + 1
    span = f"record {first} is" if first == 10 else f"records {first} to 10 are"
    assert any(fault.detail.startswith(f"{span} missing") for fault in outcome.faults)


def test_a_log_that_lost_its_beginning_says_so(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    filled(path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[2:]))
    (fault,) = verify([path]).faults
    assert (fault.line, fault.fault, fault.detail) == (
        1, "removed", "records 1 to 2 are missing before this line",
    )  # fmt: skip


def test_the_beginning_of_a_rotated_log_is_where_its_oldest_file_says(tmp_path: Path) -> None:
    """What `keep` has thrown away is not missing; what was taken out of a file is, also where that file is given alone."""
    path = tmp_path / "d.jsonl"
    filled(path, 40, max_bytes=4_000, keep=3)
    *closed, current = sorted(
        log_files(path), key=lambda each: json.loads(each.read_text().splitlines()[0])["seq"]
    )
    assert len(closed) == 3
    first = json.loads(closed[0].read_text().splitlines()[0])["seq"]
    assert first > 1
    outcome = verify([*closed, current])
    assert outcome.intact
    assert f"begins with record {first}" in outcome.notes[0]
    assert verify([current]).intact
    for file in (closed[0], current):
        whole = file.read_bytes()
        file.write_bytes(b"".join(whole.splitlines(keepends=True)[1:]))
        assert [fault.fault for fault in verify([file]).faults] == ["removed"]
        assert [fault.fault for fault in verify([*closed, current]).faults] == ["removed"]
        file.write_bytes(whole)


def test_with_a_key_nobody_else_can_write_the_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d.jsonl"
    monkeypatch.setenv("LOG_KEY", "a key")
    filled(path, key_env="LOG_KEY")
    assert verify([path], b"a key").intact
    assert not verify([path], b"another").intact
    assert not verify([path]).intact
    # Somebody without the key makes a chain of his own, head and all.
    forged = tmp_path / "forged.jsonl"
    filled(forged)
    assert not verify([forged], b"a key").intact
    monkeypatch.delenv("LOG_KEY")
    with pytest.raises(guarddb.PolicyError, match="LOG_KEY"):
        JsonlSink(path, key_env="LOG_KEY")


def test_rotation_keeps_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    filled(path, 60, max_bytes=4000)
    files = log_files(path)
    assert len(files) > 3
    assert all(each.stat().st_size <= 4000 for each in files)
    outcome = verify(files)
    assert (outcome.faults, outcome.lines) == ([], 60)
    middle = next(each for each in files if each.suffix[1:].partition("-")[0] not in ("1", "jsonl"))
    without = [each for each in files if each != middle]
    assert [fault.fault for fault in verify(without).faults] == ["removed"]
    # A sink that is made anew goes on.
    filled(path, 5, max_bytes=4000)
    assert verify(log_files(path)).intact


def test_only_so_many_closed_files_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    filled(path, 60, max_bytes=2000, keep=2)
    closed = [each for each in tmp_path.glob("d.jsonl.*-*") if not each.name.endswith(".head")]
    assert len(closed) == 2
    assert verify([*closed, path]).intact


def test_a_half_line_is_closed_and_told(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    filled(path, 3).close()
    with path.open("ab") as file:
        file.write(b'{"seq": 4, "agent"')
    filled(path, 2)
    assert [(fault.line, fault.fault) for fault in verify([path]).faults] == [(4, "truncated")]


def _write(path: str, number: int) -> None:
    sink = JsonlSink(path, max_bytes=20_000)
    for each in range(50):
        sink(record(number * 1000 + each))


def test_threads_and_processes_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    sink = JsonlSink(path, max_bytes=20_000)
    threads = [threading.Thread(target=lambda: [sink(record(n)) for n in range(50)]) for _ in range(4)]
    processes = [
        multiprocessing.get_context("spawn").Process(target=_write, args=(str(path), n)) for n in range(3)
    ]
    for each in (*processes, *threads):
        each.start()
    for each in (*processes, *threads):
        each.join()
    outcome = verify(log_files(path))
    assert (outcome.faults, outcome.lines) == ([], 350)


@pytest.mark.parametrize("fsync", ["always", "refusals", "never", 0.5])
def test_the_fsync_policies(tmp_path: Path, fsync: Any) -> None:
    filled(tmp_path / "d.jsonl", 3, fsync=fsync)
    assert verify([tmp_path / "d.jsonl"]).lines == 3


@pytest.mark.parametrize("options", [{"fsync": "sometimes"}, {"on_full": "hope"}])
def test_a_bad_argument_is_an_error(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(guarddb.PolicyError):
        JsonlSink(tmp_path / "d.jsonl", **options)


FULL_DISK = """
import logging, resource, sys
import guarddb
logging.basicConfig(level=logging.CRITICAL, stream=sys.stdout)
sink = guarddb.JsonlSink(sys.argv[1], on_full=sys.argv[3])
conn = guarddb.connect(sys.argv[2], policy={"name": "full"}, on_decision=sink, autocommit=True)
conn.execute("SELECT 1")
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
done = 0
try:
    for _ in range(30):
        assert conn.execute("SELECT 1").fetchone() == (1,)
        done += 1
except guarddb.PolicyUnavailable as ex:
    print("REFUSED", ex)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
conn.execute("SELECT 2")
print("DONE", done)
"""


@pytest.mark.parametrize("choice", ["refuse", "pass"])
def test_a_full_disk_refuses_or_passes_and_is_never_silent(tmp_path: Path, dsn: str, choice: str) -> None:
    """The limit on file sizes makes every write beyond it fail, as a full disk does."""
    path = tmp_path / "d.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), dsn, choice],
        capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    outcome = verify([path])
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert outcome.intact, outcome.faults
    assert "cannot be written" in done.stdout
    if choice == "refuse":
        assert "REFUSED" in done.stdout
        assert any(each["outcome"] == "resumed" for each in entries)
        assert any("lost" in each for each in entries)
    else:
        assert "DONE 30" in done.stdout
        assert entries[-1]["lost"] > 5
    assert entries[-1]["text"] == "SELECT ?"


# ---------------------------------------------------------------- the command


def test_the_command_names_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "d.jsonl"
    filled(path)
    assert main(["audit", "verify", str(path)]) == 0
    assert "10 lines" in capsys.readouterr().out
    damaged(path, lambda lines: lines.__setitem__(3, lines[3].replace(b"SELECT", b"DELETE")))
    assert main(["audit", "verify", str(path)]) == 1
    assert re.search(r"d\.jsonl:4: changed", capsys.readouterr().out)
    assert main(["audit", "verify", "--json", str(path)]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["intact"], answer["faults"][0]["line"], answer["faults"][0]["fault"]) == (
        False,
        4,
        "changed",
    )
    assert main(["audit", "verify", str(tmp_path / "nothing")]) == 2
    assert main(["audit", "verify", "--key-env", "NOSUCH_KEY", str(path)]) == 2
    head_path(path).unlink()
    path.write_bytes(path.read_bytes())
    assert main(["audit", "verify", str(path)]) == 1
    assert "missing at the end would not be noticed" in capsys.readouterr().out


# ---------------------------------------------------------------- the table


def test_a_table_that_is_not_there_is_no_log_that_is_whole(
    fresh_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelt name, or a log that somebody has dropped; and who verifies makes nothing."""
    assert main(["audit", "verify", "--dsn", fresh_dsn, "--table", "gone"]) == 2
    assert "cannot read the table gone" in capsys.readouterr().err
    with psycopg.connect(fresh_dsn) as plain:
        assert plain.execute("SELECT to_regclass('gone'), to_regclass('gone_head')").fetchone() == (
            None,
            None,
        )
        plain.execute("CREATE TABLE gone (seq bigint, line text)")
        plain.commit()
        assert main(["audit", "verify", "--dsn", fresh_dsn, "--table", "gone"]) == 0
        assert "missing at the end would not be noticed" in capsys.readouterr().out
        assert plain.execute("SELECT to_regclass('gone_head')").fetchone() == (None,)


async def test_records_in_a_table(
    connect: Connect, fresh_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sink = PostgresSink(fresh_dsn, table="audit_log")
    conn = await connect(on_decision=sink, agent="a")
    await run(conn.execute("SELECT 'secret'"))
    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.execute("DELETE FROM t"))
    await run(conn.rollback())  # what the agent rolls back stays in the log
    verify_it = ["audit", "verify", "--dsn", fresh_dsn, "--table", "audit_log"]
    with psycopg.connect(fresh_dsn, autocommit=True) as plain:
        rows = plain.execute(
            "SELECT seq, agent, outcome, rule, line::json->>'text' FROM audit_log ORDER BY seq"
        ).fetchall()
        assert rows == [
            (1, "a", "done", "ok", "SELECT ?"),
            (2, "a", "refused", "whereless_write", "DELETE FROM t"),
        ]
        assert main(verify_it) == 0
        plain.execute(
            "BEGIN; CREATE TABLE kept AS SELECT * FROM audit_log; DELETE FROM audit_log WHERE seq = 1; COMMIT"
        )
        assert main(verify_it) == 1
        assert "record 1 is missing before this line" in capsys.readouterr().out
        plain.execute("INSERT INTO audit_log SELECT * FROM kept WHERE seq = 1")
        plain.execute("UPDATE audit_log SET line = replace(line, 'whereless', 'x') WHERE seq = 2")
        assert main(verify_it) == 1
        assert "audit_log:2: changed" in capsys.readouterr().out
        plain.execute("DELETE FROM audit_log WHERE seq = 2")
        assert main(verify_it) == 1
        assert "missing at the end" in capsys.readouterr().out
    sink.close()


def written(sink: PostgresSink) -> None:
    """An async connection's records are written behind it."""
    if sink.queued is not None:
        sink.queued.flush()


async def test_a_table_that_is_gone_refuses_or_passes(connect: Connect, fresh_dsn: str) -> None:
    for on_full in ("refuse", "pass"):
        sink = PostgresSink(fresh_dsn, on_full=on_full)  # type: ignore[arg-type]
        conn = await connect(on_decision=sink, autocommit=True)
        await run(conn.execute("SELECT 1"))
        written(sink)
        with psycopg.connect(fresh_dsn, autocommit=True) as plain:
            plain.execute("ALTER TABLE guarddb_decisions RENAME COLUMN line TO lines")
            await run(conn.execute("SELECT 1"))  # this record is lost, and told of
            written(sink)
            if on_full == "refuse":
                with pytest.raises(guarddb.PolicyUnavailable):
                    await run(conn.execute("SELECT 1"))
            else:
                await run(conn.execute("SELECT 1"))
            plain.execute("ALTER TABLE guarddb_decisions RENAME COLUMN lines TO line")
            await run(conn.execute("SELECT 1"))
            written(sink)
            lost = plain.execute(
                "SELECT count(*) FROM guarddb_decisions WHERE line::json->'lost' IS NOT NULL"
            ).fetchone()
            assert lost == (1,)
            plain.execute("DROP TABLE guarddb_decisions, guarddb_decisions_head")
        sink.close()


@pytest.mark.parametrize("kept", [0, 3, 9])
@pytest.mark.parametrize("again", [True, False])
def test_the_next_row_does_not_seal_a_cut(fresh_dsn: str, kept: int, again: bool) -> None:
    sink = PostgresSink(fresh_dsn, key="k")
    for number in range(10):
        sink(record(number))
    if again:
        sink.close()
        sink = PostgresSink(fresh_dsn, key="k")
    with psycopg.connect(fresh_dsn) as conn:
        conn.execute("DELETE FROM guarddb_decisions WHERE seq > %s", [kept])
        if not again:  # a writer that goes on knows it without the head
            conn.execute("DELETE FROM guarddb_decisions_head")
    sink(record(11))
    sink(record(12))
    lines, head = sink.lines()
    sink.close()
    outcome = verify_lines("t", lines, head, b"k")
    assert [fault.fault for fault in outcome.faults] == ["removed"]
    assert not sink.failing


def test_the_rights_that_the_page_names_are_enough(fresh_dsn: str) -> None:
    with closing(PostgresSink(fresh_dsn)) as sink:
        sink(record(1))
    with psycopg.connect(fresh_dsn) as conn:
        conn.execute(
            "DROP ROLE IF EXISTS guarddb_log_writer; CREATE ROLE guarddb_log_writer;"
            "GRANT SELECT, INSERT ON guarddb_decisions, guarddb_decisions_head TO guarddb_log_writer;"
            "GRANT UPDATE ON guarddb_decisions_head TO guarddb_log_writer"
        )
    try:
        with closing(PostgresSink(f"{fresh_dsn} options='-c role=guarddb_log_writer'")) as sink:
            sink(record(2))
            assert not sink.failing
            assert len(sink.lines()[0]) == 2
    finally:
        with psycopg.connect(fresh_dsn) as conn:
            conn.execute("DROP OWNED BY guarddb_log_writer; DROP ROLE guarddb_log_writer")


def test_many_writers_share_a_table(fresh_dsn: str) -> None:
    sinks = [PostgresSink(fresh_dsn, key="k") for _ in range(4)]
    sinks[0].ready()
    threads = [threading.Thread(target=lambda s=s: [s(record(n)) for n in range(25)]) for s in sinks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines, head = sinks[0].lines()
    for sink in sinks:
        sink.close()
    outcome = verify_lines("table", lines, head, b"k")
    assert (outcome.faults, outcome.lines) == ([], 100)


# On an event loop


async def test_a_table_does_not_hold_up_the_event_loop_and_refusals_are_written_first(
    dsn: str, fresh_dsn: str
) -> None:
    sink = PostgresSink(fresh_dsn, timeout=30)
    policy = open_policy(statement_rules={"allow": ["select"]})
    async with await guarddb.AsyncConnection.connect(dsn, policy=policy, on_decision=sink) as conn:
        await conn.execute("SELECT 1")
        with psycopg.connect(fresh_dsn) as admin:
            written(sink)
            admin.execute("LOCK TABLE guarddb_decisions IN ACCESS EXCLUSIVE MODE")
            for number in range(5):  # nobody waits for the table
                cur = await conn.execute("SELECT %s::int", [number])
                assert await cur.fetchone() == (number,)
            refused = asyncio.create_task(conn.execute("DELETE FROM nothing"))
            async with await guarddb.AsyncConnection.connect(dsn, policy=open_policy()) as other:
                for _ in range(20):
                    await other.execute("SELECT 1")
            assert not refused.done()
            admin.rollback()
            with pytest.raises(guarddb.PolicyViolation):
                await refused
            outcomes = [row[0] for row in admin.execute("SELECT outcome FROM guarddb_decisions ORDER BY seq")]
            assert outcomes == ["done"] * 6 + ["refused"]
    await asyncio.to_thread(sink.close)


@pytest.mark.parametrize("fsync", ["always", "refusals", "never"])
async def test_a_disk_does_not_hold_up_the_event_loop_and_refusals_are_on_it_first(
    dsn: str, tmp_path: Path, fsync: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk takes its time other statements go on; the error of a refusal waits for it."""
    forced: list[tuple[bool, int]] = []
    free = threading.Event()

    def slow(file: int) -> None:
        size = os.fstat(file).st_size
        assert free.wait(30)
        real(file)
        forced.append((threading.current_thread() is threading.main_thread(), size))

    real = os.fsync
    sink = JsonlSink(tmp_path / "d.jsonl", fsync=fsync, max_bytes=100_000)
    policy = open_policy(statement_rules={"allow": ["select"]})
    async with await guarddb.AsyncConnection.connect(dsn, policy=policy, on_decision=sink) as conn:
        monkeypatch.setattr(os, "fsync", slow)
        await conn.execute("SELECT 1")
        refused = [asyncio.create_task(conn.execute("DELETE FROM nothing")) for _ in range(2)]
        async with await guarddb.AsyncConnection.connect(
            dsn, policy=open_policy(), on_decision=sink
        ) as other:
            for _ in range(20):
                await other.execute("SELECT 1")
        assert all(each.done() is (fsync == "never") for each in refused)
        free.set()
        written = []
        for each in refused:
            with pytest.raises(guarddb.PolicyViolation):
                await each
            written.append(len(forced))
    lines = (tmp_path / "d.jsonl").read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["outcome"] for line in lines].count("refused") == 2
    assert not any(on_the_loop for on_the_loop, _ in forced)
    if fsync == "never":
        assert forced == []
    else:
        last = max(i for i, line in enumerate(lines) if json.loads(line)["outcome"] == "refused")
        assert max(size for _, size in forced) >= sum(map(len, lines[: last + 1]))
        assert written[0] >= 1
    await asyncio.to_thread(sink.close)


async def test_a_disk_that_fails_in_its_thread_refuses_what_comes_next(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    sink = JsonlSink(tmp_path / "d.jsonl")
    policy = open_policy(statement_rules={"allow": ["select"]})
    async with await guarddb.AsyncConnection.connect(
        dsn, policy=policy, on_decision=sink, autocommit=True
    ) as conn:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", broken)
            with pytest.raises(guarddb.PolicyViolation):
                await conn.execute("DELETE FROM nothing")
            assert "cannot be written (Input/output error)" in caplog.text
            with pytest.raises(guarddb.PolicyUnavailable):
                await conn.execute("SELECT 1")
        await conn.execute("SELECT 1")
    sink.close()


@pytest.mark.parametrize("on_full", ["refuse", "pass"])
async def test_a_table_that_cannot_be_written_on_an_event_loop(
    dsn: str, fresh_dsn: str, on_full: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sink = PostgresSink(fresh_dsn, timeout=60, queue=2, on_full=on_full)
    async with await guarddb.AsyncConnection.connect(dsn, policy=open_policy(), on_decision=sink) as conn:
        await conn.execute("SELECT 1")
        await asyncio.to_thread(sink.close)
        sink.timeout = 1  # of the connections from here on, which all fail
        with psycopg.connect(fresh_dsn) as admin:
            admin.execute("LOCK TABLE guarddb_decisions IN ACCESS EXCLUSIVE MODE")
            ran = 0
            with suppress(guarddb.PolicyUnavailable):
                while ran < 8:
                    await conn.execute("SELECT 1")
                    ran += 1
            # Where nothing is to run unlogged, no more did than the queue holds and the one that was being written.
            assert ran == 8 if on_full == "pass" else ran <= 3
            await asyncio.to_thread(written, sink)
        sink.timeout = 60
        await conn.execute("SELECT 2")
        await asyncio.to_thread(sink.close)
        assert "CRITICAL" in {record.levelname for record in caplog.records}
        with psycopg.connect(fresh_dsn) as admin:
            lines = [json.loads(row[0]) for row in admin.execute("SELECT line FROM guarddb_decisions")]
        assert sum(line.get("lost", 0) for line in lines) == ran
