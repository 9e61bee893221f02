"""One database for all attacks of a worker: every attempt rolls back what it did."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.adversary.ground import Ground
from tests.fix_server import temporary_database


@pytest.fixture(scope="session")
def ground(server_dsn: str) -> Iterator[Ground]:
    with temporary_database(server_dsn, "adversary") as dsn:
        ground = Ground(dsn)
        yield ground
        ground.close()
