"""The page about the rules: it has every tag, and its examples do what it says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import guarddb
from guarddb.vocabulary import RULES
from tests.conformance.cases import AT_RUN_TIME
from tests.conformance.conftest import Guard, attempt

TEXT = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
SMALLEST = {"name": "smallest"}


@dataclass(frozen=True)
class Example:
    """One statement of the page, the rule of its section, and whether that stops it."""

    rule: str
    policy: str
    sql: str
    stopped: bool

    def __str__(self) -> str:
        return f"{self.rule}: {self.sql[:60]}"

    @property
    def profile(self) -> dict[str, Any]:
        return yaml.safe_load(self.policy) if self.policy else SMALLEST


def examples() -> list[Example]:
    """Statements end with a semicolon at the end of a line; a policy holds for its section and those below it."""
    found = []
    for chapter in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]:
        introduction, *sections = re.split(r"^### ", chapter, flags=re.MULTILINE)
        common = re.search(r"```yaml\n(.*?)```", introduction, re.DOTALL)
        for section in sections:
            rule = re.match(r"`(\w+)`\n", section)
            assert rule, section[:40]
            own = re.search(r"```yaml\n(.*?)```", section, re.DOTALL) or common
            for block in re.findall(r"```sql\n(.*?)```", section, re.DOTALL):
                for part in re.split(r"^-- ", block, flags=re.MULTILINE)[1:]:
                    word, statements = part.split("\n", 1)
                    assert word in ("stopped", "passes"), word
                    found += [
                        Example(rule[1], own[1] if own else "", sql.strip(), word == "stopped")
                        for sql in re.split(r";$", statements, flags=re.MULTILINE)
                        if sql.strip()
                    ]
    return found


EXAMPLES = examples()


def test_every_rule_has_its_section_and_no_other_has_one() -> None:
    assert sorted(re.findall(r"^### `(\w+)`$", TEXT, re.MULTILINE)) == sorted(set(RULES) - {"ok"})
    order = TEXT[TEXT.index("## The order") : TEXT.index("## Texts")]
    for rule in set(RULES) - {"policy_unavailable", "internal_error"}:
        assert f"`{rule}`" in order, rule


def test_there_are_examples_of_both_kinds() -> None:
    assert len(EXAMPLES) >= 110
    stopped = {example.rule for example in EXAMPLES if example.stopped}
    assert stopped == {example.rule for example in EXAMPLES if not example.stopped}
    assert len(stopped) >= 24


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_example_does_what_the_page_says(guarded: Guard, catalog: guarddb.Catalog, example: Example) -> None:
    conn = guarded(example.policy or "smallest", example.profile)
    outcome = attempt(conn, example.sql)
    if example.stopped:
        assert outcome.rule == example.rule, outcome
    else:
        assert outcome.error is None, outcome
    dry = guarddb.evaluate(example.sql, example.profile, catalog)
    if example.stopped and example.rule in AT_RUN_TIME and dry.rule == "ok":
        return
    assert dry.to_dict() == outcome.decision.to_dict()


@pytest.mark.parametrize("link", re.findall(r"\]\(#([\w-]+)\)", TEXT))
def test_links_lead_to_headings(link: str) -> None:
    headings = {h.strip("`").lower().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)}
    assert link in headings
