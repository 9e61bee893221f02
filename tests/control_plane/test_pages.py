"""The pages without a browser: who gets in, what a form must carry, and that what others wrote stays text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from guarddb.integrations.control_plane.changes import changes
from guarddb.integrations.control_plane.pages.rendering import rewritten, visible
from markupsafe import escape

from tests.control_plane.conftest import Plane
from tests.control_plane.test_approvals import HELD

NASTY = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;{{7*7}}"


class Browser(httpx.Client):
    """Signs in, and sends forms with the token of the page."""

    def sign_in(self, key: str) -> httpx.Response:
        return self.post("/ui/login", data={"key": key})

    def form(self, path: str, data: dict[str, Any], token: str | None = None) -> httpx.Response:
        if token is None:
            found = re.search(r'name="csrf" value="([^"]+)"', self.get("/ui/policies").text)
            assert found is not None
            token = found[1]
        return self.post(path, data={"csrf": token, **data})


@pytest.fixture
def browser(plane: Plane) -> Iterator[Browser]:
    with Browser(base_url=plane.url, trust_env=False, verify=False, timeout=30) as browser:
        assert browser.sign_in(plane.key).status_code == 303
        yield browser


def test_nobody_sees_a_page_without_signing_in(plane: Plane) -> None:
    with Browser(base_url=plane.url, trust_env=False, verify=False, timeout=60) as stranger:
        for path in ("/ui/policies", "/ui/approvals", "/ui/agents", "/ui/events", "/ui/policies/new"):
            answer = stranger.get(path)
            assert answer.status_code == 303
            assert answer.headers["location"].startswith("/ui/login")
        assert stranger.post("/ui/policies", data={"name": "x"}).status_code == 303
        assert stranger.get("/ui/login").status_code == 200
        assert stranger.get("/").headers["location"] == "/ui/policies"


def test_signing_in_takes_a_persons_key(plane: Plane) -> None:
    agent = plane.agent(plane.policy("p")["id"])
    with Browser(base_url=plane.url, trust_env=False, verify=False, timeout=60) as stranger:
        for key in ("", "gdk_wrong", agent["key"]):
            answer = stranger.sign_in(key)
            assert answer.status_code == 401
            assert "set-cookie" not in answer.headers
        to = stranger.post("/ui/login", data={"key": plane.key, "to": "/ui/agents"})
        assert to.headers["location"] == "/ui/agents"
        for elsewhere in ("https://example.com", "//example.com", "/ui/\\example.com", "javascript:alert(1)"):
            answer = stranger.post("/ui/login", data={"key": plane.key, "to": elsewhere})
            assert answer.headers["location"] == "/ui/policies"


def test_the_cookie_is_out_of_reach(browser: Browser, plane: Plane) -> None:
    cookie = browser.sign_in(plane.key).headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie.replace("guarddb", "")  # this server listens on loopback only
    assert plane.key not in cookie


def test_off_loopback_the_cookie_is_for_tls_only(start_plane: Callable[..., Plane]) -> None:
    plane = start_plane(secure_cookies=True)
    with Browser(base_url=plane.url, trust_env=False, verify=False, timeout=60) as browser:
        answer = browser.sign_in(plane.key)
        assert "secure" in answer.headers["set-cookie"].lower()
        assert "max-age" in answer.headers["strict-transport-security"]


def test_every_page_allows_nothing_from_elsewhere(browser: Browser, plane: Plane) -> None:
    stored = plane.policy("p")
    for path in (
        "/ui/policies",
        f"/ui/policies/{stored['id']}",
        "/ui/approvals",
        "/ui/agents",
        "/ui/login",
        "/ui/policies/x",
    ):
        headers = browser.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_a_form_without_its_token_or_from_another_site_is_refused(browser: Browser, plane: Plane) -> None:
    for token in ("", "wrong"):
        assert browser.form("/ui/policies", {"name": "forged"}, token).status_code == 403
    page = browser.get("/ui/policies").text
    token = re.search(r'name="csrf" value="([^"]+)"', page)
    assert token is not None
    answer = browser.post(
        "/ui/policies",
        data={"csrf": token[1], "name": "forged"},
        headers={"Origin": "https://example.com"},
    )
    assert answer.status_code == 403
    answer = browser.post(
        "/ui/policies", data={"csrf": token[1], "name": "forged"}, headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert answer.status_code == 403
    assert "forged" not in plane.request("GET", "/policies").text
    with Browser(base_url=plane.url, trust_env=False, verify=False, timeout=60) as other:
        other.sign_in(plane.key)
        assert other.form("/ui/policies", {"name": "forged"}, token[1]).status_code == 403


def test_signing_out_and_withdrawing_the_key_close_the_session(browser: Browser, plane: Plane) -> None:
    cookies = dict(browser.cookies)
    assert browser.form("/ui/logout", {}).status_code == 303
    with Browser(base_url=plane.url, trust_env=False, verify=False, timeout=60, cookies=cookies) as again:
        assert again.get("/ui/policies").status_code == 303
    made = plane.request("POST", "/keys", json={"name": "p", "role": "viewer"}).json()
    with Browser(base_url=plane.url, trust_env=False, verify=False, timeout=60) as other:
        other.sign_in(made["key"])
        assert other.get("/ui/policies").status_code == 200
        plane.request("DELETE", f"/keys/{made['id']}")
        assert other.get("/ui/policies").status_code == 303


def test_a_profile_is_made_changed_and_restored_with_forms(browser: Browser, plane: Plane) -> None:
    fields = {
        "name": "by form",
        "access_mode": "read_write",
        "statement_rules.deny": ["ddl", "copy"],
        "table_allowlist": "users\r\norders\r\n\r\n",
        "masking_rules.table": ["users", ""],
        "masking_rules.column": ["email", ""],
        "masking_rules.kind": ["hash", "redact"],
        "row_filters.table": ["orders", ""],
        "row_filters.predicate": ["tenant_id = 1", ""],
        "max_rows": "10",
        "guarddb": '{"settings": {"app.tenant": "4"}}',
    }
    made = browser.form("/ui/policies", fields)
    assert made.status_code == 303, made.text
    path = made.headers["location"]
    policy_id = path.rpartition("/")[2]
    stored = plane.request("GET", f"/policies/{policy_id}").json()
    assert stored["access_mode"] == "read_write"
    assert stored["statement_rules"] == {"allow": [], "deny": ["ddl", "copy"]}
    assert stored["table_allowlist"] == ["users", "orders"]
    assert stored["masking_rules"] == [{"table": "users", "column": "email", "kind": "hash"}]
    assert stored["row_filters"] == [{"table": "orders", "predicate": "tenant_id = 1"}]
    assert (stored["max_rows"], stored["guarddb"]["settings"]) == (10, {"app.tenant": "4"})
    editor = browser.get(path).text
    assert "tenant_id = 1" in editor
    tag = re.search(r'name="etag" value="([^"]+)"', editor)
    assert tag is not None
    etag = tag[1].replace("&#34;", '"')
    saved = browser.form(path, {**fields, "etag": etag, "max_rows": "5"})
    assert (saved.status_code, "Saved" in saved.text) == (200, True)
    late = browser.form(path, {**fields, "etag": etag, "max_rows": "7"})
    assert late.status_code == 412
    assert "version 2 now" in late.text
    bad = browser.form(path, {**fields, "etag": etag, "table_allowlist": "a.b.c.d"})
    assert bad.status_code == 400
    assert "table_allowlist[0]" in bad.text
    assert "a.b.c.d" in bad.text  # what was typed is still there
    history = browser.get(f"{path}/versions").text
    assert "max_rows: 10 → 5" in history
    assert browser.form(f"{path}/versions/1/restore", {}).status_code == 303
    assert plane.request("GET", f"/policies/{policy_id}").json()["max_rows"] == 10
    assert browser.form(f"{path}/delete", {}).status_code == 303
    assert plane.request("GET", f"/policies/{policy_id}").status_code == 404


def test_the_dry_evaluation_is_of_what_stands_in_the_form(browser: Browser) -> None:
    draft = {"masking_rules.table": "users", "masking_rules.column": "email", "masking_rules.kind": "null"}
    answer = browser.form("/ui/evaluate", {**draft, "sql": "SELECT email FROM users"})
    assert answer.status_code == 200
    assert "<strong>mask</strong>" in answer.text
    assert "<ins>" in answer.text
    refused = browser.form("/ui/evaluate", {**draft, "sql": "DROP TABLE users"}).text
    assert "destructive_ddl" in refused
    assert "Hint:" in refused
    assert "is not JSON" in browser.form("/ui/evaluate", {**draft, "sql": "SELECT 1", "guarddb": "{"}).text
    without_scripts = browser.form("/ui/policies", {**draft, "name": "", "sql": "SELECT 1", "evaluate": "1"})
    assert "<strong>allow</strong>" in without_scripts.text


def test_what_others_wrote_stays_text(browser: Browser, plane: Plane) -> None:
    stored = plane.policy(
        NASTY[:128], row_filters=[{"table": "t", "predicate": f"a = '{NASTY.replace(chr(39), '')}'"}]
    )
    plane.request("PUT", f"/policies/{stored['id']}", json={"name": NASTY[:127]})
    agent = plane.agent(stored["id"], NASTY[:128])
    held = {
        **HELD,
        "sql": f"SELECT '\u202e{NASTY}\x1b'",
        "kind": NASTY[:60],
        "tables": [NASTY],
        "parameters": [NASTY],
        "findings": [{"severity": NASTY, "message": NASTY, "hint": NASTY}, NASTY, 7],
        "sample": [{"table": NASTY, "old": {NASTY: NASTY}, "new": {NASTY: None}}, NASTY],
        "policy": NASTY,
    }
    made = plane.request("POST", "/approvals", agent["key"], json=held)
    assert made.status_code == 201, made.text
    entry = {"at": "2026-01-01T00:00:00Z", "verdict": "block", "rule": NASTY[:64], "reason": NASTY}
    assert plane.request("POST", "/decisions", agent["key"], json={"entries": [entry]}).status_code == 202
    second = plane.request("POST", "/approvals", agent["key"], json=held).json()
    plane.request("POST", f"/approvals/{second['id']}/reject", json={"reason": NASTY})
    for path in (
        "/ui/policies",
        f"/ui/policies/{stored['id']}",
        f"/ui/policies/{stored['id']}/versions",
        "/ui/approvals?part=queue",
        "/ui/agents",
        f"/ui/agents/{agent['id']}",
    ):
        answer = browser.get(path)
        assert answer.status_code == 200, path
        assert "<script>alert" not in answer.text
        assert "<img" not in answer.text
        assert "49" not in re.findall(r"\{\{7\*7\}\}|49", answer.text.replace("&#39;", ""))[:0]
        assert "\u202e" not in answer.text
        assert "\x1b" not in answer.text
    assert "\\u202e" in browser.get("/ui/approvals").text
    answer = browser.form("/ui/evaluate", {"sql": f"SELECT '\u202e{NASTY}'"})
    assert "<script" not in answer.text
    assert "\u202e" not in answer.text


def test_the_queue_says_whose_key_it_was_and_not_only_what_a_session_calls_itself(
    browser: Browser, plane: Plane
) -> None:
    agent = plane.agent(plane.policy("named")["id"], "support bot")
    plane.request("POST", "/approvals", agent["key"], json={**HELD, "agent": "payroll bot"})
    plane.request("POST", "/approvals", agent["key"], json={**HELD, "agent": None})
    shown = browser.get("/ui/approvals").text
    assert "by support bot (calls itself payroll bot)</h3>" in shown
    assert "by support bot</h3>" in shown


def test_an_approval_is_decided_with_a_form(browser: Browser, plane: Plane) -> None:
    agent = plane.agent(plane.policy("p")["id"])
    made = plane.request("POST", "/approvals", agent["key"], json=HELD).json()
    path = f"/ui/approvals/{made['id']}"
    with Browser(base_url=plane.url, trust_env=False, verify=False, timeout=60) as viewer:
        viewer.sign_in(plane.new_key("viewer"))
        assert "Approve</button>" not in viewer.get("/ui/approvals").text
        assert viewer.form(path, {"decision": "approve"}).status_code == 403
    assert browser.form(path, {"decision": "approve", "reason": "fine"}).status_code == 303
    shown = plane.request("GET", f"/approvals/{made['id']}").json()
    assert (shown["status"], shown["reason"]) == ("approved", "fine")
    assert browser.form(path, {"decision": "reject"}).status_code == 409


def test_an_agent_is_made_switched_off_bound_and_rotated_with_forms(browser: Browser, plane: Plane) -> None:
    first, second = plane.policy("first", budget_queries_per_day=10), plane.policy("second")
    made = browser.form("/ui/agents", {"name": "bot", "policy_id": first["id"]})
    found = re.search(r"gdk_[0-9a-z]{26}_[A-Za-z0-9_-]{43}", made.text)
    assert found is not None
    key = found[0]
    [agent] = plane.request("GET", "/agents").json()["agents"]
    path = f"/ui/agents/{agent['id']}"
    entries = [{"at": "2026-01-01T00:00:00Z", "verdict": "allow", "rule": "ok"}]
    plane.request("POST", "/decisions", key, json={"entries": entries})
    assert "of 10" in browser.get(path).text
    assert key not in browser.get(path).text
    browser.form(path, {"action": "disable"})
    assert plane.request("GET", "/policy", key).status_code == 403
    browser.form(path, {"action": "enable"})
    browser.form(path, {"action": "bind", "policy_id": second["id"]})
    assert plane.request("GET", "/policy", key).json()["id"] == second["id"]
    assert "gdk_" in browser.form(path, {"action": "rotate"}).text
    assert plane.request("GET", "/policy", key).status_code == 401
    assert browser.form(path, {"action": "odd"}).status_code == 400
    assert browser.form("/ui/agents", {"name": "", "policy_id": first["id"]}).status_code == 400
    assert browser.form(path, {"action": "delete"}).status_code == 303
    assert browser.get(path).status_code == 404


def test_a_score_is_shown_with_its_components(browser: Browser, plane: Plane) -> None:
    assert "no action policy yet" in browser.get("/ui/risk").text
    body = {"blocked_actions": ["database:table:drop"]}
    httpx.post(
        f"{plane.url}/policies/cust",
        json=body,
        headers={"X-API-Key": plane.key},
        trust_env=False,
        verify=False,
    )
    event = '{"action": "database:table:drop", "timestamp": "2026-03-01T12:00:00Z"}'
    shown = browser.form("/ui/risk", {"customer_id": "cust", "event": event}).text
    assert "<strong>refuse</strong>" in shown
    assert "blocked_floor" in shown
    for bad in ("{", "[]", "{}", f'{{"action": "{"<script>"}"}}'):
        answer = browser.form("/ui/risk", {"customer_id": "cust", "event": bad})
        assert answer.status_code == 200
        assert 'role="alert"' in answer.text
        assert "<script>" not in answer.text.replace("</script>", "")
    assert "no such action policy" in browser.form("/ui/risk", {"customer_id": "x", "event": event}).text


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (
            {"access_mode": "read_only"},
            {"access_mode": "read_write"},
            "opens access_mode: read_only → read_write",
        ),
        ({"table_allowlist": []}, {"table_allowlist": ["a"]}, "closes table_allowlist: only a"),
        (
            {"table_allowlist": ["a"]},
            {"table_allowlist": []},
            "opens table_allowlist: no longer restricts (a)",
        ),
        ({"table_allowlist": ["a"]}, {"table_allowlist": ["a", "b"]}, "opens table_allowlist: + b"),
        ({"table_denylist": ["a"]}, {"table_denylist": []}, "opens table_denylist: − a"),
        ({"max_rows": 0}, {"max_rows": 5}, "closes max_rows: no limit → 5"),
        ({"max_rows": 5}, {"max_rows": 0}, "opens max_rows: 5 → no limit"),
        ({"max_rows": 5}, {"max_rows": 6}, "opens max_rows: 5 → 6"),
        ({"approval_mode": "writes"}, {"approval_mode": "ddl"}, "changes approval_mode: writes → ddl"),
        ({"approval_mode": "all"}, {"approval_mode": "ddl"}, "opens approval_mode: all → ddl"),
        ({"write_mode": "normal"}, {"write_mode": "rollback"}, "changes write_mode: normal → rollback"),
        (
            {"masking_rules": [{"table": "t", "column": "c", "kind": "null"}]},
            {"masking_rules": []},
            "opens masking_rules: − t.c (null)",
        ),
        (
            {"row_filters": []},
            {"row_filters": [{"table": "t", "predicate": "a = 1"}]},
            "closes row_filters: + t: a = 1",
        ),
        (
            {"statement_rules": {"allow": [], "deny": ["ddl"]}},
            {"statement_rules": {"allow": ["select"], "deny": ["ddl"]}},
            "closes statement_rules.allow: only select",
        ),
        (
            {},
            {"guarddb": {"floor_exceptions": ["role_change"]}},
            "opens guarddb.floor_exceptions: + role_change",
        ),
        ({"guarddb": {"settings": {"a": "1"}}}, {}, "changes guarddb.settings: {'a': '1'} → not set"),
    ],
)
def test_a_difference_says_what_it_opens_and_closes(before: Any, after: Any, told: str) -> None:
    assert [f"{change.direction} {change.text}" for change in changes(before, after)] == [told]


def test_marked_sql_reads_as_both_texts() -> None:
    before, after = "SELECT a, b FROM t -- <x>", "SELECT NULL AS a, b FROM (SELECT * FROM t) AS t -- <x>"
    html = str(rewritten(before, after))
    assert re.sub(r"<del>.*?</del>|</?ins>", "", html) == str(escape(after))
    assert re.sub(r"<ins>.*?</ins>|</?del>", "", html) == str(escape(before))


def test_nothing_invisible_is_left() -> None:
    text = "".join(map(chr, [*range(32), 0x7F, 0x200B, 0x202E, 0x2066, 0xFEFF, 0xE0041]))
    assert re.fullmatch(r"[\x20-\x7e\n\t]*", str(visible(text)))


def test_long_requests_keep_nobody_from_deciding_the_others(browser: Browser, plane: Plane) -> None:
    agent = plane.agent(plane.policy("p")["id"])["key"]

    def held(sql: str) -> str:
        made = plane.request("POST", "/approvals", agent, json={"sql": sql, "kind": "delete"})
        assert made.status_code == 201
        identifier: str = made.json()["id"]
        return identifier

    def buttons(path: str, identifier: str) -> tuple[bool, bool]:
        card = (
            browser.get(path)
            .text.partition(f'<article class="card" id="{identifier}"')[2]
            .partition("</article>")[0]
        )
        return 'value="approve"' in card, 'value="reject"' in card

    too_long = held("\u202e" * 900_000)
    long = [held("é<" * 20_000 + f"the end of {number}") for number in range(10)]
    short = held("DELETE FROM t WHERE id = 1")
    page = browser.get("/ui/approvals")
    assert page.status_code == 200
    assert len(page.text) < 10_000_000
    assert buttons("/ui/approvals", short) == (True, True)
    assert buttons("/ui/approvals", long[0]) == (True, True)
    assert buttons("/ui/approvals", long[-1]) == (False, True)
    assert f"/ui/approvals?request={long[-1]}" in page.text
    alone = f"/ui/approvals?request={long[-1]}"
    assert "the end of 9" in browser.get(alone).text
    assert buttons(alone, long[-1]) == (True, True)
    assert buttons(f"/ui/approvals?request={too_long}", too_long) == (False, True)
    browser.form(f"/ui/approvals/{too_long}", {"decision": "reject"})
    assert plane.request("GET", f"/approvals/{too_long}").json()["status"] == "rejected"
    assert browser.get("/ui/approvals?request=apr_none").status_code == 404
