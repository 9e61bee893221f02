"""The control plane's answer is the library's, and a session that follows the stored profile decides the same."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import guarddb
from tests.conformance.conftest import attempt
from tests.conformance.test_parity import CORPUS, document_of, policy_of
from tests.control_plane.conftest import Plane, running

STEP = int(os.environ.get("CORPUS_STEP", "8"))
POLICIES = sorted({policy for policy, _ in CORPUS})


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory, catalog: guarddb.Catalog) -> Iterator[Plane]:
    """A control plane that knows the shop's catalog."""
    database = str(tmp_path_factory.mktemp("plane") / "plane.sqlite3")
    with running(database, rate_limit="10000000/minute") as started:
        headers = {"Content-Type": "application/json"}
        pushed = started.request("PUT", "/catalog", content=catalog.to_json(), headers=headers)
        assert pushed.status_code == 200, pushed.text
        yield started


def evaluated(client: httpx.Client, sql: str, policy_id: str) -> Any:
    answer = client.post("/policy-evaluations", json={"sql": sql, "policy_id": policy_id})
    assert answer.status_code == 200, (sql, answer.text)
    return answer.json()


@pytest.mark.parametrize("policy", POLICIES)
def test_library_server_and_live_session_give_the_same_document(
    plane: Plane,
    catalog: guarddb.Catalog,
    shop_admin: str,
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
) -> None:
    """Library and server, and for every fourth statement the live session, whose profile is the stored one (`test_parity`
    compares all, with the profile at hand). CORPUS_STEP=1 takes the whole corpus."""
    stored = plane.policy(**document_of(policy))
    monkeypatch.setenv("GUARDDB_API_KEY", plane.agent(stored["id"], f"bot of {policy}")["key"])
    statements = [sql for name, sql in CORPUS if name == policy][::STEP]
    different: dict[str, Any] = {}
    with (
        plane.client() as client,
        guarddb.connect(shop_admin, policy=f"{plane.base}/policies/{stored['id']}", autocommit=True) as conn,
    ):
        for number, sql in enumerate(statements):
            served = evaluated(client, sql, stored["id"])
            library = guarddb.evaluate(sql, policy_of(policy), catalog).to_dict()
            # What is compared is what is on the wire: JSON knows no tuples.
            if served != json.loads(json.dumps(library)):
                different[sql] = (library, served)
            if number % 4 == 0:
                live = attempt(conn, sql).decision.to_dict()
                # Whether a row that is written is outside of the filter, only the row tells.
                by_its_rows = live["rule"] == "row_filter_violation" and served["verdict"] == "row-filter"
                if live != served and not by_its_rows:
                    different[sql] = (live, served)
    assert not different
