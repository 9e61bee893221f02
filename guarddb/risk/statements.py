"""Statements as events: from the facts of a statement, one action per kind of object and verb, and the fields it accesses.

Pure: facts and catalog in, actions out. Every use of a column is an access (in WHERE, in ORDER BY, in an aggregate, in what is
written), and a field is the column that a value comes from, whatever an output is called.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from guarddb.facts.functions import builtin
from guarddb.risk.columns import Classifier
from guarddb.sql.analysis.classify import read_statement
from guarddb.sql.analysis.definitions import Definition
from guarddb.sql.catalog import Catalog, Relation
from guarddb.sql.names import string_list
from guarddb.sql.statement import Link, Reference, Statement
from guarddb.tree import Node, parse

_NO_NAMES: Mapping[str, Mapping[str, Any]] = {"prepared": {}, "portals": {}}
_VIEWS = frozenset(("v", "m"))
#: pg_class.relkind to the object of an action.
_OBJECTS = {"v": "view", "m": "view", "S": "sequence"}
#: What definitions are about, where an action calls it otherwise.
_DEFINED = {
    "foreign table": "table",
    "materialized view": "view",
    "procedure": "function",
    "aggregate": "function",
    "routine": "function",
    "setting": "session",
    "constraints": "session",
    "block": "function",
    "column": "table",
    "table constraint": "table",
    "trigger": "table",
    "rule": "table",
    "policy": "table",
    "owned": "role",
    "attribute": "type",
    "default privileges": "role",
}
#: What definitions do, where an action calls it otherwise.
_VERBS = {
    "rename": "alter",
    "move": "alter",
    "own": "alter",
    "comment": "alter",
    "label": "alter",
    "call": "execute",
    "do": "execute",
}
#: Below a table or another object, and so a change of it: CREATE TRIGGER is an ALTER of its table.
_CHANGES_ITS_TABLE = frozenset(("column", "table constraint", "trigger", "rule", "policy"))
_DML = {"insert": "insert", "update": "update", "delete": "delete"}
_MERGED = {"CMD_INSERT": "insert", "CMD_UPDATE": "update", "CMD_DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class StatementAction:
    """One action of a statement.

    Attributes:
        action: `database:table:select`.
        resource_type, resource_id: the kind of object, and the object: a relation as schema.name.
        fields: (schema.table.column, data class or None) of everything of its kind and verb that the statement accesses.
        rows: rows of VALUES, or None.
    """

    action: str
    resource_type: str
    resource_id: str | None = None
    fields: tuple[tuple[str, str | None], ...] = ()
    rows: int | None = None


class Touched:
    """What statements touch in one catalog. Views' definitions and columns' classes are worked out once and kept."""

    def __init__(self, catalog: Catalog | None, classifier: Classifier | None) -> None:
        self.catalog = catalog
        self.classifier = classifier
        self._definitions: dict[int, Statement | None] = {}
        self._classes: dict[int, dict[str, str | None]] = {}
        self._lock = threading.RLock()

    def actions_of_text(self, text: str) -> tuple[StatementAction, ...]:
        """The actions of every statement of a text. What a statement EXECUTEs or FETCHes is not in it.

        Raises:
            Exception: the text cannot be read.
        """
        found: list[StatementAction] = []
        for raw in parse(text):
            try:
                statement = read_statement(raw, self.catalog, _Anything())
            except Exception:
                found.append(_unread(raw))
                continue
            found += self.actions(statement)
        return tuple(dict.fromkeys(found))

    def actions(self, statement: Statement) -> tuple[StatementAction, ...]:
        """The actions of one statement."""
        if statement.transaction is not None:
            return (StatementAction(f"database:transaction:{statement.transaction}", "transaction"),)
        fields = self._fields(statement)
        explains = statement.kind == "explain" and not statement.analyzes
        touched: dict[tuple[str, str, str | None], _Access] = {}

        def touch(
            object_: str, verb: str, resource: str | None, accessed: Iterable[tuple[str, str | None]] = ()
        ) -> _Access:
            verb = "explain" if explains and object_ in ("table", "view", "sequence") else verb
            access = touched.setdefault((object_, verb, resource), _Access())
            access.fields.update(dict.fromkeys(accessed))
            return access

        for reference in statement.references:
            accessed = fields.get(id(reference), {})
            verbs = _verbs(reference)
            if reference.mode == "read" and statement.kind == "copy":
                verbs = (*verbs, "copy")
            for verb in verbs:
                access = touch(_object(reference.relation), verb, reference.qualified_name, accessed)
                if verb == "insert":
                    access.rows = _rows_of_values(reference)
            behind = self._behind(reference, accessed) if verbs else ()
            for base, base_fields in behind:
                for verb in verbs:
                    # The data that a view hands out is the tables' behind it, whatever its columns are called.
                    touch(_object(reference.relation), verb, reference.qualified_name, base_fields)
                    if reference.relation is not None and reference.relation.kind == "v":
                        reads = "select" if verb == "copy" else verb
                        touch(_object(base.relation), reads, base.qualified_name, base_fields)
        for definition in statement.definitions:
            for object_, verb, resource in _defined(definition, statement):
                touch(object_, verb, resource)
        for call in statement.calls:
            if (function := self._user_function(call.schema, call.name)) is not None:
                touch("function", "execute", function)
        if not touched:
            verb = {"show": "show", "explain": "explain", "other": "execute"}.get(statement.kind, "select")
            touch("session", verb, None)
        # A join of two tables is judged by the fields of both, for each of them.
        together: dict[tuple[str, str], dict[tuple[str, str | None], None]] = {}
        for (object_, verb, _), access in touched.items():
            together.setdefault((object_, verb), {}).update(access.fields)
        return tuple(
            StatementAction(
                f"database:{object_}:{verb}", object_, resource, tuple(together[object_, verb]), access.rows
            )
            for (object_, verb, resource), access in touched.items()
        )

    def _user_function(self, schema: str | None, name: str) -> str | None:
        """The qualified name of a function that is not PostgreSQL's own, or None."""
        if schema == "pg_catalog":
            return None
        found = self.catalog.functions_named(name, schema) if self.catalog is not None else ()
        if found:
            return found[0].qualified_name
        if schema is not None:
            return f"{schema}.{name}"
        return None if builtin(name) else name

    # ------------------------------------------------------------------ fields

    def _fields(self, statement: Statement) -> dict[int, dict[tuple[str, str | None], None]]:
        """Which columns of each reference the statement uses: by id of the reference."""
        links: list[Link] = []
        for root in statement.roots:
            links += (link for link, _ in root.uses)
        for query in statement.queries:
            links += query.outputs
        used: dict[int, dict[tuple[str, str | None], None]] = {}
        for reference, attribute in _base(links):
            used.setdefault(id(reference), {}).update(self._named(reference, attribute))
        for query in statement.queries:
            if query.target is not None:
                for column in query.written:
                    used.setdefault(id(query.target), {}).update(self._named(query.target, column))
        copied = statement.fields.get("attlist", ()) if statement.command == "CopyStmt" else ()
        for reference in statement.references:
            if reference.mode == "copy":
                for column in string_list(copied) or ["*"]:
                    used.setdefault(id(reference), {}).update(self._named(reference, column))
            elif reference.whole_row:
                used.setdefault(id(reference), {}).update(self._named(reference, "*"))
        return used

    def _named(self, reference: Reference, attribute: str) -> dict[tuple[str, str | None], None]:
        """A column of a reference as fields: under its table's name, and those of the tables that is a part of."""
        relation = reference.relation
        if relation is None:
            return {(f"{reference.qualified_name}.{attribute}", None): None}
        names = [a.name for a in relation.attributes] if attribute == "*" else [attribute]
        found: dict[tuple[str, str | None], None] = {}
        for name in self._with_sources(relation, names):
            label = self._class(relation, name)
            found[f"{relation.schema}.{relation.name}.{name}", label] = None
            for oid in relation.ancestors:
                parent = self.catalog.by_oid(oid) if self.catalog is not None else None
                if parent is not None and any(a.name == name for a in parent.attributes):
                    found[f"{parent.schema}.{parent.name}.{name}", label] = None
        return found

    @staticmethod
    def _with_sources(relation: Relation, names: Iterable[str]) -> dict[str, None]:
        """The columns, and those that generated ones among them are computed from."""
        found = dict.fromkeys(names)
        for attribute in relation.attributes:
            if attribute.name in found:
                found.update(dict.fromkeys(attribute.reads))
        return found

    def _class(self, relation: Relation, name: str) -> str | None:
        """The class of a column: of a table's by the classifier, of a view's by where it comes from."""
        if self.classifier is None:
            return None
        with self._lock:
            classes = self._classes.get(relation.oid)
            if classes is None:
                classes = self._classes[relation.oid] = {}
                for attribute in relation.attributes:
                    classes[attribute.name] = self.classifier.of_column(relation, attribute)
        return classes.get(name)

    # ------------------------------------------------------------------ views

    def _behind(
        self, reference: Reference, accessed: Iterable[tuple[str, str | None]]
    ) -> list[tuple[Reference, dict[tuple[str, str | None], None]]]:
        """The relations behind a view, at any depth, and the columns of each that the accessed ones come from."""
        relation = reference.relation
        if relation is None or relation.kind not in _VIEWS:
            return []
        found: list[tuple[Reference, dict[tuple[str, str | None], None]]] = []
        seen: set[tuple[int, frozenset[str]]] = set()
        stack = [(relation, frozenset(name.rpartition(".")[2] for name, _ in accessed))]
        while stack:
            view, names = stack.pop()
            definition = self._definition(view)
            if (view.oid, names) in seen or definition is None or definition.top is None:
                continue
            seen.add((view.oid, names))
            outputs = zip(view.attributes, definition.top.outputs, strict=False)
            columns: dict[int, set[str]] = {}
            for base, attribute in _base([output for column, output in outputs if column.name in names]):
                columns.setdefault(id(base), set()).add(attribute)
            for base in definition.references:
                fields: dict[tuple[str, str | None], None] = {}
                for attribute in sorted(columns.get(id(base), ())):
                    fields.update(self._named(base, attribute))
                found.append((base, fields))
                if base.relation is not None and base.relation.kind in _VIEWS:
                    stack.append((base.relation, frozenset(name.rpartition(".")[2] for name, _ in fields)))
        return found

    def _definition(self, view: Relation) -> Statement | None:
        if self.catalog is None:
            return None
        with self._lock:
            if view.oid not in self._definitions:
                try:
                    raw = parse(view.definition or "", checked=False)
                    found = read_statement(raw[0], self.catalog.for_definitions(), _NO_NAMES)
                except Exception:  # what is not understood is judged as the view alone
                    found = None
                self._definitions[view.oid] = found
            return self._definitions[view.oid]


class _Access:
    """What is known of one touched object while a statement is read."""

    __slots__ = ("fields", "rows")

    def __init__(self) -> None:
        self.fields: dict[tuple[str, str | None], None] = {}
        self.rows: int | None = None


class _Anything(dict[str, Any]):
    """Names of prepared statements and portals, each of which is there: what they stand for is somebody else's question."""

    def __init__(self) -> None:
        super().__init__(prepared=_Nameless(), portals=_Nameless())


class _Nameless(dict[str, Any]):
    def get(self, key: str, default: Any = None) -> Any:
        return _SOMETHING


class _Something:
    kinds: frozenset[str] = frozenset()
    kind = "select"
    returns_rows = True

    @property
    def facts(self) -> _Something:
        return self


_SOMETHING = _Something()


def _base(links: Iterable[Link]) -> set[tuple[Reference, str]]:
    """The base columns that values come from, through queries and expressions."""
    found: set[tuple[Reference, str]] = set()
    seen: set[int] = set()
    stack: list[Link] = list(links)
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            found.add(item)
        elif id(item) not in seen:
            seen.add(id(item))
            stack += item.links
            stack += item.opaque
            if item.root is not None:
                stack += (use for use, _ in item.root.uses)
            if item.open is not None and item.open.reference is not None:
                found.add((item.open.reference, "*"))
    return found


def _object(relation: Relation | None) -> str:
    return _OBJECTS.get(relation.kind, "table") if relation is not None else "table"


def _verbs(reference: Reference) -> tuple[str, ...]:
    mode = reference.mode
    if mode == "read":
        return ("select",)
    if mode == "copy":
        return ("copy",)
    fields = reference.query.fields if reference.query is not None else {}
    if mode == "insert":
        upserts = fields.get("onConflictClause", {}).get("action") == "ONCONFLICT_UPDATE"
        return ("insert", "update") if upserts else ("insert",)
    if mode == "merge":
        clauses = (each["MergeWhenClause"].get("commandType") for each in fields.get("mergeWhenClauses", ()))
        return tuple(dict.fromkeys(_MERGED[each] for each in clauses if each in _MERGED))
    return (_DML[mode],) if mode in _DML else ()


def _rows_of_values(reference: Reference) -> int | None:
    select = reference.query.fields.get("selectStmt", {}).get("SelectStmt", {}) if reference.query else {}
    values = select.get("valuesLists")
    return len(values) if values else None


def _defined(definition: Definition, statement: Statement) -> list[tuple[str, str, str | None]]:
    """(object, verb, resource) of a utility statement."""
    if definition.command in ("CopyStmt", "TransactionStmt", "CallStmt"):
        return []  # what it is about is among the references and calls
    object_ = _DEFINED.get(definition.object, definition.object.replace(" ", "_")) or "object"
    verb = _VERBS.get(definition.verb, definition.verb)
    if definition.object in _CHANGES_ITS_TABLE:
        verb = "alter"
    relations = [r.qualified_name for r in statement.references if r.mode == "ddl"]
    if object_ in ("table", "view", "sequence", "index") and relations:
        return [(object_, verb, name) for name in relations]
    names = [f"{schema}.{name}" if schema else name for schema, name in definition.names]
    names = names or _other_names(definition.fields)
    return [(object_, verb, name) for name in names] or [(object_, verb, None)]


def _other_names(fields: Node) -> list[str]:
    for key in ("schemaname", "role", "dbname", "extname", "name", "indexname"):
        value = fields.get(key)
        if isinstance(value, str):
            return [value]
        if isinstance(value, dict) and "rolename" in value:
            return [value["rolename"]]
    roles = [each for key in ("roles", "granted_roles", "grantee_roles") for each in fields.get(key, ())]
    names = [
        each.get("RoleSpec", {}).get("rolename") or each.get("AccessPriv", {}).get("priv_name")
        for each in roles
        if isinstance(each, dict)
    ]
    return [name for name in names if isinstance(name, str)]


def _unread(raw: Node) -> StatementAction:
    """A statement that cannot be analysed: its command is all that is known of it."""
    command = next(iter(raw.get("stmt", {"": {}}))).removesuffix("Stmt").lower() or "statement"
    return StatementAction(f"database:statement:{command}", "statement")
