"""The tables that Alembic makes are the tables that the code uses; the OpenAPI document is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from guarddb.integrations.control_plane.store.columns import Json, Moment
from guarddb.integrations.control_plane.store.database import DatabaseError, database_url
from guarddb.integrations.control_plane.store.tables import Base

from tests.control_plane.__main__ import schemathesis
from tests.control_plane.conftest import Plane


def test_the_steps_lead_to_the_present_tables(plane: Plane) -> None:
    def same(context: Any, found: Any, wanted: Any, found_type: Any, wanted_type: Any) -> bool | None:
        return False if isinstance(wanted_type, Json | Moment) else None

    with plane.server.database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": same})
        assert compare_metadata(context, Base.metadata) == []


@pytest.mark.parametrize(
    "database", ["", ":memory:", "mysql://host/db", "sqlite://", "postgresql://host:port/x", "oracle"]
)
def test_other_databases_are_refused(database: str) -> None:
    if database == "oracle":  # a file name like any other
        assert database_url(database).get_backend_name() == "sqlite"
        return
    with pytest.raises(DatabaseError):
        database_url(database)


def test_what_the_openapi_document_says_is_what_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No status that it does not name, no 5xx, no body of another shape. `python -m tests.control_plane` asks for more."""
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    monkeypatch.chdir(tmp_path)  # it keeps a cache
    short = ("--phases", "fuzzing,stateful", "--max-examples", "2", "--seed", "1", "--no-color")
    done = schemathesis(*short, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_openapi_document_refers_to_what_it_holds(plane: Plane) -> None:
    document = httpx.get(f"{plane.url}/openapi.json", trust_env=False, verify=False, timeout=60).json()
    references: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                references.add(node["$ref"])
            for each in node.values():
                walk(each)
        elif isinstance(node, list):
            for each in node:
                walk(each)

    walk(document)
    for reference in references:
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    operations = {
        operation["operationId"] for methods in document["paths"].values() for operation in methods.values()
    }
    assert {"createPolicyProfile", "updatePolicyProfile", "dryEvalPolicy"} <= operations
    stated = document["components"]["schemas"]["PolicyProfileInput"]
    assert stated["required"] == ["name"]
    assert stated["additionalProperties"] is False
