"""The wall: a profile compiled into what PostgreSQL itself enforces."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from guarddb.policy.errors import PolicyError
from guarddb.policy.profile import PolicyProfile
from guarddb.sql.names import literal, quote, quote_qualified
from guarddb.wall.asked_first import Cost
from guarddb.wall.carried import Builder, Carried, Policy, View, short
from guarddb.wall.database import Database, Relation
from guarddb.wall.writes import admitted_kinds

#: Of every table with a filter: what keeps row security from hiding anything from anybody but the wall's own role.
OPEN_POLICY = "guarddb_everyone"
#: Where a function's settings go that are those of whoever installs it. (Names and constants may hold any text.)
PINS = " {pins}\n  RETURN ("
#: Stands for the value of a setting that nobody said.
_ANY_VALUE = "?"
#: What a comment on the schema of a wall begins with.
MARK = '{"guarddb": "wall'
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Names:
    """How a wall's schemas, roles and policies are called."""

    schema: str
    reader: str
    keeper: str

    @property
    def private(self) -> str:
        return f"{self.schema}_private"

    @property
    def policy(self) -> str:
        return short(f"guarddb_{self.schema}")

    @classmethod
    def of(cls, profile: PolicyProfile) -> Names:
        """The names for a profile: `guarddb.wall` is the schema, or else the profile's name with `_wall`.

        Raises:
            PolicyError: the schema would be one of PostgreSQL's own, or is too long.
        """
        stem = re.sub(r"[^a-z0-9]+", "_", profile.name.lower()).strip("_") or "policy"
        stem = stem[:40].rstrip("_")
        given = getattr(profile.guarddb, "wall", None)
        schema = given or f"{stem}_wall"
        if (
            len(schema.encode()) > 50
            or schema.startswith("pg_")
            or schema in ("public", "information_schema")
        ):
            raise PolicyError(f'"{schema}" cannot be the schema of a wall', "guarddb.wall")
        return cls(schema, f"{stem}_reader", f"{stem}_keeper")


@dataclass
class Wall:
    """A wall as it should be.

    Attributes:
        profile: the profile that it carries.
        names: of its schemas, roles and policies.
        agent: the role that agents connect as.
        settings: values that its filters hold as constants.
        carried: views, policies, functions, and what is left out.
        limits: what no wall can carry of this profile, one sentence each.
    """

    profile: PolicyProfile
    database: Database
    names: Names
    agent: str
    settings: Mapping[str, str]
    carried: Carried
    limits: list[str] = field(default_factory=list)

    @cached_property
    def objects(self) -> dict[str, str]:
        """What is installed, by name, as the SQL that makes it, in the order in which it is made."""
        return dict(_objects(self))

    @cached_property
    def checksum(self) -> str:
        """Sixteen hex digits that change when anything of the wall should."""
        text = json.dumps([_FORMAT, self.names.schema, self.agent, list(self.objects.items())])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def shape(self, unknown: Iterable[str] = ()) -> str:
        """The checksum without the values of settings, `unknown` ones among them: it can be compared without knowing them."""
        names = (self.profile.filter_settings & set(self.settings)) | set(unknown)
        values = {**self.settings, **dict.fromkeys(names, _ANY_VALUE)}
        return compile_wall(self.profile, self.database, self.agent, values).checksum

    @cached_property
    def wakes(self) -> dict[str, tuple[str, ...]]:
        """Restrictive policies of the application that were not in force, by their table: with the row security that the wall
        switches on, they hide rows from other roles."""
        policies = self.carried.policies
        return {p.relation.shown: p.relation.asleep for p in policies if p.relation.asleep}

    @cached_property
    def view_names(self) -> dict[tuple[str, str], str]:
        """The wall's view of each relation that it shows: (schema, name) -> name in the wall's schema."""
        return {
            (view.relation.schema, view.relation.name): view.name
            for view in self.carried.views
            if view.exposed and not view.only
        }

    @cached_property
    def only_names(self) -> dict[tuple[str, str], str]:
        """The same of the views that show a parent without its children."""
        return {
            (view.relation.schema, view.relation.name): view.name for view in self.carried.views if view.only
        }

    @property
    def asked_first(self) -> frozenset[tuple[str, str]]:
        """The tables whose filter PostgreSQL asks before any condition of an agent's that no index serves."""
        policies = self.carried.policies
        return frozenset((p.relation.schema, p.relation.name) for p in policies if p.cost == Cost.NOTHING)

    @property
    def asked_by_one(self) -> frozenset[tuple[str, str]]:
        """The tables whose filter is one condition, which PostgreSQL asks before what costs it an operator."""
        found = [p.relation for p in self.carried.policies if p.single and p.cost <= Cost.OPERATOR]
        return frozenset((relation.schema, relation.name) for relation in found)

    @property
    def exposed(self) -> set[str]:
        """The names of all views in the wall's schema."""
        return {view.name for view in self.carried.views if view.exposed}

    @property
    def needs_keeper(self) -> bool:
        """Whether filters read what the wall's own role cannot: filtered tables, and settings of logins."""
        made = self.carried
        return bool(made.stand_ins or made.late_settings or any(f.definer for f in made.functions.values()))

    def comment(self) -> dict[str, object]:
        """What the comment on the schema says, but for the fingerprint of what is installed."""
        return {
            "guarddb": "wall",
            "format": _FORMAT,
            "policy": self.profile.name,
            "agent": self.agent,
            "checksum": self.checksum,
            "shape": self.shape(),
            "settings": sorted(self.profile.filter_settings & set(self.settings)),
            "settings_of_logins": sorted(self.carried.late_settings),
        }


def compile_wall(
    profile: PolicyProfile, database: Database, agent: str, settings: Mapping[str, str] | None = None
) -> Wall:
    """The wall of a profile over a database.

    Args:
        agent: the role that agents connect as.
        settings: values for settings that filters read, over those of the profile. What has none is looked up for the login,
            in a table that the agent cannot write.

    Raises:
        PolicyError: the profile cannot have a wall at all, as when its schema's name is one of PostgreSQL's.
    """
    values = {name.lower(): value for name, value in {**profile.guarddb.settings, **(settings or {})}.items()}
    names = Names.of(profile)
    if agent in (names.reader, names.keeper):
        raise PolicyError(f'"{agent}" is a role of the wall itself; agents connect as another one')
    builder = Builder(profile, database, values, names.schema, names.private)
    return Wall(profile, database, names, agent, values, builder.build(), _limits(profile))


def _limits(profile: PolicyProfile) -> list[str]:
    found = []
    if profile.budget_queries_per_hour or profile.budget_queries_per_day:
        found.append("query budgets are counted by guarddb only")
    if profile.egress_bytes_per_day:
        found.append("the egress budget is counted by guarddb only")
    if profile.max_rows:
        found.append("max_rows cuts results in guarddb only")
    if profile.max_affected_rows:
        found.append("max_affected_rows is kept by guarddb only")
    if profile.statement_timeout_ms:
        found.append("statement_timeout_ms is the role's default, which a session may change")
    if profile.approval_mode != "off":
        found.append("approvals are asked for by guarddb only")
    if profile.write_mode != "normal":
        found.append(f"write_mode {profile.write_mode} is carried out by guarddb only")
    if profile.migration_safety != "off":
        found.append("migrations are judged by guarddb only")
    if profile.content_scan_mode != "off":
        found.append("results are scanned by guarddb only")
    if profile.guarddb.mask_uses:
        found.append(
            "mask_uses: through the wall a masked column is its mask in every clause, joins and groups too"
        )
    found.append(
        "of statement kinds, select, insert, update and delete are rights; show, explain, set, transaction, copy of a query "
        "and other are not, and DDL is never possible"
    )
    found.append("the floor's rules about text (UPDATE without WHERE, say) are guarddb's only")
    return found


# ---------------------------------------------------------------------- what is installed


def _objects(wall: Wall) -> list[tuple[str, str]]:
    made, names = wall.carried, wall.names
    found: list[tuple[str, str]] = []
    for oid, columns in sorted(made.reads.items()):
        found.append(_read_grant(wall, oid, columns, names.reader))
    for oid, columns in sorted(made.filter_reads.items()):
        found.append(_read_grant(wall, oid, columns, names.keeper))
    found += [
        (
            f"right of {names.keeper} on {routine.signature}",
            f"GRANT EXECUTE ON ROUTINE {routine.signature} TO {quote(names.keeper)};",
        )
        for routine in wall.database.functions
        if routine.signature in made.calls
    ]
    if made.late_settings:
        found.append(("function setting", _setting_function(wall)))
    for oid, name in sorted(made.stand_ins.items()):
        found.append((f"view {name}", _stand_in(wall, wall.database.by_oid[oid], name)))
    found += [(f"function {name}", _function(wall, name)) for name in made.functions]
    found += [(f"policy on {p.relation.shown}", _policy(wall, p)) for p in made.policies]
    found += [(f"{'' if v.exposed else 'inner '}view {v.name}", _view(wall, v)) for v in made.views]
    # Types are named by their schema; and behind the wall guarddb has to find the tables by the session's search path.
    found += [
        (f"schema {schema}", f"GRANT USAGE ON SCHEMA {quote(schema)} TO {quote(wall.agent)};")
        for schema in shown_schemas(wall)
        if schema != "public"
    ]
    for oid in sorted(made.sequences):
        if (sequence := wall.database.by_oid.get(oid)) is not None and sequence.kind == "S":
            name = _name(sequence)
            found.append(
                (f"sequence {sequence.shown}", f"GRANT USAGE ON SEQUENCE {name} TO {quote(wall.agent)};")
            )
    for routine in wall.database.functions:
        if allowed_function(wall.profile, routine.schema, routine.name):
            grants = (
                f"GRANT USAGE ON SCHEMA {quote(routine.schema)} TO {quote(wall.agent)};\n"
                f"GRANT EXECUTE ON ROUTINE {routine.signature} TO {quote(wall.agent)};"
            )
            found.append((f"function {routine.signature}", grants))
    return found


def shown_schemas(wall: Wall) -> list[str]:
    """The schemas of the relations that it shows, `public` first."""
    schemas = {schema for schema, _ in (*wall.view_names, *wall.only_names)}
    return sorted(schemas, key=lambda schema: (schema != "public", schema))


def allowed_function(profile: PolicyProfile, schema: str, name: str) -> bool:
    """Whether `function_allowlist` names it."""
    return any(pattern.matches(schema, name) for pattern in profile.function_patterns)


def _name(relation: Relation) -> str:
    return quote_qualified(relation.schema, relation.name)


def _columns(columns: tuple[str, ...] | list[str]) -> str:
    return ", ".join(quote(column) for column in columns)


def _read_grant(wall: Wall, oid: int, columns: set[str], role: str) -> tuple[str, str]:
    relation = wall.database.by_oid[oid]
    order = [column.name for column in relation.columns if column.name in columns]
    # PostgreSQL asks for each column of a view, whatever a statement reads of it, and for a table once: 2 µs of 8 columns.
    listed = "" if len(order) == len(relation.columns) else f" ({_columns(order)})"
    text = f"GRANT SELECT{listed} ON {_name(relation)} TO {quote(role)};"
    return f"right of {role} on {relation.shown}", text


def _setting_function(wall: Wall) -> str:
    names = wall.names
    function = f"{quote(names.schema)}.setting(text)"
    return (
        f"GRANT SELECT ON {quote(names.private)}.settings TO {quote(names.keeper)};\n"
        f"CREATE FUNCTION {quote(names.schema)}.setting(setting text) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE\n"
        "  SECURITY DEFINER SET search_path TO pg_catalog, pg_temp\n"
        f"  RETURN (SELECT s.value FROM {quote(names.private)}.settings AS s\n"
        "          WHERE s.login = session_user AND s.name = lower(setting));\n"
        f"ALTER FUNCTION {function} OWNER TO {quote(names.keeper)};\n"
        f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC;\n"
        f"GRANT EXECUTE ON FUNCTION {function} TO {quote(wall.agent)};"
    )


def _stand_in(wall: Wall, relation: Relation, name: str) -> str:
    view = f"{quote(wall.names.private)}.{quote(name)}"
    columns = [c.name for c in relation.columns if c.name in wall.carried.filter_reads.get(relation.oid, ())]
    return (
        f"CREATE VIEW {view} AS SELECT {_columns(columns)} FROM {_name(relation)};\n"
        f"ALTER VIEW {view} OWNER TO {quote(wall.names.keeper)};\n"
        f"GRANT SELECT ON {view} TO {quote(wall.names.reader)};"
    )


def _function(wall: Wall, name: str) -> str:
    made = wall.carried.functions[name]
    qualified = f"{quote(wall.names.private)}.{quote(name)}"
    owner = wall.names.keeper if made.definer else wall.names.reader
    volatility = "STABLE" if made.definer else "IMMUTABLE"
    # (pg_temp, where it is not named, would come first.)
    path = ", ".join(["pg_catalog", *(_found_by_users_code(wall) if made.runs else ()), "pg_temp"])
    # PostgreSQL asks the cheaper of two conditions first, where the agent's takes no column in what may raise: `CASE WHEN name =
    # 'x' THEN 1 / $1 = 1 END`.
    cost = " COST 0.0001" if made.definer else ""
    return (
        f"CREATE FUNCTION {qualified}({made.arguments}) RETURNS {made.returns} LANGUAGE sql {volatility} PARALLEL SAFE{cost}\n"
        f"  {'SECURITY DEFINER ' if made.definer else ''}SET search_path TO {path}{PINS}{made.body});\n"
        f"ALTER FUNCTION {qualified}({made.types}) OWNER TO {quote(owner)};\n"
        f"REVOKE ALL ON FUNCTION {qualified}({made.types}) FROM PUBLIC;\n"
        f"GRANT EXECUTE ON FUNCTION {qualified}({made.types}) TO {quote(wall.agent)};"
    )


def _found_by_users_code(wall: Wall) -> list[str]:
    return [quote(schema) for schema in dict.fromkeys(["public", *wall.database.extension_schemas])]


def _policy(wall: Wall, policy: Policy) -> str:
    relation = policy.relation
    table = _name(relation)
    # Where row security was on before, what the application's own policies show stays all that there is.
    others = (
        ""
        if relation.row_security
        else (
            f"DROP POLICY IF EXISTS {OPEN_POLICY} ON {table};\n"
            f"CREATE POLICY {OPEN_POLICY} ON {table} USING (true) WITH CHECK (true);\n"
        )
    )
    return (
        f"{others}CREATE POLICY {quote(wall.names.policy)} ON {table} AS RESTRICTIVE TO {quote(wall.names.reader)}\n"
        f"  USING ({policy.text})\n  WITH CHECK ({policy.checked});\n"
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;"
    )


def _view(wall: Wall, view: View) -> str:
    reader, agent = quote(wall.names.reader), quote(wall.agent)
    options = " WITH (security_barrier)" if view.barrier else ""
    parts = [
        f"CREATE VIEW {view.qualified}{options} AS\n  {view.query};",
        f"ALTER VIEW {view.qualified} OWNER TO {reader};",
    ]
    if not view.exposed:
        return _may_fail(view, parts)
    if "select" in admitted_kinds(wall.profile):
        parts.append(f"GRANT SELECT ON {view.qualified} TO {agent};")
    table = _name(view.relation)
    for right, columns in (("INSERT", view.insert), ("UPDATE", view.update)):
        if columns:
            parts.append(f"GRANT {right} ({_columns(columns)}) ON {table} TO {reader};")
            parts.append(f"GRANT {right} ({_columns(columns)}) ON {view.qualified} TO {agent};")
    if view.delete:
        parts.append(f"GRANT DELETE ON {table} TO {reader};")
        parts.append(f"GRANT DELETE ON {view.qualified} TO {agent};")
    return _may_fail(view, parts)


def _may_fail(view: View, parts: list[str]) -> str:
    """A view of the application may not work over masks: another type, no primary key to group by. Then there is none."""
    text = "\n".join(parts)
    if view.relation.kind != "v":
        return text
    tag = "$view$"
    while tag in text:
        tag = tag[:-1] + "_$"
    return (
        f"DO {tag}\nBEGIN\n{text}\nEXCEPTION WHEN others THEN\n"
        f"  RAISE WARNING '% is left out: %', {literal(view.relation.shown)}, SQLERRM;\nEND {tag};"
    )
