"""The decision log: what a record says, the file and its chain, and what becomes of statements when it cannot be written."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
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
        (lambda lines: lines.pop(0), []),
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


def test_a_log_that_lost_its_beginning_says_so(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    filled(path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[2:]))
    outcome = verify([path])
    assert outcome.notes
    assert "begins with record 3" in outcome.notes[0]


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
        plain.execute("UPDATE audit_log SET line = replace(line, 'whereless', 'x') WHERE seq = 2")
        assert main(verify_it) == 1
        assert "audit_log:2: changed" in capsys.readouterr().out
        plain.execute("DELETE FROM audit_log WHERE seq = 2")
        assert main(verify_it) == 1
        assert "missing at the end" in capsys.readouterr().out
    sink.close()


async def test_a_table_that_is_gone_refuses_or_passes(connect: Connect, fresh_dsn: str) -> None:
    for on_full in ("refuse", "pass"):
        sink = PostgresSink(fresh_dsn, on_full=on_full)  # type: ignore[arg-type]
        conn = await connect(on_decision=sink, autocommit=True)
        await run(conn.execute("SELECT 1"))
        with psycopg.connect(fresh_dsn, autocommit=True) as plain:
            plain.execute("ALTER TABLE guarddb_decisions RENAME COLUMN line TO lines")
            await run(conn.execute("SELECT 1"))  # this record is lost, and told of
            if on_full == "refuse":
                with pytest.raises(guarddb.PolicyUnavailable):
                    await run(conn.execute("SELECT 1"))
            else:
                await run(conn.execute("SELECT 1"))
            plain.execute("ALTER TABLE guarddb_decisions RENAME COLUMN lines TO line")
            await run(conn.execute("SELECT 1"))
            lost = plain.execute(
                "SELECT count(*) FROM guarddb_decisions WHERE line::json->'lost' IS NOT NULL"
            ).fetchone()
            assert lost == (1,)
            plain.execute("DROP TABLE guarddb_decisions, guarddb_decisions_head")
        sink.close()


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
