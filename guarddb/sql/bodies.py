"""What the text of a function does to its session: the settings that it changes, and whether it defines something."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from guarddb.sql.catalog import Catalog, Function

_WORD = re.compile(r"[A-Za-z_\u0080-\U0010ffff][\w$]*")
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
#: set_config('name', …); without a group the name is computed.
_SET_CONFIG = re.compile(r"""\bset_config"?\s*\(\s*(?:E?'([\w. ]+)'\s*(?:::\s*text\s*)?,)?""", re.IGNORECASE)
_SET = re.compile(
    r"""\b(?:re)?set\s+(?:session\s+(?!authorization)|local\s+)?
        (?:(time\s+zone|role|session\s+authorization|session\s+characteristics|names|schema|all)\b
          |("?[a-z_][\w.]*"?)\s*(?:=|\bto\b|;|'|$))""",
    re.IGNORECASE | re.VERBOSE,
)
#: Behind these SET gives columns their values.
_ASSIGNS = re.compile(r"\b(?:update|merge|conflict)\b", re.IGNORECASE)
_SPELLED = {
    "time zone": "timezone",
    "session authorization": "session_authorization",
    "session characteristics": "default_transaction_read_only",
    "names": "client_encoding",
    "schema": "search_path",
}
#: An UPDATE of that view is a SET of whatever its rows are about.
_UPDATE = re.compile(r"""\bupdate\s+(?:only\s+)?(?:"?pg_catalog"?\s*\.\s*)?"?pg_settings\b""", re.IGNORECASE)
_DYNAMIC = re.compile(r"\bexecute\b|\bdblink", re.IGNORECASE)
#: Words of a definition, also in a command that is put together.
_DEFINITION = re.compile(r"\b(?:create|alter|drop|import)\b", re.IGNORECASE)
_READ = frozenset(("sql", "plpgsql"))


@dataclass(frozen=True, slots=True)
class Settings:
    """What of the session's settings a function may change, the functions that its text names included.

    Attributes:
        names: those that the text names, in lower case; `all` for RESET ALL.
        computed: it calls set_config() with a name that does not stand there.
        unread: it may run what does not stand there.
    """

    names: frozenset[str]
    computed: bool
    unread: bool

    @property
    def any(self) -> bool:
        return bool(self.names) or self.computed or self.unread


def settings_of(functions: Iterable[Function], catalog: Catalog) -> Settings:
    """What calls of functions may do to the settings of the session."""
    names: set[str] = set()
    computed = unread = False
    for each in _reached(functions, catalog):
        text = _COMMENT.sub(" ", each.body or "")
        found = list(_set(text))
        names.update(name for name in found if name)
        computed = computed or "" in found
        trusted = each.extension is not None or (each.kind == "a" and each.language in ("c", "internal"))
        # (Which functions an aggregate is made of does not stand in a text.)
        seen = each.language in _READ and each.kind != "a"
        unread = unread or not (trusted or seen) or bool(_DYNAMIC.search(text))
    return Settings(frozenset(names), computed, unread)


def defines(functions: Iterable[Function], catalog: Catalog) -> bool:
    """Whether calls of functions may change the catalog, by the words in their texts and in those of functions named there."""
    for each in _reached(functions, catalog):
        if each.body is None:
            if each.extension is None and each.kind != "a" and each.language != "internal":
                return True
        elif _DEFINITION.search(_COMMENT.sub(" ", each.body)):
            return True
    return False


def _set(text: str) -> Iterator[str]:
    """The settings that a text sets; empty for one whose name is computed."""
    for call in _SET_CONFIG.finditer(text):
        yield (call[1] or "").strip().lower()
    if _UPDATE.search(text):
        yield ""
    for command in text.split(";"):
        for found in _SET.finditer(command + ";"):
            if _ASSIGNS.search(command, 0, found.start()):
                continue
            name = " ".join((found[1] or found[2]).lower().split()).strip('"')
            yield _SPELLED.get(name, name)


def _reached(functions: Iterable[Function], catalog: Catalog) -> Iterator[Function]:
    """Functions, and those whose names stand in their texts, at any depth."""
    stack = list(functions)
    seen = {each.qualified_name for each in stack}
    while stack:
        each = stack.pop()
        yield each
        words = {word for found in _WORD.findall(each.body or "") for word in (found, found.lower())}
        for word in sorted(words):
            found = [other for other in catalog.functions_anywhere(word) if other.qualified_name not in seen]
            seen.update(other.qualified_name for other in found)
            stack += found
