"""docs/functions.md says what the facts say."""

from __future__ import annotations

from pathlib import Path

from guarddb.cli.generate_functions_document import document

PAGE = Path(__file__).parent.parent.parent / "docs" / "functions.md"


def test_the_page_is_made_from_the_facts() -> None:
    assert PAGE.read_text(encoding="utf-8") == document()
