"""The tables that Alembic makes are the tables that the code uses; the OpenAPI document is whole."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from guarddb.integrations.control_plane.store.columns import Json, Moment
from guarddb.integrations.control_plane.store.database import DatabaseError, database_url
from guarddb.integrations.control_plane.store.tables import Base

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


def test_the_openapi_document_refers_to_what_it_holds(plane: Plane) -> None:
    document = httpx.get(f"{plane.url}/openapi.json", trust_env=False).json()
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
