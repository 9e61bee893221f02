"""What the wall carries: a view for each relation, what its owner may do below, what the agent may do with it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from guarddb.policy.profile import PolicyProfile
from guarddb.sql.names import quote, quote_qualified
from guarddb.tree import nodes, parse
from guarddb.wall.asked_first import Cost, asked_first
from guarddb.wall.database import Column, Database, Relation
from guarddb.wall.masks import hash_function, hashed, mask_expression, needs_value
from guarddb.wall.predicates import FilterText, Unbindable, filter_text
from guarddb.wall.subjects import Subject, Subjects
from guarddb.wall.writes import Writes, admitted_kinds

_MAX_NAME = 63


@dataclass(slots=True)
class View:
    """One view of the wall, or one behind it that only other views read.

    Attributes:
        query: its definition.
        plain: columns that are the table's own, which can be written.
        insert, update: columns that the agent may write; delete: whether it may delete.
        only: it shows the rows of a parent without those of its children.
    """

    relation: Relation
    schema: str
    name: str
    query: str
    barrier: bool = False
    exposed: bool = True
    only: bool = False
    insert: tuple[str, ...] = ()
    update: tuple[str, ...] = ()
    delete: bool = False

    @property
    def qualified(self) -> str:
        return quote_qualified(self.schema, self.name)


@dataclass(slots=True)
class Policy:
    """The row security of one table: every condition of its filters. `cost`: that of the most expensive one to PostgreSQL;
    `single`: it is one.
    """

    relation: Relation
    text: str
    checked: str
    cost: Cost
    single: bool


@dataclass(slots=True)
class Function:
    """A function behind the wall. `definer`: it runs as the role that reads for filters. `runs`: it calls code of the users',
    which finds what it names without a schema in `public`."""

    name: str
    arguments: str
    types: str
    returns: str
    body: str
    definer: bool
    runs: bool = False


@dataclass(slots=True)
class Carried:
    """All of it. `notes`: what is carried less than wholly; `left_out`: relations, each with its reason."""

    views: list[View] = field(default_factory=list)
    policies: list[Policy] = field(default_factory=list)
    functions: dict[str, Function] = field(default_factory=dict)
    #: columns that the views' owner, and the role that reads for filters, see of each relation, by OID
    reads: dict[int, set[str]] = field(default_factory=dict)
    filter_reads: dict[int, set[str]] = field(default_factory=dict)
    stand_ins: dict[int, str] = field(default_factory=dict)
    sequences: set[int] = field(default_factory=set)
    late_settings: set[str] = field(default_factory=set)
    #: code of the users' that a filter runs, and the functions that it is, as GRANT takes them
    opaque: str | None = None
    calls: set[str] = field(default_factory=set)
    notes: list[tuple[str, str]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    rewrite: list[Relation] = field(default_factory=list)


def short(name: str) -> str:
    """A name that PostgreSQL does not cut."""
    if len(name.encode()) <= _MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name.encode()[: _MAX_NAME - 9].decode(errors="ignore") + "_" + digest


class Builder:
    """Works the wall out, relation by relation."""

    def __init__(
        self,
        profile: PolicyProfile,
        database: Database,
        settings: Mapping[str, str],
        schema: str,
        private: str,
    ) -> None:
        self.profile = profile
        self.database = database
        self.settings = settings
        self.schema = schema
        self.private = private
        self.subjects = Subjects(profile, database)
        self.kinds = admitted_kinds(profile)
        self.redact_nulls = bool(getattr(profile.guarddb, "redact_nulls", False))
        self.keyed = profile.guarddb.hash_key_env is not None
        self.made = Carried()
        self.by_oid: dict[int, View | None] = {}
        self.filters: dict[int, FilterText | None] = {}
        self._open: set[int] = set()

    def build(self) -> Carried:
        shown = [s for s in self.subjects.by_oid.values() if self._is_shown(s)]
        alone = [s for s in self.subjects.by_oid.values() if s.allowed and s.alone]
        self.names = self._names([s.relation for s in (*shown, *alone)])
        self._find_stand_ins()
        reads, opaque = self._bind_filters()
        self.made.opaque = opaque
        self.writes = Writes(self.subjects, self.database, reads, opaque, self.filters)
        for subject in shown:
            self.view_of(subject)
        for subject in (*shown, *alone):
            self._only(subject)
        return self.made

    # ------------------------------------------------------------------ which relations, under which names

    def _is_shown(self, subject: Subject) -> bool:
        relation = subject.relation
        if not subject.allowed:
            return False
        reason = None
        if subject.denied is not None:
            same = subject.denied == relation.shown
            reason = "denied" if same else f'"{subject.denied}" is denied'
        elif subject.refused is not None:
            reason = subject.refused
        if reason is not None:
            self.made.left_out[relation.shown] = reason
        return reason is None

    def _names(self, relations: list[Relation]) -> dict[int, str]:
        """The bare name where one relation has it, or the one of schema public; else the schema before it."""
        names: dict[int, str] = {}
        taken: set[str] = set()
        counts: dict[str, int] = {}
        for relation in relations:
            counts[relation.name] = counts.get(relation.name, 0) + 1
        for relation in sorted(relations, key=lambda r: (r.schema != "public", r.schema, r.name)):
            bare = relation.schema == "public" or counts[relation.name] == 1
            name = relation.name if bare else short(f"{relation.schema}_{relation.name}")
            while name in taken:
                name = short(name + "_")
            taken.add(name)
            names[relation.oid] = name
        return names

    # ------------------------------------------------------------------ filters

    def _find_stand_ins(self) -> None:
        """A filter's sub-select reads a table as it is, also where that table has a filter: by a view of another role."""
        for subject in self.subjects.by_oid.values():
            for _, predicate in subject.filters:
                for kind, node in nodes(predicate.tree):
                    if kind != "RangeVar" and "relname" not in node:
                        continue
                    key = (node.get("schemaname", "public"), node.get("relname", ""))
                    read = self.database.by_name.get(key)
                    if read is not None and self.subjects[read.oid].filters and read.kind in ("r", "p"):
                        self.made.stand_ins[read.oid] = short(f"all_{read.schema}_{read.name}")

    def _bind_filters(self) -> tuple[list[tuple[Relation, Relation]], str | None]:
        reads: list[tuple[Relation, Relation]] = []
        opaque: str | None = None
        for subject in self.subjects.by_oid.values():
            if not subject.filters or not (Subjects.is_open(subject) or subject.alone):
                continue
            bound = self._bind(subject)
            self.filters[subject.relation.oid] = bound
            if bound is None:
                continue
            reads += [
                (subject.relation, read)
                for key in bound.reads
                if (read := self.database.by_name.get(key)) is not None
            ]
            opaque = opaque or bound.opaque
        # What could not be bound has no view, and neither has what reads it.
        for subject in self.subjects.by_oid.values():
            for oid in subject.reads:
                if subject.refused is None and self.subjects[oid].refused is not None:
                    subject.refused = f'it reads "{self.database.by_oid[oid].shown}", which is left out'
        return reads, opaque

    def _bind(self, subject: Subject) -> FilterText | None:
        """All filters of one relation as one text, behind a function where settings could move it."""
        relation = subject.relation
        parts: list[FilterText] = []
        stand_ins = {
            (self.database.by_oid[oid].schema, self.database.by_oid[oid].name): (
                f"{quote(self.private)}.{quote(name)}"
            )
            for oid, name in self.made.stand_ins.items()
        }
        try:
            for number, (pattern, predicate) in enumerate(subject.filters):
                for row in (relation.name, _function_name(relation, number)):
                    bound = filter_text(
                        predicate,
                        pattern,
                        relation,
                        self.database,
                        self.settings,
                        setting_function=f"{quote(self.schema)}.setting",
                        row=row,
                        stand_ins=stand_ins,
                    )
                    if bound.moved_by is None:
                        break
                if bound.moved_by is not None and (bound.asks_who or bound.whole):
                    raise Unbindable(f"{bound.moved_by}, and it asks for the user or a whole row")
                parts.append(bound)
        except Unbindable as ex:
            subject.refused = f"its row filter cannot be a policy: {ex}"
            self.made.left_out[relation.shown] = subject.refused
            return None
        return self._joined(subject, parts)

    def _joined(self, subject: Subject, parts: list[FilterText]) -> FilterText:
        relation = subject.relation
        whole = FilterText("", cost=Cost.NOTHING)
        texts: list[str] = []
        checked: list[str] = []
        for number, part in enumerate(parts):
            if part.moved_by is not None:
                whole.cost = Cost.MORE
                name = _function_name(relation, number)
                columns = part.columns
                arguments = ", ".join(f"{quote(c.name)} {c.type}" for c in columns)
                types = ", ".join(c.type for c in columns)
                self.made.functions[name] = Function(
                    name, arguments, types, "boolean", part.text, True, part.opaque is not None
                )
                self.made.calls |= part.calls
                called = ", ".join(quote(c.name) for c in columns)
                texts.append(f"{quote(self.private)}.{quote(name)}({called})")
                checked.append(texts[-1])
                self.made.notes.append(
                    (relation.shown, f"the filter is asked row by row in a function, since {part.moved_by}")
                )
                reader = self.made.filter_reads
            else:
                asked = asked_first(part.text, relation.columns)
                whole.cost = max(whole.cost, asked.cost)
                whole.single = len(parts) == 1 and asked.single
                texts.append(asked.text)
                checked.append(part.text)
                reader = self.made.reads
            for key in part.reads:
                read = self.database.by_name.get(key)
                if read is None:
                    continue
                if read.oid in self.made.stand_ins:
                    self.made.filter_reads.setdefault(read.oid, set()).update(_named(read, part))
                else:
                    reader.setdefault(read.oid, set()).update(_named(read, part))
            whole.columns += [c for c in part.columns if c not in whole.columns]
            whole.reads += part.reads
            whole.late |= part.late
            whole.opaque = whole.opaque or part.opaque
            whole.whole = whole.whole or part.whole
        self.made.late_settings |= whole.late
        whole.text = " AND ".join(f"({text})" for text in texts)
        whole.checked = " AND ".join(f"({text})" for text in checked)
        return whole

    @staticmethod
    def _collations(relation: Relation) -> list[Column]:
        return [column for column in relation.columns if column.collation is not None]

    # ------------------------------------------------------------------ views

    def view_of(self, subject: Subject) -> View | None:
        """The view of a relation, made with what it stands on when first asked; None: it has none."""
        oid = subject.relation.oid
        if oid in self.by_oid:
            return self.by_oid[oid]
        if oid in self._open or subject.denied is not None or subject.refused is not None:
            return None
        self._open.add(oid)
        exposed = oid in self.names
        relation = subject.relation
        name = self.names[oid] if exposed else short(f"{relation.schema}_{relation.name}")
        view = View(relation, self.schema if exposed else self.private, name, "", exposed=exposed)
        source = self._source(subject, view)
        if source is None:
            self.by_oid[oid] = None
            self.made.left_out.setdefault(relation.shown, "it reads what is left out")
            return None
        self._write_view(subject, view, source)
        self._open.discard(oid)
        self.by_oid[oid] = view
        self.made.views.append(view)
        return view

    def _only(self, subject: Subject) -> None:
        """`FROM ONLY parent`: a view does not pass the word on, so there is another view, of the parent's own rows."""
        relation = subject.relation
        whole = self.by_oid.get(relation.oid)
        if relation.kind not in ("r", "p") or relation.oid not in self.database.children:
            return
        if whole is None:
            if not subject.alone or (subject.filters and self.filters.get(relation.oid) is None):
                return
            self._secure(subject)
        name = short(f"{self.names[relation.oid]}_only")
        while name in self.names.values():
            name = short(name + "_")
        self.names[-relation.oid] = name
        view = View(relation, self.schema, name, "", only=True)
        self._write_view(subject, view, f"ONLY {quote_qualified(relation.schema, relation.name)}")
        view.insert = ()
        if whole is not None and relation.kind == "r":
            view.update, view.delete = whole.update, whole.delete
        self.made.views.append(view)

    def _source(self, subject: Subject, view: View) -> str | None:
        relation = subject.relation
        if relation.kind == "v":
            return self._definition(subject)
        if relation.kind in ("r", "p"):
            self._secure(subject)
        else:
            view.barrier = bool(subject.filters)
        return quote_qualified(relation.schema, relation.name)

    def _secure(self, subject: Subject) -> None:
        bound = self.filters.get(subject.relation.oid)
        if bound is None or any(p.relation is subject.relation for p in self.made.policies):
            return
        policy = Policy(subject.relation, bound.text, bound.checked, bound.cost, bound.single)
        self.made.policies.append(policy)
        self._reader(subject.relation, {c.name for c in bound.columns})

    def _reader(self, relation: Relation, columns: set[str]) -> None:
        known = {c.name for c in relation.columns}
        self.made.reads.setdefault(relation.oid, set()).update(columns & known)

    def _write_view(self, subject: Subject, view: View, source: str) -> None:
        relation = subject.relation
        plain: list[Column] = []
        targets: list[str] = []
        mixed = self._collations(relation) if subject.filters else []
        bound = self.filters.get(relation.oid)
        if mixed and bound is not None and bound.cost <= Cost.OPERATOR:
            mixed = []
        if relation.kind == "v":
            mixed = []
        for column in relation.columns:
            name = quote(column.name)
            kind = subject.masks.get(column.name)
            if kind is not None:
                hashes = self._hash_function(kind, column)
                expression = mask_expression(
                    kind, column, redact_nulls=self.redact_nulls, keyed=self.keyed, hashes=hashes
                )
                targets.append(f"{expression} AS {name}")
                if needs_value(kind, column, redact_nulls=self.redact_nulls, keyed=self.keyed):
                    self._reader(relation, {column.name})
                if kind == "hash" and self.keyed and column.type_name != "bytea":
                    self.made.notes.append(
                        (
                            f"{relation.shown}.{column.name}",
                            "NULL in place of a keyed hash: SQL would show the key",
                        )
                    )
                if column.missing and relation not in self.made.rewrite:
                    self.made.rewrite.append(relation)
            elif column in mixed:
                targets.append(f'({name} COLLATE "default") AS {name}')
                self._reader(relation, {column.name})
            else:
                plain.append(column)
                targets.append(name)
                self._reader(relation, {column.name})
        if not self.made.reads.get(relation.oid):
            # Counting rows takes the right to read some column, or the table that has none.
            self._reader(relation, {column.name for column in relation.columns[:1]})
        view.query = f"SELECT {', '.join(targets)} FROM {source} AS {quote(relation.name)}"
        if view.barrier or (relation.kind == "v" and subject.filters):
            view.barrier = True
            if bound is not None:
                view.query += f" WHERE {bound.text}"
                self._reader(relation, {c.name for c in bound.columns})
        view.barrier = view.barrier or relation.barrier
        if not view.only:
            self._rights(subject, view, plain)

    def _hash_function(self, kind: str, column: Column) -> str | None:
        name = hash_function("hash", column, keyed=self.keyed) if kind == "hash" else None
        if name is None:
            return None
        name = short(name)
        self.made.functions[name] = Function(
            name, f"value {column.type}", column.type, "text", hashed("value", column.type_name), False
        )
        return f"{quote(self.private)}.{quote(name)}"

    # ------------------------------------------------------------------ views of the application

    def _definition(self, subject: Subject) -> str | None:
        """The definition again, over the wall's views where a table has masks or is a view itself."""
        relation = subject.relation
        definition = (relation.definition or "").rstrip().rstrip(";")
        try:
            tree = parse(definition, checked=False)
        except ValueError:
            self.made.left_out[relation.shown] = "its definition cannot be read"
            return None
        data = definition.encode()
        stars = any(
            kind == "ColumnRef" and any("A_Star" in part for part in node.get("fields", ()))
            for kind, node in nodes(tree)
        )
        read: dict[int, set[str]] = {}
        for oid, number in relation.reads:
            below = self.database.by_oid.get(oid)
            if below is not None:
                column = below.by_number.get(number)
                read.setdefault(oid, set()).update({column.name} if column is not None else set())
        edits: list[tuple[int, int, str]] = []
        for _, node in nodes(tree):
            if "relname" not in node or "schemaname" not in node:
                continue
            below = self.database.by_name.get((node["schemaname"], node["relname"]))
            if below is None or below.kind == "S":
                continue
            inner = self.subjects[below.oid]
            masked = inner.masks and (stars or read.get(below.oid, set()) & set(inner.masks))
            if below.kind == "v" or masked or (below.kind in ("f", "m") and inner.filters):
                over = self.view_of(inner)
                if over is None:
                    self.made.left_out[relation.shown] = f'it reads "{below.shown}", which is left out'
                    return None
                start = node.get("location", 0)
                length = _name_length(data[start:])
                alias = "" if "alias" in node else f" AS {quote(below.name)}"
                edits.append((start, start + length, over.qualified + alias))
            else:
                self._secure(inner)
                columns = read.get(below.oid) or set()
                if stars:
                    columns = {c.name for c in below.columns}
                self._reader(below, columns or {c.name for c in below.columns[:1]})
        made, position = [], 0
        for start, end, piece in sorted(edits):
            made += [data[position:start].decode(), piece]
            position = end
        return "(" + "".join([*made, data[position:].decode()]).strip() + ")"

    # ------------------------------------------------------------------ rights

    def _rights(self, subject: Subject, view: View, plain: list[Column]) -> None:
        relation = subject.relation
        wanted = self.kinds - {"select"}
        if not view.exposed or not wanted:
            return
        reason = self.writes.closed(relation)
        if reason is not None:
            if relation.kind in ("r", "p", "f"):
                self.made.notes.append((relation.shown, f"read only: {reason}"))
            return
        columns = tuple(c.name for c in plain)
        guesses = self.writes.guesses(relation)
        for name, why in guesses.items():
            if name in columns:
                self.made.notes.append((f"{relation.shown}.{name}", f"not written: {why}"))
        if "insert" in wanted:
            view.insert = tuple(name for name in columns if name not in guesses)
            required = [
                c.name
                for c in relation.columns
                if c.name not in view.insert
                and c.not_null
                and not (c.has_default or c.identity or c.generated)
            ]
            if required:
                view.insert = ()
                why = (
                    "is not written"
                    if required[0] in guesses
                    else "is masked, and a masked column is not written"
                )
                self.made.notes.append(
                    (relation.shown, f'no INSERT: "{required[0]}" has to be given, and {why}')
                )
        if "update" in wanted:
            locked = self.writes.locked_columns(relation)
            view.update = tuple(name for name in columns if name not in locked)
            for name, why in locked.items():
                if name in guesses:
                    continue
                self.made.notes.append((f"{relation.shown}.{name}", f"no UPDATE: {why}"))
        if "delete" in wanted:
            why_not = self.writes.no_delete(relation)
            view.delete = why_not is None
            if why_not is not None:
                self.made.notes.append((relation.shown, f"no DELETE: {why_not}"))
        if relation.triggers and (view.insert or view.update or view.delete):
            self.made.notes.append(
                (
                    relation.shown,
                    f'its trigger "{relation.triggers[0]}" runs as the agent, with the agent\'s rights',
                )
            )
        if view.insert:
            for column in relation.columns:
                self.made.sequences.update(column.sequences if not column.identity else ())


def _function_name(relation: Relation, number: int) -> str:
    return short(f"filter_{number}_{relation.schema}_{relation.name}")


def _named(relation: Relation, bound: FilterText) -> set[str]:
    """The columns of a relation that a filter's sub-selects may mean."""
    known = {column.name for column in relation.columns}
    found = known if bound.whole else known & bound.named
    return found or {column.name for column in relation.columns[:1]}


#: `schema.name` as pg_get_viewdef prints it.
_QUALIFIED = re.compile(rb'(?:"(?:[^"]|"")*"|[^\s".,;()]+)\.(?:"(?:[^"]|"")*"|[^\s".,;()]+)')


def _name_length(data: bytes) -> int:
    """Length of the `schema.name` at the beginning of a text."""
    found = _QUALIFIED.match(data)
    return 0 if found is None else found.end()
