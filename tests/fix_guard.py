"""The shop with a guard before it, and without: its catalog, and connections that the tests of a file share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import guarddb


@pytest.fixture(scope="session")
def catalog(shop_admin: str) -> guarddb.Catalog:
    """What the shop holds."""
    with psycopg.connect(shop_admin, autocommit=True) as conn:
        return guarddb.Catalog.from_connection(conn)


@pytest.fixture(scope="module")
def guarded(shop: str, request: pytest.FixtureRequest) -> Iterator[guarddb.Connection[Any]]:
    """A connection of the role `agent` under the file's `POLICY`, autocommit."""
    with guarddb.connect(shop, policy=request.module.POLICY, autocommit=True) as conn:
        yield conn


@pytest.fixture(scope="module")
def plain_shop(shop: str) -> Iterator[psycopg.Connection]:
    """An unguarded connection of the same role, autocommit."""
    with psycopg.connect(shop, autocommit=True) as conn:
        yield conn
