"""A wall as it is against the wall as it should be, and against what else its role may do."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from guarddb.sql.names import quote
from guarddb.wall.rights import Right, Rights, plain_names
from guarddb.wall.subjects import Subjects
from guarddb.wall.wall import MARK, Wall, allowed_function
from guarddb.wall.writes import admitted_kinds

State: TypeAlias = Literal["up", "none", "out of date"]
#: surplus: the agent may do more than the profile says. missing: less is there than should be. changed: somebody has changed
#: what was installed. open: what stays possible and opens no data of the profile's.
Level: TypeAlias = Literal["surplus", "missing", "changed", "open"]

_PLAIN = re.compile("[a-z_][a-z0-9_]*")
#: Privileges of everybody's that show nothing of the data, where no filter runs code that may find a temporary table.
_HARMLESS = frozenset(("TEMPORARY",))


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be. `fix`: a statement that would mend it, or what to do."""

    level: Level
    kind: str
    object: str
    what: str
    via: str = ""
    fix: str = ""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def _written(name: str) -> str:
    """A name in a statement for people."""
    return name if _PLAIN.fullmatch(name) else quote(name)


def signature(rights: Rights) -> dict[str, Any]:
    """What the comment on the schema says of the wall; empty when there is no wall."""
    if rights.comment is None or not rights.comment.startswith(MARK):
        return {}
    try:
        document = json.loads(rights.comment)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def differences(wall: Wall, rights: Rights, fingerprint: str) -> list[Difference]:
    """Everything that is not as it should be; of level `open` too."""
    names = wall.names
    signed = signature(rights)
    if "checksum" not in signed:
        return [
            Difference(
                "missing", "schema", names.schema, "the wall is not installed", fix="guarddb wall --apply"
            ),
            *_surplus(wall, rights),
        ]
    found: list[Difference] = []
    # Whoever may not read the values that the wall was given compares what is around them.
    unknown = [name for name in signed.get("settings", ()) if name not in wall.settings]
    if signed.get("shape") != wall.shape(unknown) if unknown else signed["checksum"] != wall.checksum:
        why = "the profile, the settings or the database changed since it was installed"
        found.append(
            Difference("changed", "wall", names.schema, f"out of date: {why}", fix="guarddb wall --apply")
        )
    if signed.get("fingerprint") != fingerprint:
        why = "a view, policy, function, owner or right of it is not what was installed"
        found.append(Difference("changed", "wall", names.schema, why, fix="guarddb wall --apply"))
    if not rights.exists:
        found.append(
            Difference("missing", "role", wall.agent, "the role does not exist", fix="guarddb wall --apply")
        )
    elif not rights.usage:
        fix = f"GRANT USAGE ON SCHEMA {_written(names.schema)} TO {_written(wall.agent)}"
        found.append(Difference("missing", "schema", names.schema, "USAGE", fix=fix))
    views = wall.exposed
    absent = set(signed.get("absent", ()))
    found += [
        Difference(
            "open", "view", f"{names.schema}.{name}", "it could not be made over the wall, and is left out"
        )
        if name in absent
        else Difference("missing", "view", f"{names.schema}.{name}", "the view does not exist")
        for name in sorted(views - set(rights.views))
    ]
    found += [
        Difference("surplus", "view", f"{names.schema}.{name}", "the profile does not open it")
        for name in sorted(set(rights.views) - views)
    ]
    secured = {plain_names(each) for each in rights.policies}
    found += [
        Difference("missing", "policy", p.relation.shown, "row security is off, or its policy is gone")
        for p in wall.carried.policies
        if (p.relation.schema, p.relation.name) not in secured
    ]
    found += [
        Difference(
            "open",
            "policy",
            f"{table}.{policy}",
            "it was not in force before the wall switched row security on, and holds for other roles now",
            fix=f"DROP POLICY {quote(policy)} ON {table}",
        )
        for table, asleep in sorted(wall.wakes.items())
        for policy in asleep
    ]
    found += _unforeseen(wall)
    found += _surplus(wall, rights)
    found += [d for d in _missing_rights(wall, rights) if d.object.partition(".")[2] not in absent]
    if not any(each.replace(" ", "").startswith("search_path=") for each in rights.settings):
        found.append(
            Difference(
                "open",
                "role",
                wall.agent,
                "its search_path does not begin with the wall, so views need their schema",
            )
        )
    return found


def state(wall: Wall, rights: Rights, fingerprint: str) -> State:
    """`up`: as it should be, with no surplus right. `out of date`: anything else that is installed."""
    if "checksum" not in signature(rights):
        return "none"
    return "out of date" if any(d.level != "open" for d in differences(wall, rights, fingerprint)) else "up"


def _unforeseen(wall: Wall) -> list[Difference]:
    """Code of the users' in what is installed that the wall was not made for, as PostgreSQL itself recorded it."""
    if wall.carried.opaque is not None:
        return []
    ours = (wall.names.policy, wall.names.private)
    return [
        Difference("changed", "filter", name, f"it runs {code}", fix="guarddb wall --apply")
        for owner, name, code in wall.database.installed_code
        if owner in ours
    ]


def _surplus(wall: Wall, rights: Rights) -> list[Difference]:
    return [found for right in rights.rights if (found := _judged(wall, right)) is not None]


def _judged(wall: Wall, right: Right) -> Difference | None:
    if right.kind in ("table", "sequence", "function") and _expected(wall, right):
        return None
    level: Level = "surplus"
    fix = ""
    if right.kind == "membership":
        fix = f"REVOKE {_written(right.object)} FROM {_written(wall.agent)}"
    elif right.kind == "attribute":
        fix = f"ALTER ROLE {_written(wall.agent)} NO{right.object}"
    elif right.kind == "ownership":
        fix = "give it to another owner"
    elif right.on_objects:
        whom = {"direct": _written(wall.agent), "PUBLIC": "PUBLIC"}.get(right.via) or _written(right.via)
        fix = f"REVOKE {right.granted} FROM {whom}"
    if right.kind == "database" and right.privilege in _HARMLESS and wall.carried.opaque is None:
        level = "open"
    if right.kind == "function" and right.via == "PUBLIC" and not right.definer and not right.closed:
        # It runs with the rights of the agent, which are none.
        level = "open"
    if right.brought and right.privilege == "SELECT" and not _is_named(wall, right):
        # What an extension shows to everybody, as PostgreSQL its own views.
        level = "open"
    if right.kind == "function" and _trusted(wall, right):
        return None
    return Difference(level, right.kind, right.object, right.shown, right.via, fix)


def _is_named(wall: Wall, right: Right) -> bool:
    """Whether the profile denies, masks or filters a relation."""
    relation = wall.database.by_name.get(right.names)
    if relation is None or relation.kind == "S":
        return True
    subject = Subjects(wall.profile, wall.database)[relation.oid]
    return bool(subject.denied or subject.masks or subject.filters)


def _trusted(wall: Wall, right: Right) -> bool:
    """What an extension brought, and what defaults, indexes and types call."""
    return (
        right.via == "PUBLIC"
        and not right.closed
        and any(
            routine.signature == right.object
            and (routine.trusted or (routine.needed and not routine.definer))
            for routine in wall.database.functions
        )
    )


def _wanted(wall: Wall) -> dict[tuple[str, str], dict[str, set[str] | None]]:
    """Of every view by its schema and name: privilege -> columns, None for all of them."""
    wanted: dict[tuple[str, str], dict[str, set[str] | None]] = {}
    for view in wall.carried.views:
        if not view.exposed:
            continue
        rights: dict[str, set[str] | None] = {}
        if "select" in admitted_kinds(wall.profile):
            rights["SELECT"] = None
        if view.insert:
            rights["INSERT"] = set(view.insert)
        if view.update:
            rights["UPDATE"] = set(view.update)
        if view.delete:
            rights["DELETE"] = None
        wanted[view.schema, view.name] = rights
    return wanted


def _expected(wall: Wall, right: Right) -> bool:
    if right.via != "direct":
        return False
    if right.kind == "sequence":
        return right.privilege == "USAGE" and f"sequence {'.'.join(right.names)}" in wall.objects
    if right.kind == "function":
        schema, name = right.names
        if (schema, name) == (wall.names.schema, "setting") and wall.carried.late_settings:
            return True
        if schema == wall.names.private:
            return name in wall.carried.functions
        return any(
            routine.signature == right.object and allowed_function(wall.profile, routine.schema, routine.name)
            for routine in wall.database.functions
        )
    rights = _wanted(wall).get(right.names, {})
    if right.privilege not in rights:
        return False
    columns = rights[right.privilege]
    return columns is None or (right.columns is not None and set(right.columns) <= columns)


def _missing_rights(wall: Wall, rights: Rights) -> list[Difference]:
    has: dict[tuple[tuple[str, str], str], set[str] | None] = {}
    for right in rights.rights:
        if right.kind == "table":
            key = (right.names, right.privilege)
            if right.columns is None or has.get(key, set()) is None:
                has[key] = None
            else:
                has[key] = (has.get(key) or set()) | set(right.columns)
    found = []
    for view, privileges in _wanted(wall).items():
        for privilege, columns in privileges.items():
            mine = has.get((view, privilege), set())
            if mine is not None and (columns is None or not columns <= mine):
                fix = f"GRANT {privilege} ON {'.'.join(map(_written, view))} TO {_written(wall.agent)}"
                found.append(Difference("missing", "view", ".".join(view), privilege, fix=fix))
    return found
