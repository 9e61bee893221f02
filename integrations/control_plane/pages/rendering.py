"""Templates: SQL as text and never as markup, characters that cannot be seen made visible, changed SQL marked."""

from __future__ import annotations

import difflib
import re
import unicodedata
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from .session import Visitor

HERE = Path(__file__).parent
#: Nothing from elsewhere, nothing inline: a string that somebody smuggles into a page cannot run.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
#: What is not plain ASCII text.
_OTHER = re.compile(r"[^\n\t -~]")
_TOKEN = re.compile(r"\s+|\w+|[^\w\s]")


def visible(text: object) -> Markup:
    r"""Text with every character that is not seen, or that moves others about, as a marked escape.

    >>> visible("a\u202eb<")
    Markup('a<span class="unseen">\\u202e</span>b&lt;')
    """
    # (What is escaped is ASCII, so nothing of it is looked at again.)
    return Markup(_OTHER.sub(_shown, str(escape(text if isinstance(text, str) else str(text)))))  # noqa: S704


def _shown(found: re.Match[str]) -> str:
    return _mark(found[0])


@lru_cache(maxsize=4096)
def _mark(character: str) -> str:
    if unicodedata.category(character) not in _UNSEEN:
        return character
    code = ord(character)
    shown = f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return f'<span class="unseen">{shown}</span>'


def rewritten(before: str, after: str) -> Markup:
    """`after` with what it has more than `before` marked as inserted, and what it lacks as deleted.

    >>> rewritten("SELECT a", "SELECT NULL AS a")
    Markup('SELECT <ins>NULL AS </ins>a')
    """
    old, new = _TOKEN.findall(before), _TOKEN.findall(after)
    if len(old) + len(new) > 20_000:
        return visible(after)  # a diff of that length would take longer than anybody looks
    parts: list[Markup] = []
    for operation, a1, a2, b1, b2 in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, come = "".join(old[a1:a2]), "".join(new[b1:b2])
        if operation == "equal":
            parts.append(visible(come))
            continue
        if gone:
            parts.append(Markup("<del>{}</del>").format(visible(gone)))
        if come:
            parts.append(Markup("<ins>{}</ins>").format(visible(come)))
    return Markup("").join(parts)


def is_a_changed_row(row: object) -> bool:
    """Whether it is a row of a sample as sessions send them; whatever else somebody sends is shown as it is.

    >>> is_a_changed_row({"table": "t", "old": None, "new": {"a": "1"}}), is_a_changed_row({"old": 5})
    (True, False)
    """
    if not isinstance(row, dict) or not row.keys() <= {"table", "old", "new"}:
        return False
    sides = row.get("old"), row.get("new")
    return any(sides) and all(side is None or isinstance(side, dict) for side in sides)


def moment(value: datetime | str | None) -> str:
    """A point in time for people, in UTC."""
    if value is None:
        return "never"
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.strftime("%Y-%m-%d %H:%M:%S UTC")


_environment = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters.update(visible=visible, moment=moment)
_environment.globals.update(rewritten=rewritten, is_a_changed_row=is_a_changed_row)


def page(
    template: str,
    who: Visitor | None,
    status: int = 200,
    headers: dict[str, str] | None = None,
    **context: Any,
) -> HTMLResponse:
    """A page, with the headers that every page has."""
    html = _environment.get_template(template).render(
        visitor=who, csrf=who.csrf if who else "", here=template.removesuffix(".html"), **context
    )
    return HTMLResponse(html, status, {**HEADERS, **(headers or {})})
