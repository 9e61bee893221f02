"""The policy reference: it names every field, and what it shows loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from guarddb.policy import GuarddbExtension, PolicyProfile, load_policy
from guarddb.vocabulary import FLOOR_RULES, KINDS

TEXT = (Path(__file__).parents[2] / "docs" / "policy.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


def test_every_field_rule_and_kind_is_described() -> None:
    for word in (*PolicyProfile.model_fields, *GuarddbExtension.model_fields, *FLOOR_RULES, *KINDS):
        assert f"`{word}`" in TEXT, word


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_what_the_reference_shows_loads(snippet: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(snippet if "name:" in snippet else f"name: x\n{snippet}", encoding="utf-8")
    assert load_policy(path)
