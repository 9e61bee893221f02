"""The pages in a real browser (Chromium): what people do, by mouse and keyboard, and axe finds nothing.

Needs chromium, chromedriver and selenium; elsewhere it is skipped, and says so.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

import guarddb
from tests.control_plane.conftest import Plane, running
from tests.control_plane.test_approvals import HELD
from tests.control_plane.test_client import eventually, works

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
#: Where to put screenshots, when somebody wants them.
SHOTS = os.environ.get("GUARDDB_SCREENSHOTS")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with running(str(tmp_path_factory.mktemp("site") / "plane.sqlite3")) as plane:
        yield plane


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
        "--no-proxy-server",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def browser(chromium: Any, site: Plane) -> Any:
    """A browser that is signed in."""
    chromium.delete_all_cookies()
    chromium.set_window_size(1280, 900)
    chromium.get(f"{site.url}/ui/login")
    field = chromium.find_element(By.ID, "key")
    field.send_keys(site.key)
    field.send_keys(Keys.ENTER)
    shown(chromium, "h1", "Policies")
    return chromium


def shown(browser: Any, selector: str, text: str) -> None:
    """Wait until an element shows a text."""

    def there() -> bool:
        try:
            return any(text in each.text for each in browser.find_elements(By.CSS_SELECTOR, selector))
        except Exception:  # it was replaced while we looked
            return False

    eventually(there)


def decide(browser: Any, words: str, button: str) -> bool:
    """Press a button of the card with these words, if it stands still."""
    try:
        [card] = [each for each in browser.find_elements(By.CSS_SELECTOR, "article") if words in each.text]
        card.find_element(By.CSS_SELECTOR, f"button[value={button}]").click()
    except Exception:  # it was replaced while we looked
        return False
    return True


def press(browser: Any, words: str) -> None:
    for button in browser.find_elements(By.CSS_SELECTOR, "button, a.button"):
        if words in button.text:
            browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
            button.click()
            return
    raise AssertionError(f"there is no button {words!r}")


def photograph(browser: Any, name: str) -> None:
    if SHOTS:
        height = browser.execute_script("return document.documentElement.scrollHeight")
        browser.set_window_size(1280, min(2400, height + 120))
        browser.save_screenshot(str(Path(SHOTS) / f"{name}.png"))
        browser.set_window_size(1280, 900)


def test_a_profile_is_made_and_the_evaluation_changes_while_typing(browser: Any, site: Plane) -> None:
    press(browser, "New policy")
    shown(browser, "h1", "New policy")
    browser.find_element(By.ID, "name").send_keys("support")
    sql = browser.find_element(By.ID, "sql")
    sql.clear()
    sql.send_keys("SELECT name, email FROM customers")
    shown(browser, "#verdict", "allow")
    browser.find_element(By.NAME, "masking_rules.table").send_keys("customers")
    browser.find_element(By.NAME, "masking_rules.column").send_keys("email")
    shown(browser, "#verdict", "mask")
    shown(browser, "#verdict ins", "[redacted]")
    browser.find_element(By.ID, "table_allowlist").send_keys("orders")
    shown(browser, "#verdict", "table_not_allowed")
    shown(browser, "#verdict .hint", "Hint")
    browser.find_element(By.ID, "table_allowlist").send_keys("\ncustomers")
    shown(browser, "#verdict", "mask")
    photograph(browser, "policy")
    press(browser, "Save")
    shown(browser, "h1", "support")
    [stored] = [
        each for each in site.request("GET", "/policies").json()["policies"] if each["name"] == "support"
    ]
    assert stored["table_allowlist"] == ["orders", "customers"]
    assert stored["masking_rules"] == [{"table": "customers", "column": "email", "kind": "redact"}]
    browser.get(f"{site.url}/ui/policies")
    photograph(browser, "policies")


def test_a_row_is_added_with_the_keyboard_alone(browser: Any, site: Plane) -> None:
    browser.get(f"{site.url}/ui/policies/new")
    rows = len(browser.find_elements(By.CSS_SELECTOR, "[name='masking_rules.table']"))
    more = browser.find_element(By.CSS_SELECTOR, "button.more")
    browser.execute_script("arguments[0].focus()", more)
    more.send_keys(Keys.ENTER)
    assert len(browser.find_elements(By.CSS_SELECTOR, "[name='masking_rules.table']")) == rows + 1
    assert browser.switch_to.active_element.get_attribute("name") == "masking_rules.table"
    browser.get(f"{site.url}/ui/policies")
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the content"


def test_the_queue_follows_what_happens_and_keeps_what_is_typed(browser: Any, site: Plane) -> None:
    agent = site.agent(site.policy("queue")["id"], "queue bot")
    first = site.request("POST", "/approvals", agent["key"], json=HELD).json()
    browser.get(f"{site.url}/ui/approvals")
    shown(browser, "article", "UPDATE orders")
    reason = browser.find_element(By.ID, f"{first['id']}-reason")
    reason.send_keys("half a sen")
    second = site.request(
        "POST", "/approvals", agent["key"], json={**HELD, "sql": "DELETE FROM orders WHERE id = 1"}
    )
    shown(browser, "article", "DELETE FROM orders")
    shown(browser, "#waiting", "Waiting (2)")
    reason = browser.find_element(By.ID, f"{first['id']}-reason")
    reason.send_keys("tence")
    assert reason.get_attribute("value") == "half a sentence"
    photograph(browser, "approvals")
    card = browser.find_element(By.ID, first["id"])
    card.find_element(By.CSS_SELECTOR, "button[value=approve]").click()
    shown(browser, "#waiting", "Waiting (1)")
    assert site.request("GET", f"/approvals/{first['id']}").json()["status"] == "approved"
    assert site.request("GET", f"/approvals/{first['id']}").json()["reason"] == "half a sentence"
    site.request("POST", f"/approvals/{second.json()['id']}/reject")
    shown(browser, "#waiting", "Waiting (0)")


def test_a_disabled_agents_next_statement_is_refused(
    browser: Any, site: Plane, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser.get(f"{site.url}/ui/agents")
    site.policy("live", budget_queries_per_day=100)
    browser.get(f"{site.url}/ui/agents")
    browser.find_element(By.ID, "name").send_keys("live bot")
    for option in browser.find_elements(By.CSS_SELECTOR, "#policy_id option"):
        if option.text == "live":
            option.click()
    press(browser, "Make it")
    shown(browser, "#new-key", "gdk_")
    key = browser.find_element(By.ID, "new-key").text
    monkeypatch.setenv("GUARDDB_API_KEY", key)
    [agent] = [each for each in site.request("GET", "/agents").json()["agents"] if each["name"] == "live bot"]
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    entries = [{"at": now, "verdict": "allow", "rule": "ok"}] * 30 + [
        {"at": now, "verdict": "block", "rule": "table_denied", "reason": 'table "public.secrets" is denied'}
    ] * 4
    site.request("POST", "/decisions", key, json={"entries": entries})
    with guarddb.connect(shop, policy=site.base, autocommit=True) as conn:
        assert works(conn, "SELECT 1")
        browser.get(f"{site.url}/ui/agents/{agent['id']}")
        photograph(browser, "agent")
        press(browser, "Disable")
        shown(browser, ".status", "disabled")
        eventually(lambda: not works(conn, "SELECT 1"))
        browser.get(f"{site.url}/ui/agents")
        photograph(browser, "agents")


def test_a_held_statement_of_a_live_session_is_approved_and_another_rejected(
    browser: Any, site: Plane, fresh_shop_admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = site.policy("writer", access_mode="read_write", approval_mode="writes")
    agent = site.agent(stored["id"], "writer bot")
    monkeypatch.setenv("GUARDDB_API_KEY", agent["key"])
    browser.get(f"{site.url}/ui/approvals")
    outcomes: list[str] = []

    def write() -> None:
        with guarddb.connect(fresh_shop_admin, policy=site.base, approver=site.base, autocommit=True) as conn:
            for name in ("Approved", "Rejected"):
                try:
                    conn.execute(f"UPDATE customers SET name = '{name}' WHERE id = 1")
                    outcomes.append("ran")
                except guarddb.ApprovalRejected:
                    outcomes.append("rejected")

    session = threading.Thread(target=write)
    session.start()
    for name, button in (("Approved", "approve"), ("Rejected", "reject")):
        shown(browser, "article", f"name = '{name}'")
        eventually(partial(decide, browser, f"'{name}'", button))
    session.join(60)
    assert outcomes == ["ran", "rejected"]
    with psycopg.connect(fresh_shop_admin) as conn:
        assert conn.execute("SELECT name FROM customers WHERE id = 1").fetchone() == ("Approved",)


def test_what_is_asked_before_the_queue_listens_is_shown(browser: Any, site: Plane) -> None:
    stored = site.policy("asker", access_mode="read_write", approval_mode="writes")
    agent = site.agent(stored["id"], "early bot")
    script = """
      const Real = EventSource;
      window.EventSource = class extends Real {
        constructor(url) {
          const [address, key, body] = %s;
          const asked = new XMLHttpRequest();
          asked.open("POST", address, false);
          asked.setRequestHeader("Authorization", `Bearer ${key}`);
          asked.setRequestHeader("Content-Type", "application/json");
          asked.send(body);
          super(url);
        }
      };
    """
    held = json.dumps({**HELD, "sql": "DELETE FROM early WHERE id = 1"})
    source = script % json.dumps([f"{site.base}/approvals", agent["key"], held])
    added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    try:
        browser.get(f"{site.url}/ui/approvals")
        shown(browser, "article", "DELETE FROM early")
    finally:
        browser.execute_cdp_cmd(
            "Page.removeScriptToEvaluateOnNewDocument", {"identifier": added["identifier"]}
        )


def test_axe_finds_nothing_on_any_page(browser: Any, site: Plane) -> None:
    stored = site.policy(
        "reports", masking_rules=[{"table": "t", "column": "c", "kind": "null"}], budget_queries_per_day=9
    )
    site.request(
        "PUT",
        f"/policies/{stored['id']}",
        json={"name": "reports", "max_rows": 1, "budget_queries_per_day": 9},
    )
    agent = site.agent(stored["id"], "axe bot")
    entry = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "verdict": "block",
        "rule": "table_denied",
    }
    site.request("POST", "/decisions", agent["key"], json={"entries": [entry]})
    sample = [{"table": "public.t", "old": {"a": "1"}, "new": {"a": "2"}}]
    findings = [{"severity": "warning", "message": "locks", "hint": "SET lock_timeout = '2s'"}]
    held = {**HELD, "parameters": ["1"], "sample": sample, "findings": findings}
    site.request("POST", "/approvals", agent["key"], json=held)
    scored = {"blocked_actions": ["database:table:drop"], "sensitive_fields": ["email"]}
    customer = f"{site.url}/policies/acme"
    answer = httpx.post(
        customer, json=scored, headers={"X-API-Key": site.key}, trust_env=False, verify=False, timeout=60
    )
    assert answer.status_code == 201, answer.text
    script = (Path(axe.__file__).parent / "axe.min.js").read_text()
    found: dict[str, list[str]] = {}
    paths = (
        "/ui/policies",
        "/ui/policies/new",
        f"/ui/policies/{stored['id']}",
        f"/ui/policies/{stored['id']}/versions",
        "/ui/approvals",
        "/ui/agents",
        f"/ui/agents/{agent['id']}",
        "/ui/risk",
        "/ui/login",
        "/ui/policies/pol_no",
    )
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        for path in paths:
            browser.get(site.url + path)
            if path == "/ui/risk":
                press(browser, "Score")
                shown(browser, "td", "")
            if scheme == "light" and path in (paths[3], "/ui/risk", "/ui/login"):
                photograph(browser, path.rpartition("/")[2])
            browser.execute_script(script)
            result = browser.execute_async_script(
                "const done = arguments[0]; axe.run().then(done, error => done({violations: [{id: String(error), nodes: []}]}))"
            )
            problems = [
                f"{each['id']}: {[node['html'][:120] for node in each['nodes']]}"
                for each in result["violations"]
            ]
            if problems:
                found[f"{scheme} {path}"] = problems
    assert found == {}


def test_pages_fit_a_phone_and_break_no_policy_of_their_own(browser: Any, site: Plane) -> None:
    stored = site.policy("phone " + "x" * 100)
    agent = site.agent(stored["id"], "phone bot " + "y" * 100)
    browser.get_log("browser")
    for path in (
        "/ui/policies",
        f"/ui/policies/{stored['id']}",
        f"/ui/policies/{stored['id']}/versions",
        "/ui/approvals",
        "/ui/agents",
        f"/ui/agents/{agent['id']}",
    ):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 375, "height": 700, "deviceScaleFactor": 1, "mobile": True},
        )
        browser.get(site.url + path)
        wider = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        assert wider <= 0, f"{path} is {wider} pixels too wide"
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_script_that_somebody_stored_does_not_run(browser: Any, site: Plane) -> None:
    nasty = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    agent = site.agent(site.policy(nasty)["id"], nasty)
    site.request("POST", "/approvals", agent["key"], json={**HELD, "sql": f"SELECT '{nasty}'"})
    for path in ("/ui/policies", "/ui/approvals", "/ui/agents", f"/ui/agents/{agent['id']}"):
        browser.get(site.url + path)
        assert browser.title != "owned"
    browser.get(f"{site.url}/ui/policies/new")
    browser.find_element(By.ID, "sql").send_keys(nasty)
    browser.find_element(By.ID, "table_allowlist").send_keys(nasty)
    shown(browser, "#verdict", "onerror")
    assert browser.title != "owned"
