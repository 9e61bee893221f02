"""A database under a wall: who connects to it, and the command line that builds the wall."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from guarddb.cli import main
from tests.fix_server import one_at_a_time

#: Masks, filters, a denied table, and everything else as it comes.
PROFILE: dict[str, Any] = {
    "access_mode": "read_write",
    "table_denylist": ["secrets"],
    "masking_rules": [
        {"table": "customers", "column": "ssn", "kind": "redact"},
        {"table": "customers", "column": "email", "kind": "hash"},
        {"table": "customers", "column": "born", "kind": "null"},
        {"table": "customers", "column": "seen", "kind": "hash"},
    ],
    "row_filters": [{"table": "docs", "predicate": "tenant = 1"}],
}


class Ground:
    """One database. The owner of its tables is no superuser; the application and the agent are others again."""

    def __init__(self, admin: str, stem: str) -> None:
        self.admin = admin
        self.stem = stem
        self.owner = make_conninfo(admin, user=f"{stem}_owner")
        self.app = make_conninfo(admin, user=f"{stem}_app")
        self.agent = make_conninfo(admin, user=f"{stem}_agent")
        self.agent_role = f"{stem}_agent"
        self.schema = f"{stem}_wall"
        self.policy: dict[str, Any] = {"name": stem, **PROFILE}

    def profile(self, **fields: Any) -> dict[str, Any]:
        """Put other fields into the policy."""
        self.policy = {"name": self.stem, **PROFILE, **fields}
        return self.policy

    def wall(self, *options: str, dsn: str | None = None) -> tuple[int, dict[str, Any]]:
        """Run `guarddb wall` with --json: exit code and document."""
        with TemporaryDirectory() as directory:
            path = Path(directory) / "policy.json"
            path.write_text(json.dumps(self.policy))
            out = StringIO()
            with redirect_stdout(out):
                code = main(
                    [
                        "wall",
                        "-p",
                        str(path),
                        "-d",
                        dsn or self.owner,
                        "-r",
                        self.agent_role,
                        "--json",
                        *options,
                    ]
                )
        return code, json.loads(out.getvalue()) if out.getvalue() else {}

    def up(self, *options: str) -> dict[str, Any]:
        """Install the wall."""
        code, document = self.wall("--apply", *options)
        assert code == 0
        return document

    def levels(self, *options: str) -> set[str]:
        """The levels of what --check finds but for what stays open."""
        code, document = self.wall("--check", *options)
        levels = {each["level"] for each in document["differences"]} - {"open"}
        assert code == int(bool(levels))
        assert (document["state"] == "up") == (not levels)
        return levels

    def run(self, dsn: str, *statements: str) -> Any:
        """What the last statement gives: rows, a tag, or `SQLSTATE message`. One connection for all."""
        with psycopg.connect(dsn, autocommit=True) as conn:
            last: Any = None
            for statement in statements:
                try:
                    cursor = conn.execute(statement)
                    last = cursor.fetchall() if cursor.description else cursor.statusmessage
                except psycopg.Error as ex:
                    last = f"{ex.sqlstate} {ex.diag.message_primary}"
            return last

    def as_agent(self, *statements: str) -> Any:
        return self.run(self.agent, *statements)

    def as_app(self, *statements: str) -> Any:
        return self.run(self.app, *statements)

    def as_owner(self, *statements: str) -> Any:
        return self.run(self.owner, *statements)

    def as_admin(self, *statements: str) -> Any:
        if any("ON PARAMETER" in statement for statement in statements):
            with one_at_a_time(make_conninfo(self.admin, dbname="postgres")):  # parameters are the server's
                return self.run(self.admin, *statements)
        return self.run(self.admin, *statements)
