"""Write docs/functions.md: every built-in function that does more than compute, and what becomes of a call of it.

python -m guarddb.cli.generate_functions_document > docs/functions.md
"""

from __future__ import annotations

import re

from guarddb.facts.functions import REFUSED_BY_NAME, facts
from guarddb.facts.groups import GROUPS, Group
from guarddb.facts.system_relations import CLOSED, RESTRICTED, SEQUENCE, ClosedColumns

_HEAD = """\
# Built-in functions and system relations

A function of pg_catalog that only computes may be called. What does more than that belongs to one of the groups below,
each with its reason. VOLATILE alone is no reason: what counts is what a function does. A VOLATILE function that is in no
group (of a newer PostgreSQL) is refused until somebody has looked at it.

This page is made from the facts that decide (`guarddb/facts/groups.py`, `guarddb/facts/system_relations.py`).
"""

_SHOWN = {
    "filter": "row filters",
    "mask": "masks",
    "list": "lists of tables",
    "written": "masks, where it may write",
    "place": "masks (of a partition key)",
}


def document() -> str:
    """The page, as Markdown."""
    parts = [_HEAD, "## What passes\n", *_section("passes")]
    parts.append(
        "## What passes unless the policy hides something it would tell of\n\n"
        "A profile opens one of these groups in spite of that with `guarddb.function_groups: [name]`.\n"
    )
    parts += _section("unless_hidden")
    parts.append(
        "## What is refused\n\nThe groups marked “may be opened” can be named in `guarddb.function_groups`.\n"
    )
    parts += _section("refused")
    parts.append(
        "## Refused by name, in whatever schema\n\n"
        "Functions of extensions that do what no policy could see; the name stands for every function that has it.\n"
    )
    parts.append("| name | reason |\n|---|---|")
    parts += [f"| `{pattern.replace('|', ' · ')}` | {reason} |" for pattern, reason in REFUSED_BY_NAME]
    parts.append(
        "\n## System relations\n\n"
        "pg_catalog and information_schema may be read. These take an explicit, schema-qualified entry in the "
        "`table_allowlist`, because they show secrets, other sessions' SQL or sampled values:\n"
    )
    parts.append(", ".join(f"`{name}`" for name in sorted(RESTRICTED)) + ".\n")
    parts.append(
        "Of these, single columns are closed, also where a view shows them or chooses its rows by them:\n"
    )
    parts.append("| relation | columns | reason | closed under |\n|---|---|---|---|")
    parts += [_relation(name, closed) for name in sorted(CLOSED) for closed in CLOSED[name]]
    parts += [_relation("every sequence", closed) for closed in SEQUENCE]
    return "\n".join(parts) + "\n"


def _section(standing: str) -> list[str]:
    lines = ["| group | functions | reason |" + (" closed under |" if standing == "unless_hidden" else "")]
    lines.append("|---|---|---|" + ("---|" if standing == "unless_hidden" else ""))
    for group in GROUPS:
        if group.standing != standing:
            continue
        name = f"`{group.name}`" + (" (may be opened)" if standing == "refused" and group.openable else "")
        line = f"| {name} | {_members(group)} | it {group.what} |"
        if standing == "unless_hidden":
            line += f" {', '.join(_SHOWN[what] for what in sorted(group.tells))} |"
        lines.append(line)
    return [*lines, ""]


def _members(group: Group) -> str:
    known = sorted(facts().functions)
    names: list[str] = []
    for member in group.members:
        pattern = re.compile(re.escape(member).replace(r"\*", ".*"))
        matched = [name for name in known if pattern.fullmatch(name)]
        names += matched if len(matched) <= 24 else [member]
    return ", ".join(f"`{name}`" for name in dict.fromkeys(names))


def _relation(name: str, closed: ClosedColumns) -> str:
    columns = ", ".join(f"`{c}`" for c in sorted(closed.columns)) if closed.columns else "all"
    under = ", ".join(_SHOWN[what] for what in sorted(closed.tells)) or "every policy without an entry for it"
    if closed.own_row:
        under += "; the session's own row shows it where nothing is listed, filtered or masked"
    shown = f"`{name}`" if name in CLOSED else name
    return f"| {shown} | {columns} | it {closed.what} | {under} |"


if __name__ == "__main__":
    print(document(), end="")
