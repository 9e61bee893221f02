"""`guarddb lint`: files, exit codes, the outputs for machines, the safe form, and the frameworks' own SQL."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

import guarddb
from tests.cli.conftest import Run

UNSAFE = "-- a comment\nALTER TABLE orders ADD COLUMN note text;\n\nCREATE INDEX ON orders (note);\n"
SAFE = "SET lock_timeout = '2s';\nALTER TABLE orders ADD COLUMN note text;\nCREATE INDEX CONCURRENTLY ON orders (note);\n"


@pytest.fixture
def unsafe(tmp_path: Path) -> Path:
    path = tmp_path / "0001.sql"
    path.write_text(UNSAFE)
    return path


def test_an_error_is_exit_code_1_and_shows_the_safe_form(run: Run, unsafe: Path) -> None:
    answer = run("lint", unsafe)
    assert answer.code == 1
    assert f"{unsafe}:4: error missing_concurrently" in answer.out
    assert f"{unsafe}:2: warning missing_lock_timeout" in answer.out
    assert "CREATE INDEX CONCURRENTLY ON orders (note);" in answer.out
    assert "1 errors, 1 warnings" in answer.out


def test_no_error_is_exit_code_0(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "safe.sql"
    path.write_text(SAFE)
    assert run("lint", path).code == 0
    assert run("lint", path, path, "--json").code == 0


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_standard_input(run: Run, arguments: tuple[str, ...]) -> None:
    answer = run("lint", *arguments, stdin=UNSAFE)
    assert answer.code == 1
    assert "standard input:4" in answer.out


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (("lint", "nowhere.sql"), "", "cannot read nowhere.sql"),
        (("lint",), "SELEC 1", "syntax error"),
        (("lint", "--fix"), "SELEC 1", "syntax error"),
        (("lint",), b"\xff", "UTF-8"),
        (("lint", "--json", "--sarif"), "SELECT 1", "give one of"),
        (("lint", "--schema", "nowhere.json"), "SELECT 1", "cannot read nowhere.json"),
        (("lint", "--dsn", "host=/nowhere"), "SELECT 1", "cannot connect"),
        (("lint", "--alembic", "nowhere.ini"), "", "cannot read nowhere.ini"),
        (("lint", "--django", "nowhere.py"), "", "cannot read nowhere.py"),
        (("lint", "--server-version", "x"), "", "server-version"),
    ],
)
def test_bad_input_is_exit_code_2(
    run: Run, arguments: tuple[str, ...], stdin: str | bytes, said: str
) -> None:
    answer = run(*arguments, stdin=stdin)
    assert answer.code == 2
    assert said in answer.err


def test_a_script_without_a_statement_is_safe(run: Run) -> None:
    assert run("lint", stdin="-- nothing\n").code == 0


def test_json(run: Run, unsafe: Path) -> None:
    answer = run("lint", unsafe, "--json")
    document = json.loads(answer.out)
    assert answer.code == 1
    assert document["safe"] is False
    (error,) = [each for each in document["findings"] if each["severity"] == "error"]
    assert error == {
        "file": str(unsafe),
        "line": 4,
        "severity": "error",
        "rule": "missing_concurrently",
        "message": "CREATE INDEX without CONCURRENTLY: a SHARE lock on orders blocks writes while PostgreSQL builds the index",
        "statement": "CREATE INDEX ON orders (note)",
        "hint": "CREATE INDEX CONCURRENTLY ON orders (note);",
    }


def test_sarif(run: Run, unsafe: Path) -> None:
    document = json.loads(run("lint", unsafe, "--sarif").out)
    assert document["version"] == "2.1.0"
    (one,) = document["runs"]
    rules = [rule["id"] for rule in one["tool"]["driver"]["rules"]]
    for result in one["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == unsafe.as_posix()
        assert place["region"]["startLine"] in (2, 4)
    assert {result["level"] for result in one["results"]} == {"error", "warning"}


def test_annotations_for_github_are_one_line_each(run: Run, unsafe: Path) -> None:
    lines = run("lint", unsafe, "--github").out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(
        f"::error file={unsafe},line=4,title=missing_concurrently::CREATE INDEX without"
    )
    assert "%0ACREATE INDEX CONCURRENTLY" in lines[1]


def test_the_safe_form_is_printed_and_is_safe(run: Run, unsafe: Path) -> None:
    answer = run("lint", unsafe, "--fix")
    assert answer.code == 0
    assert answer.out == SAFE
    assert run("lint", stdin=answer.out).code == 0


def test_what_has_no_safe_form_is_said_and_exit_code_1(run: Run) -> None:
    answer = run("lint", "--fix", stdin="ALTER TABLE orders DROP COLUMN note;")
    assert answer.code == 1
    assert "ALTER TABLE orders DROP COLUMN note;" in answer.out
    assert "-- error: unsafe_drop: DROP COLUMN destroys" in answer.out


def test_the_catalog_counts(run: Run, fresh_dsn: str, tmp_path: Path) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE orders (id int, note text)")
        snapshot = tmp_path / "catalog.json"
        snapshot.write_text(guarddb.Catalog.from_connection(conn).to_json())
    sql = "CREATE INDEX ON orders (note)"
    assert run("lint", stdin=sql).code == 1
    assert run("lint", "--dsn", fresh_dsn, stdin=sql).code == 0  # nothing is in it
    assert run("lint", "--schema", snapshot, stdin=sql).code == 0


def test_one_transaction(run: Run) -> None:
    sql = "ALTER TABLE t ADD CONSTRAINT k CHECK (a > 0) NOT VALID; ALTER TABLE t VALIDATE CONSTRAINT k"
    assert run("lint", stdin=sql).code == 0
    assert run("lint", "-1", stdin=sql).code == 1


def test_the_servers_version_counts(run: Run) -> None:
    sql = "ALTER TABLE t ADD COLUMN c int GENERATED ALWAYS AS (a) VIRTUAL"
    assert run("lint", "--server-version", "18", stdin=sql).code == 0
    assert run("lint", "--server-version", "16", stdin=sql).code == 1


# --- frameworks ---

ENV = """
from alembic import context
context.configure(url=context.config.get_main_option("sqlalchemy.url"), literal_binds=True, dialect_name="postgresql")
with context.begin_transaction():
    context.run_migrations()
"""
REVISION = """
from alembic import op
import sqlalchemy as sa
revision, down_revision, branch_labels, depends_on = {name!r}, {down!r}, None, None
def upgrade():
    {body}
"""


@pytest.fixture
def alembic(tmp_path: Path) -> Path:
    pytest.importorskip("alembic")
    versions = tmp_path / "scripts" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / "scripts" / "env.py").write_text(ENV)
    (tmp_path / "alembic.ini").write_text(
        "[alembic]\nscript_location = scripts\nsqlalchemy.url = postgresql://\n"
    )
    table = (
        'op.create_table("orders", sa.Column("id", sa.Integer, primary_key=True), sa.Column("note", sa.Text))'
    )
    (versions / "a1.py").write_text(REVISION.format(name="a1", down=None, body=table))
    index = 'op.create_index("orders_note", "orders", ["note"])'
    (versions / "b2.py").write_text(REVISION.format(name="b2", down="a1", body=index))
    return tmp_path / "alembic.ini"


def test_alembic_judges_what_would_really_run(run: Run, alembic: Path, fresh_dsn: str) -> None:
    whole = run("lint", "--alembic", alembic)
    assert whole.code == 0, whole  # the index is on a table that the same script makes
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)")
        conn.execute("INSERT INTO orders SELECT n, n FROM generate_series(1, 20000) AS n")
        conn.execute("CREATE TABLE alembic_version (version_num text)")
        conn.execute("INSERT INTO alembic_version VALUES ('a1')")
        conn.execute("ANALYZE")
    pending = run("lint", "--alembic", alembic, "--dsn", fresh_dsn)
    assert pending.code == 1, pending
    assert "missing_concurrently" in pending.out
    assert "20,000 rows" in pending.out


@pytest.mark.parametrize("location", ["db/scripts", "%(here)s/scripts", "scripts", "nowhere"])
def test_alembic_finds_scripts_where_alembic_does(
    run: Run, alembic: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    """Relative to the directory one is in, as Alembic has it; and beside its file, wherever one is."""
    folder = alembic.parent / "db"
    folder.mkdir()
    alembic.rename(folder / "alembic.ini")
    (alembic.parent / "scripts").rename(folder / "scripts")
    text = (folder / "alembic.ini").read_text().replace("location = scripts", f"location = {location}")
    (folder / "alembic.ini").write_text(text)
    monkeypatch.chdir(alembic.parent)
    done = run("lint", "--alembic", "db/alembic.ini")
    assert done.code == (2 if location == "nowhere" else 0), done


DJANGO_SETTINGS = """
INSTALLED_APPS = ["shop"]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.postgresql", "NAME": {name!r}, "HOST": {host!r}, "USER": {user!r}}}}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
"""
MANAGE = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
FIRST = """
from django.db import migrations, models
class Migration(migrations.Migration):
    initial = True
    operations = [migrations.CreateModel("Order", [("id", models.BigAutoField(primary_key=True)), ("note",
    models.TextField())])]
"""
SECOND = """
from django.db import migrations, models
class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [migrations.AddIndex("order", models.Index(fields=["note"], name="order_note"))]
"""


def test_django_judges_what_would_really_run(run: Run, tmp_path: Path, fresh_dsn: str) -> None:
    pytest.importorskip("django")
    migrations = tmp_path / "shop" / "migrations"
    migrations.mkdir(parents=True)
    for path in (tmp_path / "shop" / "__init__.py", migrations / "__init__.py"):
        path.touch()
    (tmp_path / "shop" / "models.py").touch()
    (migrations / "0001_initial.py").write_text(FIRST)
    (migrations / "0002_note.py").write_text(SECOND)
    (tmp_path / "manage.py").write_text(MANAGE)
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        (tmp_path / "settings.py").write_text(
            DJANGO_SETTINGS.format(name=conn.info.dbname, host=conn.info.host, user=conn.info.user)
        )
        manage = tmp_path / "manage.py"
        answer = run("lint", "--django", manage)
        assert answer.code == 1, answer
        assert "shop.0002_note:" in answer.out
        assert "missing_concurrently" in answer.out
        assert "shop.0001_initial:" not in answer.out
        conn.execute(
            "CREATE TABLE django_migrations (id bigint GENERATED ALWAYS AS IDENTITY, app text, name text, applied timestamptz)"
        )
        conn.execute(
            "INSERT INTO django_migrations (app, name, applied)"
            " VALUES ('shop', '0001_initial', now()), ('shop', '0002_note', now())"
        )
        assert run("lint", "--django", manage).code == 0
