"""Profiles over HTTP: create, evaluate, update, and what is refused, in the documented shapes."""

from __future__ import annotations

from typing import Any

import pytest

import guarddb
from tests.control_plane.conftest import Plane

FULL = {
    "name": "Read-only analytics",
    "access_mode": "read_only",
    "statement_rules": {"allow": ["select"], "deny": []},
    "table_allowlist": ["users", "orders"],
    "table_denylist": ["secrets"],
    "masking_rules": [{"table": "users", "column": "email", "kind": "redact"}],
    "row_filters": [{"table": "orders", "predicate": "tenant_id = 1"}],
    "budget_queries_per_hour": 1000,
    "budget_queries_per_day": 5000,
    "max_rows": 100,
    "statement_timeout_ms": 5000,
    "egress_bytes_per_day": 1_000_000,
}


def error(answer: Any, status: int, code: str) -> str:
    """The message of a failed request, in the one shape that all have."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    assert body["error"]["code"] == code
    message: str = body["error"]["message"]
    return message


def test_a_client_creates_evaluates_and_updates(plane: Plane) -> None:
    created = plane.request("POST", "/policies", json=FULL)
    assert created.status_code == 201
    stored = created.json()
    assert stored["id"].startswith("pol_")
    assert stored["project_id"] == plane.project
    assert {key: stored[key] for key in FULL} == FULL
    assert stored["write_mode"] == "normal"
    assert stored["created_at"] == stored["updated_at"]
    assert stored["created_at"].endswith("Z")

    judged = plane.request(
        "POST",
        "/policy-evaluations",
        json={"sql": "SELECT email FROM users WHERE id = 1", "policy_id": stored["id"]},
    )
    assert judged.status_code == 200
    decision = judged.json()
    assert decision["verdict"] == "mask"
    assert decision["rule"] == "ok"
    assert decision["masked_columns"] == [{"column": "email", "kind": "redact"}]

    updated = plane.request(
        "PUT", f"/policies/{stored['id']}", json={"name": "Closed", "table_allowlist": ["orders"]}
    )
    assert updated.status_code == 200
    after = updated.json()
    assert after["id"] == stored["id"]
    assert after["created_at"] == stored["created_at"]
    assert after["updated_at"] > stored["updated_at"]
    assert after["masking_rules"] == []
    assert after["max_rows"] == 0
    judged = plane.request(
        "POST", "/policy-evaluations", json={"sql": "SELECT email FROM users", "policy_id": stored["id"]}
    )
    assert judged.json()["rule"] == "table_not_allowed"


def test_a_name_is_all_that_a_profile_needs(plane: Plane) -> None:
    stored = plane.policy("smallest")
    assert stored["access_mode"] == "read_only"
    assert "guarddb" not in stored


def test_the_extension_comes_back_as_it_went_in(plane: Plane) -> None:
    stored = plane.policy("extended", guarddb={"settings": {"app.tenant": 4}})
    assert stored["guarddb"]["settings"] == {"app.tenant": "4"}
    assert plane.request("PUT", f"/policies/{stored['id']}", json=stored).status_code == 200


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "name: is required"),
        ({"name": ""}, "name: must have at least 1 character"),
        ({"name": "x" * 129}, "name: must have at most 128"),
        ({"name": 5}, "name: must be a text"),
        ({"name": "a", "tabel_allowlist": []}, 'did you mean "table_allowlist"'),
        ({"name": "a", "access_mode": "readonly"}, '"read_only", "read_write"'),
        (
            {"name": "a", "masking_rules": [{"table": "t", "column": "c", "kind": "blur"}]},
            "masking_rules[0].kind",
        ),
        ({"name": "a", "row_filters": [{"table": "t", "predicate": "((("}]}, "row_filters[0].predicate"),
        ({"name": "a", "max_rows": -1}, "max_rows: must be at least 0"),
        ({"name": "a", "id": "pol_mine"}, "id: is set by the server"),
        ([], "must be a mapping"),
        ("text", "must be a mapping"),
    ],
)
def test_a_bad_profile_is_refused_with_the_place_and_what_is_allowed(
    plane: Plane, body: Any, told: str
) -> None:
    assert told in error(plane.request("POST", "/policies", json=body), 400, "invalid_request")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"name": NaN}',
        b'{"name": "\xff"}',
        b'{"name": "\\ud800"}',
        b'{"name": "a", "name": "b"}',
        b"[" * 5_000 + b"]" * 5_000,
        b'{"name": "a", "max_rows": ' + b"9" * 5_000 + b"}",
        b'{"name": "a\\u0000"}',
    ],
)
def test_a_body_that_is_not_clean_json_is_refused(plane: Plane, content: bytes) -> None:
    answer = plane.request("POST", "/policies", content=content, headers={"Content-Type": "application/json"})
    assert error(answer, 400, "invalid_request")


def test_a_profile_that_no_session_would_read_is_not_stored(plane: Plane) -> None:
    large = {"table_denylist": [f"table_{number:06}" for number in range(80_000)]}
    told = f"at most {1 << 20} bytes"
    assert told in error(
        plane.request("POST", "/policies", json={"name": "large", **large}), 400, "invalid_request"
    )
    stored = plane.policy("small")
    put = plane.request("PUT", f"/policies/{stored['id']}", json={"name": "small", **large})
    assert told in error(put, 400, "invalid_request")
    judged = plane.request("POST", "/policy-evaluations", json={"sql": "SELECT 1", "policy": large})
    assert told in error(judged, 400, "invalid_request")


def test_names_are_unique_in_a_project(plane: Plane) -> None:
    first = plane.policy("a")
    second = plane.policy("b")
    message = error(plane.request("POST", "/policies", json={"name": "a"}), 409, "conflict")
    assert first["id"] in message
    error(plane.request("PUT", f"/policies/{second['id']}", json={"name": "a"}), 409, "conflict")
    assert plane.request("PUT", f"/policies/{first['id']}", json={"name": "a"}).status_code == 200


def test_an_unknown_policy_and_one_of_another_project_are_not_found(
    plane: Plane, shared_plane: Plane
) -> None:
    other = shared_plane.policy(f"of the other project {plane.project}")
    body = {"name": "x"}
    for policy_id in ("pol_unknown", other["id"], "x", "pol_%00", "pol_" + "a" * 500):
        for method in ("GET", "PUT", "DELETE"):
            options = {"json": body} if method == "PUT" else {}
            error(plane.request(method, f"/policies/{policy_id}", **options), 404, "not_found")
        if "%" not in policy_id:
            asked = {"sql": "SELECT 1", "policy_id": policy_id}
            error(plane.request("POST", "/policy-evaluations", json=asked), 404, "not_found")


def test_what_was_read_can_be_sent_back(plane: Plane) -> None:
    stored = plane.policy("round trip", **{key: value for key, value in FULL.items() if key != "name"})
    changed = plane.request("PUT", f"/policies/{stored['id']}", json={**stored, "max_rows": 7})
    assert changed.status_code == 200
    assert changed.json()["max_rows"] == 7
    message = error(
        plane.request("PUT", f"/policies/{stored['id']}", json={**stored, "id": "pol_other"}),
        400,
        "invalid_request",
    )
    assert "cannot be changed" in message


def test_an_etag_saves_the_second_answer(plane: Plane) -> None:
    stored = plane.policy("tagged")
    path = f"/policies/{stored['id']}"
    tag = plane.request("GET", path).headers["etag"]
    unchanged = plane.request("GET", path, headers={"If-None-Match": tag})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag)
    put = plane.request("PUT", path, json={"name": "tagged", "max_rows": 1})
    assert put.headers["etag"] != tag
    changed = plane.request("GET", path, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] == put.headers["etag"]


def test_if_match_guards_against_lost_updates(plane: Plane) -> None:
    stored = plane.policy("guarded")
    path = f"/policies/{stored['id']}"
    tag = plane.request("GET", path).headers["etag"]
    assert plane.request("PUT", path, json={"name": "guarded"}, headers={"If-Match": tag}).status_code == 200
    late = plane.request("PUT", path, json={"name": "late"}, headers={"If-Match": tag})
    error(late, 412, "precondition_failed")
    error(plane.request("DELETE", path, headers={"If-Match": tag}), 412, "precondition_failed")
    assert plane.request("GET", path).json()["name"] == "guarded"
    assert plane.request("PUT", path, json={"name": "any"}, headers={"If-Match": "*"}).status_code == 200


def test_every_version_is_kept_and_can_be_restored(plane: Plane) -> None:
    stored = plane.policy("versioned", max_rows=1)
    path = f"/policies/{stored['id']}"
    for rows in (2, 3):
        plane.request("PUT", path, json={"name": "versioned", "max_rows": rows})
    versions = plane.request("GET", f"{path}/versions").json()["versions"]
    assert [each["version"] for each in versions] == [3, 2, 1]
    assert all(each["changed_by"].startswith("key_") for each in versions)
    first = plane.request("GET", f"{path}/versions/1").json()
    assert first["policy"]["max_rows"] == 1
    assert plane.request("PUT", path, json=first["policy"]).json()["max_rows"] == 1
    assert plane.request("GET", f"{path}/versions").json()["versions"][0]["version"] == 4
    error(plane.request("GET", f"{path}/versions/9"), 404, "not_found")
    error(plane.request("GET", f"{path}/versions/99999999999999999999"), 404, "not_found")
    error(plane.request("GET", f"{path}/versions/x"), 400, "invalid_request")


def test_a_list_comes_in_pages(plane: Plane) -> None:
    made = [plane.policy(f"policy {number}")["id"] for number in range(5)]
    assert [each["id"] for each in plane.request("GET", "/policies").json()["policies"]] == made
    seen: list[str] = []
    token: str | None = None
    while True:
        asked = {"page_size": 2, **({"page_token": token} if token else {})}
        page = plane.request("GET", "/policies", params=asked).json()
        seen += [each["id"] for each in page["policies"]]
        token = page.get("next_page_token")
        if token is None:
            break
        assert len(page["policies"]) == 2
    assert seen == made
    for bad in (
        {"page_size": 0},
        {"page_size": 101},
        {"page_size": "x"},
        {"page_token": "%%%"},
        {"page_token": "AAAA"},
    ):
        error(plane.request("GET", "/policies", params=bad), 400, "invalid_request")


def test_a_policy_in_use_is_not_deleted(plane: Plane) -> None:
    stored = plane.policy("in use")
    agent = plane.agent(stored["id"])
    message = error(plane.request("DELETE", f"/policies/{stored['id']}"), 409, "conflict")
    assert agent["id"] in message
    assert plane.request("DELETE", f"/agents/{agent['id']}").status_code == 204
    gone = plane.request("DELETE", f"/policies/{stored['id']}")
    assert (gone.status_code, gone.content) == (204, b"")
    error(plane.request("GET", f"/policies/{stored['id']}"), 404, "not_found")


@pytest.mark.parametrize(
    "body",
    [
        {"sql": "SELECT 1"},
        {"sql": "SELECT 1", "policy": {}, "policy_id": "pol_x"},
        {"sql": "", "policy": {}},
        {"sql": "x" * 100_001, "policy": {}},
        {"sql": 5, "policy": {}},
        {"policy": {}},
        {"sql": "SELECT 1", "policy": {}, "catalog": {}},
        {"sql": "SELECT 1", "policy": []},
        {"sql": "SELECT 1", "policy": {"masking_rules": [{"table": "t", "column": "c", "kind": "blur"}]}},
        [],
    ],
)
def test_a_bad_evaluation_is_refused(plane: Plane, body: Any) -> None:
    assert error(plane.request("POST", "/policy-evaluations", json=body), 400, "invalid_request")


def test_a_drafts_problem_is_named_with_its_place(plane: Plane) -> None:
    body = {"sql": "SELECT 1", "policy": {"masking_rules": [{"table": "t", "column": "c", "kind": "blur"}]}}
    message = error(plane.request("POST", "/policy-evaluations", json=body), 400, "invalid_request")
    assert message.startswith("policy.masking_rules[0].kind: must be one of")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT email, ssn AS s FROM users WHERE id = 1",
        "SELECT * FROM orders",
        "DROP TABLE users",
        "DELETE FROM orders",
        "SELECT 1; SELECT pg_sleep(1)",
        "   ",
        "SELECT \x00",
        "SELEC",
        "SELECT lower(email) FROM users",
        "x" * 100_000,
        "(" * 50_000,
    ],
)
def test_the_server_answers_what_the_library_answers(plane: Plane, sql: str) -> None:
    draft = {
        "masking_rules": [{"table": "users", "column": "email", "kind": "hash"}],
        "row_filters": [{"table": "orders", "predicate": "tenant_id = 1"}],
    }
    answer = plane.request("POST", "/policy-evaluations", json={"sql": sql, "policy": draft})
    assert answer.status_code == 200
    assert answer.json() == guarddb.evaluate(sql, guarddb.PolicyProfile.draft(draft)).to_dict()


def test_a_catalog_snapshot_makes_the_answer_the_live_one(plane: Plane, shop: str) -> None:
    with guarddb.connect(shop, policy={"name": "all", "access_mode": "read_only"}) as conn:
        catalog = guarddb.Catalog.from_connection(conn)
    draft = {"masking_rules": [{"table": "customers", "column": "email", "kind": "redact"}]}
    profile = guarddb.PolicyProfile.draft(draft)
    sql = "SELECT * FROM customers"
    body = {"sql": sql, "policy": draft}
    without = plane.request("POST", "/policy-evaluations", json=body).json()
    assert without == guarddb.evaluate(sql, profile).to_dict()
    error(plane.request("GET", "/catalog"), 404, "not_found")
    pushed = plane.request(
        "PUT", "/catalog", content=catalog.to_json(), headers={"Content-Type": "application/json"}
    )
    assert pushed.status_code == 200, pushed.text
    assert plane.request("GET", "/catalog").json() == pushed.json()
    with_catalog = plane.request("POST", "/policy-evaluations", json=body).json()
    assert with_catalog == guarddb.evaluate(sql, profile, catalog).to_dict()
    assert with_catalog != without
    error(plane.request("PUT", "/catalog", json={"no": "catalog"}), 400, "invalid_request")
    assert plane.request("DELETE", "/catalog").status_code == 204
    assert plane.request("POST", "/policy-evaluations", json=body).json() == without


def test_a_migration_is_linted_as_the_library_lints_it(plane: Plane) -> None:
    for sql in (
        "CREATE INDEX ON orders (total)",
        "SELECT 1",
        "ALTER TABLE",
        "DROP TABLE orders",
        "SELECT \x00",
    ):
        answer = plane.request("POST", "/migrations:lint", json={"sql": sql})
        assert answer.status_code == 200, answer.text
        findings = [finding.to_dict() for finding in guarddb.lint(sql)]
        safe = not any(finding["severity"] == "error" for finding in findings)
        assert answer.json() == {"safe": safe, "findings": findings}
    error(plane.request("POST", "/migrations:lint", json={"sql": ""}), 400, "invalid_request")


def test_the_command_line_pushes_a_catalog(
    plane: Plane, shop: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from guarddb.cli import main

    monkeypatch.setenv("GUARDDB_API_KEY", plane.key)
    assert main(["catalog", "push", plane.base, "--dsn", shop]) == 0
    assert plane.request("GET", "/catalog").json()["digest"][:12] in capsys.readouterr().out
    for wrong in (
        [plane.base],
        [f"{plane.base}/policies/pol_1", "--dsn", shop],
        ["http://x/v1/projects/prj_1", "--dsn", shop],
    ):
        assert main(["catalog", "push", *wrong]) == 2
    monkeypatch.setenv("GUARDDB_API_KEY", "gdk_wrong")
    assert main(["catalog", "push", plane.base, "--dsn", shop]) == 2
    told = capsys.readouterr().err
    assert "answers 401" in told
    assert "gdk_" not in told
