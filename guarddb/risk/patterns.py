"""Action patterns: globs over `domain:scope:verb`, compiled once.

`*` crosses `:` (`mcp:*` is everything of mcp), letter case does not count. A verb may hold dots, and a pattern for a
plain verb is meant for it as well: `*:*:delete` matches `mcp:s3:object.delete`, and `*:*:*.delete` matches
`database:table:delete`.
"""

from __future__ import annotations

import fnmatch
import re
from functools import lru_cache
from typing import Any

from guarddb.policy.errors import PolicyError
from guarddb.risk.folding import fold

#: Longer than any action, which has this many characters at most.
MAX_ACTION_CHARS = 1_000


class ActionPattern:
    """One glob. `text` is as the policy spells it."""

    __slots__ = ("_matchers", "_plain", "_verb", "text")

    def __init__(self, text: str) -> None:
        """Raises PolicyError: the text is empty or longer than an action can be."""
        self.text = text
        folded = fold(text).strip()
        if not folded:
            raise PolicyError('is empty; a pattern is a glob such as "*:*:delete"')
        if len(folded) > MAX_ACTION_CHARS:
            raise PolicyError(f"has {len(folded)} characters; the limit is {MAX_ACTION_CHARS}")
        prefix, colon, last = folded.rpartition(":")
        globs = [folded]
        if last.startswith("*."):
            # The star of `*.delete` stands for the part before the dot; a plain verb has none.
            globs.append(f"{prefix or '*'}:{last[2:]}")
        self._matchers = tuple(_compiled(glob) for glob in globs)
        #: its last segment is without a dot, so that it is asked about a dotted verb's last part too
        self._plain = "." not in last
        #: a bare verb, `delete`: it means that verb wherever it stands
        self._verb = folded if not colon and not any(c in folded for c in "*?[.") else None

    def matches(self, action: Action) -> bool:
        """Whether the action is one that the pattern means."""
        for matcher in self._matchers:
            if matcher(action.text) is not None:
                return True
            if self._plain and action.shortened is not None and matcher(action.shortened) is not None:
                return True
        return self._verb is not None and self._verb in (action.verb, action.last_part)

    def __repr__(self) -> str:
        return f"ActionPattern({self.text!r})"


class Action:
    """`domain:scope:verb` in lower case, taken apart for the patterns.

    Attributes:
        text: the whole action.
        verb: its last segment, dots and all.
        last_part: what follows the last dot of the verb; the verb itself when it has none.
        shortened: the action with `last_part` for its verb, or None when the verb has no dot.
    """

    __slots__ = ("last_part", "shortened", "text", "verb")

    def __init__(self, text: str) -> None:
        """Raises ValueError: the text is not of the form; its message goes on after "the action"."""
        if len(text) > MAX_ACTION_CHARS:
            raise ValueError(f"has {len(text)} characters; the limit is {MAX_ACTION_CHARS}")
        if not text.isprintable():
            # An invisible character would make another verb of the one that everybody reads.
            raise ValueError("holds a character that is not printable")
        segments = [segment.strip() for segment in fold(text).split(":")]
        if len(segments) < 3 or not all(segments):
            raise ValueError('has the form "domain:scope:verb", three segments or more and none empty')
        self.text = ":".join(segments)
        self.verb = segments[-1]
        self.last_part = self.verb.rpartition(".")[2].strip() or self.verb
        self.shortened = (
            f"{self.text.rpartition(':')[0]}:{self.last_part}" if self.last_part != self.verb else None
        )

    def __repr__(self) -> str:
        return f"Action({self.text!r})"


@lru_cache(maxsize=1024)
def read_action(text: str) -> Action:
    """`Action(text)`; statements ask about the same few again and again."""
    return Action(text)


def _compiled(glob: str) -> Any:
    # fnmatch's translation takes each run between two stars at its first place and never looks back (atomic groups), so a
    # pattern of many stars costs no more than its length times the action's.
    return re.compile(fnmatch.translate(glob)).match
