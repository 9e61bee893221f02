"""`guarddb wall` on every line of PostgreSQL, by an owner that is no superuser, seen through plain psycopg."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.wall.conftest import made
from tests.wall.ground import Ground


def test_it_goes_up_and_down_and_nobody_else_notices(ground: Ground) -> None:
    questions = [
        "SELECT * FROM customers ORDER BY id",
        "SELECT * FROM docs ORDER BY id",
        "SELECT * FROM plain ORDER BY id",
        "SELECT * FROM tells",
        "SELECT * FROM titles ORDER BY id",
        "SELECT * FROM peek()",
        "SELECT twice(2)",
        "INSERT INTO docs VALUES (9, 2, 'secret nine', 1, 1) RETURNING *",
        "UPDATE docs SET big = 8 WHERE id = 9 RETURNING *",
        "DELETE FROM docs WHERE id = 9 RETURNING *",
    ]
    before = [ground.as_app(question) for question in questions]
    assert ground.levels() >= {"missing", "surplus"}
    ground.up()
    assert [ground.as_app(question) for question in questions] == before
    assert ground.levels() == set()
    assert ground.as_agent("SELECT id FROM docs ORDER BY id") == [(1,), (2,)]

    # Once more over what is there, and down.
    ground.up()
    assert ground.levels() == set()
    assert ground.wall("--diff") == (0, {"schema": ground.schema, "changes": []})
    assert ground.wall("--drop")[0] == 0
    assert [ground.as_app(question) for question in questions] == before
    left = (
        "SELECT (SELECT count(*) FROM pg_policy), (SELECT count(*) FROM pg_class WHERE relrowsecurity),"
        f" (SELECT count(*) FROM pg_namespace WHERE nspname LIKE '{ground.stem}%'),"
        f" (SELECT count(*) FROM pg_roles WHERE rolname IN ('{ground.stem}_reader', '{ground.stem}_keeper'))"
    )
    assert ground.as_admin(left) == [(0, 0, 0, 0)]
    assert ground.as_agent("SELECT * FROM public.docs").startswith("42501")
    assert ground.wall("--drop")[0] == 0


def test_masks_filters_lists_and_views(ground: Ground) -> None:
    report = ground.up()
    ann = hashlib.sha256(b"raw-ann@example.org").hexdigest()
    seen = hashlib.sha256(b"2024-01-01 00:30:00+00").hexdigest()
    rows = ground.as_agent("SELECT id, name, ssn, email, born, seen, low FROM customers ORDER BY id")
    assert rows[0] == (1, "Ann", "[redacted]", ann, None, seen, "[redacted]")
    assert (*rows[2][2:4], rows[2][6]) == (None, None, None)
    assert ground.as_agent("SELECT * FROM titles ORDER BY id") == [(1, "one", "Ann"), (2, "two", "Bob")]
    assert ground.as_agent("SELECT * FROM over_view ORDER BY id") == [(1, "one", "Ann"), (2, "two", "Bob")]
    # Its GROUP BY stands on the primary key of the table.
    assert ground.as_agent("SELECT * FROM per_doc ORDER BY id") == [(1, "one", 1), (2, "two", 1)]
    assert ground.as_agent("SELECT ssn, shout FROM people WHERE id = 1") == [("[redacted]", ann.upper())]
    assert ground.as_agent("SELECT word FROM words ORDER BY 1") == [("a",), ("b",)]
    for gone in ("secrets", "tells", "stored"):
        assert f"public.{gone}" in report["left_out"]
        assert ground.as_agent(f"SELECT * FROM {gone}").startswith("42501")
    for base in ("customers", "docs", "plain", "secrets", "titles", "stored"):
        assert ground.as_agent(f"SELECT * FROM public.{base}").startswith("42501")
    for function in ("peek()", "twice(1)"):
        assert ground.as_agent(f"SELECT {function}").startswith("42501")


def test_writes_stay_inside_the_filter_and_leave_masked_columns_alone(ground: Ground) -> None:
    ground.up()
    policy = "42501 new row violates row-level security policy"
    assert ground.as_agent("INSERT INTO docs VALUES (5, 2, 'mine', 1, 1)").startswith(policy)
    assert ground.as_agent("UPDATE docs SET tenant = 2 WHERE id = 1").startswith(policy)
    assert ground.as_agent("UPDATE docs SET title = 'x'") == "UPDATE 2"
    assert ground.as_agent("DELETE FROM docs WHERE id > 1 RETURNING id") == [(2,)]
    assert ground.as_agent("INSERT INTO plain (word) VALUES ('c') RETURNING id") == [(3,)]
    assert ground.as_agent("UPDATE customers SET n = 2 WHERE id = 1 RETURNING ssn") == [("[redacted]",)]
    assert ground.as_agent("UPDATE customers SET ssn = 'x' WHERE id = 1").startswith(
        ("42501", "0A000", "55000")
    )
    assert ground.as_agent("INSERT INTO customers (id, name) VALUES (8, 'New')") == "INSERT 0 1"
    assert ground.as_admin("SELECT count(*) FROM docs WHERE tenant = 2") == [(2,)]
    # A row that may not be written is refused before a conflict is looked for.
    conflict = "INSERT INTO docs VALUES (3, 2, 'x', 1, 1) ON CONFLICT DO NOTHING"
    assert ground.as_agent(conflict).startswith(policy)


def test_a_read_only_profile_gives_no_right_to_write(ground: Ground) -> None:
    ground.profile(access_mode="read_only")
    ground.up()
    statement = "INSERT INTO plain (word) VALUES ('x')"
    assert ground.as_agent("SHOW transaction_read_only") == [("on",)]
    assert ground.as_agent("SET transaction_read_only = off", statement).startswith("42501")
    assert ground.as_agent("SET default_transaction_read_only = off", statement).startswith("42501")
    assert ground.as_agent("SELECT count(*) FROM docs FOR UPDATE").startswith(("42501", "25006", "0A000"))


def test_only_listed_tables_and_kinds(ground18: Ground) -> None:
    ground18.profile(
        table_allowlist=["docs", "titles"],
        statement_rules={"allow": ["select", "insert"]},
        guarddb={"function_allowlist": ["twice"]},
    )
    report = ground18.up()
    assert set(report["views"]) == {"public.docs", "public.titles"}
    assert ground18.as_agent("SELECT count(*) FROM titles") == [(2,)]
    assert ground18.as_agent("SELECT * FROM customers").startswith("42501")
    assert ground18.as_agent("SELECT twice(2)") == [(4,)]
    assert ground18.as_agent("UPDATE docs SET title = 'x'").startswith("42501")
    assert ground18.as_agent("INSERT INTO docs VALUES (7, 1, 'x', 1, 1)") == "INSERT 0 1"


ATTACKS = {
    "an inner name that PostgreSQL does not have": (
        "SELECT id, (SELECT xmin FROM pg_roles LIMIT 1) FROM customers AS c(id, name, xmin) ORDER BY id"
    ),
    "composite cast in FROM": "SELECT * FROM customers AS c, LATERAL (SELECT (c).ssn) AS x",
    "cast of the row": "SELECT (c::text::{schema}.customers).ssn FROM customers AS c",
    "star over an aliased join with unnest": (
        "SELECT raw || '' FROM (SELECT * FROM (customers c CROSS JOIN unnest(ARRAY['a']) f) AS j)"
        " q(a, b, raw, d, e, f, g, h, i)"
    ),
    "whole row": "SELECT to_jsonb(c) FROM customers AS c",
    "returning old": "UPDATE customers SET n = n WHERE id = 1 RETURNING (SELECT old)",
    "returning new": "UPDATE customers SET n = n WHERE id = 1 RETURNING (SELECT new)",
    "generated column": "SELECT low FROM customers",
    "aggregate": "SELECT string_agg(ssn, ',') || min(low) || max(email) FROM customers",
    "error text": "SELECT ssn::int FROM customers",
    "statistics": "SELECT most_common_vals::text, histogram_bounds::text FROM pg_stats WHERE tablename = 'customers'",
    "raw statistics": "SELECT * FROM pg_statistic",
    "pattern over a hidden row": r"SELECT count(*) FROM docs WHERE title LIKE '%secret\'",
    "division by hidden values": "SELECT count(*) FROM docs WHERE 1 / (big - 7) < 9",
    "a row comparison that raises": (
        "SELECT count(*) FROM docs WHERE id = ANY (ARRAY[3]) AND row(id, 1) = ANY (ARRAY[row('x'::text, 1)])"
    ),
    "copy of the base table": "COPY public.customers TO STDOUT",
    "row security off": "SET row_security = off; SELECT title FROM docs",
    "function that runs as its owner": "SELECT * FROM peek()",
    "definition": "SELECT pg_get_viewdef('{schema}.customers'::regclass), ssn FROM public.customers",
    "another role": "SET ROLE {reader}; SELECT ssn FROM public.customers",
    "what was installed": "SELECT * FROM {schema}_private.installed",
    "alter": "ALTER VIEW {schema}.customers ALTER COLUMN ssn SET DEFAULT 'x'",
    "trigger": "CREATE TRIGGER t INSTEAD OF INSERT ON {schema}.customers EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "conflict": (
        "INSERT INTO customers (id, name) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET name = customers.ssn RETURNING name"
    ),
    "conflict on a guess": "INSERT INTO customers (id, name, email) VALUES (9, 'x', 'raw-bob') ON CONFLICT DO NOTHING",
    "explain": "EXPLAIN (ANALYZE, VERBOSE) SELECT ssn, low FROM customers WHERE ssn > 'raw'",
    "query in xml": "SELECT query_to_xml('SELECT * FROM customers', true, true, '')::text",
    "missing table function": "SELECT * FROM pg_get_publication_tables('{schema}')",
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_through_the_agents_role_bring_nothing(walled_ground18: Ground, name: str) -> None:
    ground = walled_ground18
    statement = ATTACKS[name].format(schema=ground.schema, reader=f"{ground.stem}_reader")
    got = shown(ground, statement)
    assert "raw-" not in got.lower().replace("'raw", "")
    assert "secret" not in got.replace(statement, "")
    assert not got.startswith("22")


def shown(ground: Ground, statement: str) -> str:
    """All that a client gets to see: rows, notices, the error with its details. What was written is undone."""
    seen: list[str] = []
    with (
        psycopg.connect(ground.agent, autocommit=True) as conn,
        conn.transaction(force_rollback=True),
    ):
        conn.add_notice_handler(lambda notice: seen.append(str(notice.message_primary)))
        for each in statement.split("; "):
            try:
                with conn.transaction():
                    cursor = conn.execute(each)
                    seen += [repr(row) for row in (cursor.fetchall() if cursor.description else ())]
            except psycopg.Error as ex:
                diagnostic = ex.diag
                if "[redacted]" in str(diagnostic.message_primary):
                    seen.append("the mask")
                    continue
                seen.append(f"{ex.sqlstate} {diagnostic.message_primary} {diagnostic.message_detail}")
    return "\n".join(seen)


def test_the_three_critical_inputs_return_masks_on_every_line(ground: Ground) -> None:
    ground.up()
    assert ground.as_agent(ATTACKS["an inner name that PostgreSQL does not have"])[0] == (1, "[redacted]")
    star = ground.as_agent(ATTACKS["star over an aliased join with unnest"])
    assert [row[0] for row in star] == ["[redacted]", "[redacted]", None]
    old = ground.as_agent(ATTACKS["returning old"])
    assert "raw" not in str(old)


@pytest.mark.parametrize(
    ("change", "level"),
    [
        ("GRANT SELECT ON customers TO {agent}", "surplus"),
        ("GRANT SELECT (ssn) ON customers TO {agent}", "surplus"),
        ("GRANT SELECT ON customers TO PUBLIC", "surplus"),
        ("GRANT {app} TO {agent}", "surplus"),
        ("GRANT pg_read_all_data TO {agent}", "surplus"),
        ("GRANT {stem}_reader TO {agent}", "surplus"),
        ("ALTER ROLE {agent} BYPASSRLS", "surplus"),
        ("ALTER ROLE {agent} SUPERUSER", "surplus"),
        ("GRANT EXECUTE ON FUNCTION peek() TO {agent}", "surplus"),
        ("GRANT EXECUTE ON FUNCTION pg_read_file(text) TO {agent}", "surplus"),
        ("GRANT EXECUTE ON FUNCTION pg_read_file(text) TO PUBLIC", "surplus"),
        ("GRANT SELECT ON pg_statistic TO PUBLIC", "surplus"),
        ("GRANT SELECT (stavalues1) ON pg_statistic TO {agent}", "surplus"),
        ("GRANT SELECT (rolpassword) ON pg_authid TO PUBLIC", "surplus"),
        ("GRANT SELECT ON {toast} TO {agent}", "surplus"),
        ("GRANT CREATE ON SCHEMA public TO {agent}", "surplus"),
        ("GRANT USAGE ON SCHEMA {schema}_private TO {agent}", "surplus"),
        ("GRANT SET ON PARAMETER log_statement TO {agent}", "surplus"),
        ("GRANT USAGE ON SEQUENCE plain_id_seq TO {agent}", None),
        ("GRANT UPDATE ON SEQUENCE plain_id_seq TO {agent}", "surplus"),
        ("CREATE TABLE own (); ALTER TABLE own OWNER TO {agent}", "surplus"),
        ("ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT SELECT ON TABLES TO {agent}", "surplus"),
        ("GRANT TRUNCATE ON {schema}.docs TO {agent}", "surplus"),
        ("GRANT SELECT ON {schema}_private.installed TO {agent}", "surplus"),
        ("REVOKE SELECT ON {schema}.docs FROM {agent}", "missing"),
        ("REVOKE USAGE ON SCHEMA {schema} FROM {agent}", "missing"),
        ("ALTER TABLE docs DISABLE ROW LEVEL SECURITY", "missing"),
        ("DROP POLICY guarddb_{schema} ON docs", "missing"),
        ("ALTER POLICY guarddb_{schema} ON docs USING (true)", "changed"),
        ("DROP VIEW {schema}.plain", "missing"),
        ("CREATE OR REPLACE VIEW {schema}.plain AS SELECT id, upper(word) AS word, doc FROM public.plain", "changed"),
        ("CREATE RULE more AS ON UPDATE TO {schema}.plain DO ALSO NOTHING", "changed"),
        ("CREATE TRIGGER t INSTEAD OF DELETE ON {schema}.plain FOR EACH ROW EXECUTE FUNCTION pg_catalog.{trigger}()", "changed"),
        ("GRANT SELECT ON customers TO {stem}_reader", "changed"),
        ("ALTER ROLE {stem}_reader BYPASSRLS", "changed"),
        ("ALTER TABLE customers ADD COLUMN phone text", "changed"),
        ("CREATE TABLE more (id int)", "changed"),
        ("ALTER TABLE plain RENAME TO simple", "changed"),
    ],
)  # fmt: skip
def test_check_finds_what_is_too_much_and_what_is_gone(
    ground18: Ground, change: str, level: str | None
) -> None:
    ground18.up()
    names = {r: f"{ground18.stem}_{r}" for r in ("agent", "app", "owner")}
    query = "SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'public.customers'::regclass"
    names["trigger"] = "tsvector_update_trigger"
    names["toast"] = ground18.as_admin(query)[0][0]
    done = ground18.as_admin(change.format(schema=ground18.schema, stem=ground18.stem, **names))
    assert not str(done)[:5].isdigit(), done
    found = ground18.levels()
    assert (found == set()) if level is None else (level in found)
    if (
        "ROLE" not in change
        and "OWNER" not in change
        and "GRANT pg_" not in change
        and " TO {agent}" not in change
    ):
        # The wall mends itself.
        ground18.wall("--apply", dsn=ground18.admin)
        assert ground18.levels() <= {"surplus"}


def test_diff_shows_what_a_changed_profile_and_a_changed_table_change(ground18: Ground) -> None:
    ground18.up()
    ground18.profile(masking_rules=[{"table": "docs", "column": "title", "kind": "null"}])
    code, document = ground18.wall("--diff")
    changed = {each["object"] for each in document["changes"]}
    assert code == 1
    assert {"view docs", "view customers"} <= changed
    assert "changed" in ground18.levels()
    ground18.up()
    assert ground18.as_agent("SELECT DISTINCT title FROM docs") == [(None,)]
    ground18.as_owner("ALTER TABLE docs ADD COLUMN extra int")
    assert [each["object"] for each in ground18.wall("--diff")[1]["changes"]] == [
        f"right of {ground18.stem}_reader on public.docs",
        "view docs",
    ]


def test_several_at_a_time_wait_for_each_other(ground18: Ground, tmp_path: Path) -> None:
    """Two installations would drop views that the other one is about to read."""
    paths = {}
    for stem in (ground18.stem, f"{ground18.stem}_other"):
        paths[stem] = tmp_path / f"{stem}.json"
        paths[stem].write_text(json.dumps({**ground18.policy, "name": stem}))

    def started(path: Path, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "guarddb.cli", "wall", "-p", str(path), "-d", ground18.owner]
        command += ["-r", ground18.agent_role, *options]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    mine, other = paths.values()
    for commands in (
        [(mine, "--apply"), (other, "--apply"), (mine, "--apply"), (mine, "--check")],
        [(mine, "--drop"), (other, "--drop")],
    ):
        running = [started(*command) for command in commands]
        for process, (_, option) in zip(running, commands, strict=True):
            out, _ = process.communicate()
            assert process.returncode in ((0, 1) if option == "--check" else (0,)), out
    assert ground18.wall("--check")[1]["state"] == "none"


def test_what_is_printed_is_what_is_applied(ground18: Ground) -> None:
    _, document = ground18.wall()
    assert document["sql"].startswith("-- The wall of the policy")
    ground18.as_owner(document["sql"])
    assert ground18.levels() == set()
    ground18.as_owner(document["sql"])
    assert ground18.levels() == set()


def test_an_installer_without_the_owners_rights_changes_nothing(
    ground18: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = ground18.wall("--apply", dsn=ground18.app)
    assert code == 2
    assert "has not the rights of the owner" in capsys.readouterr().err
    assert ground18.as_admin("SELECT count(*) FROM pg_policy") == [(0,)]


@pytest.mark.parametrize(
    "entry",
    [
        {"masking_rules": [{"table": "docs", "column": "titel", "kind": "null"}]},
        {"masking_rules": [{"table": "dcos", "column": "title", "kind": "null"}]},
        {"row_filters": [{"table": "dcos", "predicate": "id > 0"}]},
    ],
)
def test_no_wall_is_made_of_what_protects_nothing(
    ground18: Ground, capsys: pytest.CaptureFixture[str], entry: dict[str, Any]
) -> None:
    ground18.profile(**entry)
    for options in ((), ("--apply",), ("--diff",)):
        assert ground18.wall(*options)[0] == 2
        assert "protects nothing" in capsys.readouterr().err
    assert ground18.as_admin("SELECT count(*) FROM pg_policy") == [(0,)]
    ground18.profile(**entry, guarddb={"on_unknown": "warn"})
    assert ground18.wall("--apply")[0] == 0
    assert "protects nothing" in capsys.readouterr().err
    ground18.profile(**entry)
    assert ground18.wall("--drop")[0] == 0


@pytest.mark.parametrize("options", [("--apply", "--drop"), ("--rewrite",), ("--check", "--diff")])
def test_options_that_do_not_go_together(ground18: Ground, options: tuple[str, ...]) -> None:
    assert ground18.wall(*options)[0] == 2


def test_check_of_a_profile_says_whether_its_wall_is_up(ground18: Ground) -> None:
    assert wall_in_check(ground18) == "none"
    ground18.up()
    assert wall_in_check(ground18) == "up"
    ground18.as_owner("ALTER TABLE docs ADD COLUMN extra int")
    assert wall_in_check(ground18) == "out of date"


def test_check_by_the_agent_itself_does_not_need_the_values_of_settings(ground18: Ground) -> None:
    ground18.profile(
        row_filters=[{"table": "docs", "predicate": "tenant = current_setting('app.tenant')::int"}]
    )
    ground18.up("--settings", "app.tenant=1")
    code, document = ground18.wall("--check", dsn=ground18.agent)
    assert (code, document["state"]) == (0, "up")
    ground18.as_owner("ALTER TABLE docs ADD COLUMN extra int")
    assert ground18.wall("--check", dsn=ground18.agent)[1]["state"] == "out of date"


def test_apply_says_what_the_role_may_do_besides(ground18: Ground) -> None:
    ground18.as_admin(f"ALTER ROLE {ground18.agent_role} BYPASSRLS")
    assert [each["what"] for each in ground18.up()["left"]] == ["BYPASSRLS"]


def test_the_systems_counters_are_closed_when_asked_for(ground18: Ground) -> None:
    question = "SELECT count(*) FROM pg_stat_user_tables, pg_locks"
    assert not str(ground18.as_agent(question)).startswith("42501")
    assert ground18.wall("--apply", "--close-statistics", dsn=ground18.admin)[0] == 0
    assert ground18.as_agent(question).startswith("42501")
    assert ground18.as_agent("SELECT * FROM pg_stat_io").startswith("42501")
    assert ground18.wall("--drop", dsn=ground18.admin)[0] == 0
    assert not str(ground18.as_agent(question)).startswith("42501")


def wall_in_check(ground: Ground) -> Any:
    import json
    from contextlib import redirect_stdout
    from io import StringIO
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from guarddb.cli import main

    with TemporaryDirectory() as directory:
        path = Path(directory) / "policy.json"
        path.write_text(json.dumps(ground.policy))
        out = StringIO()
        with redirect_stdout(out):
            main(["check", str(path), "--dsn", ground.owner, "--json"])
    return json.loads(out.getvalue())["wall"]


def test_what_an_extension_shows_to_everybody_is_nothing_too_much(server15_dsn: str) -> None:
    """pg_stat_statements shows everybody's statements to those who may see them, and counts to all."""
    for ground in made(server15_dsn, (Path(__file__).parent / "ground.sql").read_text()):
        if str(ground.as_admin("CREATE EXTENSION pg_stat_statements"))[:5] != "CREAT":
            pytest.skip("the extension is not installed")
        ground.up()
        assert ground.levels() == set()
        ground.as_admin("GRANT EXECUTE ON FUNCTION pg_stat_statements_reset TO PUBLIC")
        assert ground.levels() == {"surplus"}
        ground.as_admin("REVOKE EXECUTE ON FUNCTION pg_stat_statements_reset FROM PUBLIC")
        assert ground.levels() == set()
        ground.as_admin("GRANT UPDATE ON pg_stat_statements TO PUBLIC")
        assert ground.levels() == {"surplus"}
        ground.as_admin("REVOKE UPDATE ON pg_stat_statements FROM PUBLIC")
        ground.profile(table_denylist=["pg_stat_statements"])
        assert "surplus" in ground.levels()
