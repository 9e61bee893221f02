"""Action patterns: globs, dotted verbs, letter case."""

from __future__ import annotations

import pytest

from guarddb.policy.errors import PolicyError
from guarddb.risk.patterns import Action, ActionPattern


@pytest.mark.parametrize(
    ("pattern", "action", "meant"),
    [
        ("database:table:drop", "database:table:drop", True),
        ("database:table:drop", "database:table:delete", False),
        ("database:table:drop", "database:table:dropped", False),
        ("mcp:*", "mcp:s3:object.delete", True),
        ("mcp:*", "github:mcp:read", False),
        ("*:*:delete", "database:table:delete", True),
        ("*:*:delete", "a:b:c:delete", True),
        ("*:*:delete", "mcp:s3:object.delete", True),
        ("*:*:delete", "mcp:s3:object.undelete", False),
        ("*:*:delete", "mcp:s3:delete.object", False),
        ("*:*:*.delete", "mcp:s3:object.delete", True),
        ("*:*:*.delete", "database:table:delete", True),
        ("*:*:*.delete", "database:table:undelete", False),
        ("*:*:object.delete", "mcp:s3:object.delete", True),
        ("*:*:object.delete", "mcp:s3:delete", False),
        ("*.delete", "database:table:delete", True),
        ("*.delete", "mcp:s3:object.delete", True),
        ("*.delete", "database:delete:select", False),
        ("*delete", "mcp:s3:object.delete", True),
        ("delete", "database:table:delete", True),
        ("delete", "mcp:s3:object.delete", True),
        ("delete", "database:delete:select", False),
        ("*", "a:b:c", True),
        ("database:?able:drop", "database:table:drop", True),
        ("database:?able:drop", "database:cable:drop", True),
        ("database:?able:drop", "database:able:drop", False),
        ("database:[tv]*:drop", "database:view:drop", True),
        ("database:[!tv]*:drop", "database:view:drop", False),
        ("DATABASE:Table:DROP", "database:TABLE:drop", True),
        ("database:table:drop", " Database : table : DROP ", True),
        ("database:schema:*", "database:schema:create", True),
        ("database:schema:*", "database:schemas:create", False),
    ],
)
def test_a_pattern_means_these_actions_and_no_others(pattern: str, action: str, meant: bool) -> None:
    assert ActionPattern(pattern).matches(Action(action)) is meant


@pytest.mark.parametrize("text", ["", "   ", "x" * 1001])
def test_a_pattern_that_can_mean_nothing_is_an_error(text: str) -> None:
    with pytest.raises(PolicyError):
        ActionPattern(text)


@pytest.mark.parametrize(
    "text", ["", "delete", "database:delete", "a::c", ":b:c", "a:b:", "a:b:c\u200b", "a:b:" + "x" * 1000]
)
def test_what_is_no_action_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Action(text)


def test_many_stars_cost_no_more_than_their_length() -> None:
    """A pattern that would take a backtracking matcher years ends at once."""
    pattern = ActionPattern("*a" * 400 + "b")
    assert not pattern.matches(Action("a:" + "a" * 900 + ":c"))
