"""What the row filters of a policy stand on. It is frozen for the agent, see `frozen.py`.

A filter is as good as the tables its sub-selects read, the functions, operators and types it uses, and the settings they follow.
Whoever may write or redefine these sees other rows. So they are resolved when the policy meets a catalog, and left alone unless
the profile names them in `guarddb.may_change`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

from guarddb.facts import functions as facts, settings as setting_facts
from guarddb.policy.patterns import RelationPattern
from guarddb.policy.predicate import Predicate
from guarddb.policy.profile import MaskingRule
from guarddb.sql.catalog import Catalog, Function, Relation
from guarddb.sql.names import string_list
from guarddb.sql.statement import Statement
from guarddb.tree import Node, nodes

_WORD = re.compile(r"[A-Za-z_\u0080-\U0010ffff][\w$]*")


class Governed(Protocol):
    """What a policy makes of a catalog, as far as it is asked here."""

    catalog: Catalog | None
    filters: tuple[tuple[RelationPattern, Predicate], ...]
    masks: tuple[tuple[RelationPattern, MaskingRule], ...]

    def tables(self, pattern: RelationPattern, /) -> list[Relation]: ...

    def rules_for(self, relation: Relation, /) -> Defined: ...


class Defined(Protocol):
    """What a policy makes of one relation: its definition, where it is a view."""

    @property
    def definition(self) -> Statement | None: ...


class Foundation:
    """What all row filters of a policy stand on, in one catalog.

    Attributes:
        relations: (schema, name) of a relation -> the table whose filter reads it.
        functions, operators, types: the names of those that are used, each -> the table whose filter does. Without their
            schema: the path of the session decides among those of one name.
        settings: the settings that a filter's value, or a hash's text, follows.
        text_search: a text search configuration is used.
        bare: names of relations in the bodies of functions, which the path of the session decides about: name -> the table
            whose filter calls the function.
    """

    __slots__ = ("bare", "functions", "operators", "relations", "settings", "text_search", "types")

    def __init__(self) -> None:
        self.relations: dict[tuple[str, str], str] = {}
        self.bare: dict[str, str] = {}
        self.functions: dict[str, str] = {}
        self.operators: dict[str, str] = {}
        self.types: dict[str, str] = {}
        self.settings: set[str] = set()
        self.text_search = False


def foundation(governance: Governed) -> Foundation:
    """Work out what the filters stand on."""
    found = Foundation()
    for pattern, predicate in governance.filters:
        _Reader(found, governance, str(pattern)).predicate(predicate, governance.tables(pattern))
    if governance.filters:
        found.settings |= setting_facts.OF_DEFINITIONS
    if any(rule.kind == "hash" for _, rule in governance.masks):
        found.settings |= _of_hashes(governance)
    return found


def _of_hashes(governance: Governed) -> set[str]:
    """The settings that the text of a hashed column follows."""
    if governance.catalog is None:
        return set(setting_facts.ALL)
    found: set[str] = set()
    for pattern, rule in governance.masks:
        if rule.kind != "hash":
            continue
        for relation in governance.tables(pattern):
            for attribute in relation.attributes:
                if rule.column_name.matches(attribute.name, strict=False):
                    found |= _of_column(attribute.base_type, governance.catalog)
    return found


def _of_column(qualified: str, catalog: Catalog | None) -> frozenset[str]:
    schema, _, name = qualified.partition(".")
    if catalog is not None and schema != "pg_catalog":
        known = catalog.type_named(schema, name)
        if known is not None and known.kind == "e":
            return frozenset()
        if known is not None and known.base_type.startswith("pg_catalog."):
            return setting_facts.of_type(known.base_type)
    return setting_facts.of_type(qualified)


class _Reader:
    """Reads what one filter uses, through views and the bodies of functions."""

    def __init__(self, found: Foundation, governance: Governed, table: str) -> None:
        self.found = found
        self.governance = governance
        self.catalog = governance.catalog
        self.table = table

    def predicate(self, predicate: Predicate, filtered: Iterable[Relation]) -> None:
        tree = predicate.tree
        relations = list(filtered)
        relations += self._relations(tree)
        self._uses(tree)
        columns = {
            string_list(node["fields"])[-1]
            for name, node in nodes(tree)
            if name == "ColumnRef" and string_list(node["fields"])
        }
        for relation in relations:
            for attribute in relation.attributes:
                if attribute.name in columns:
                    self._type(attribute.type)
                    if not attribute.type.startswith("pg_catalog."):
                        self._type(attribute.base_type)
                    self.found.settings |= _of_column(attribute.base_type, self.catalog)

    def _relations(self, tree: Node) -> list[Relation]:
        """The relations that the sub-selects read."""
        inner = {node.get("ctename") for name, node in nodes(tree) if name == "CommonTableExpr"}
        read: list[Relation] = []
        for _, node in nodes(tree):
            name = node.get("relname")
            if name is None or ("schemaname" not in node and name in inner):
                continue
            schema = node.get("schemaname")
            if schema is None:
                schema = "public" if facts.system_relation(None, name) is None else "pg_catalog"
            self._relation(schema, name)
            relation = self.catalog.relation(schema, name) if self.catalog is not None else None
            if relation is not None:
                read.append(relation)
        return read

    def _relation(self, schema: str, name: str) -> None:
        key = (schema, name)
        if key in self.found.relations or schema in ("pg_catalog", "information_schema"):
            return
        self.found.relations[key] = self.table
        relation = self.catalog.relation(schema, name) if self.catalog is not None else None
        if relation is None or self.catalog is None:
            return
        for oid in (*relation.descendants, *relation.ancestors):
            near = self.catalog.by_oid(oid)
            if near is not None:
                self._relation(near.schema, near.name)
        if relation.definition is not None:
            statement = self.governance.rules_for(relation).definition
            if statement is not None:
                self._statement(statement)

    def _statement(self, statement: Statement) -> None:
        """What a view's definition uses."""
        for reference in statement.references:
            self._relation(reference.schema, reference.name)
        for call in statement.calls:
            self._function(call.name)
        for _, name in statement.operators:
            self.found.operators.setdefault(name, self.table)
        for use in statement.types:
            self.found.types.setdefault(use.name, self.table)
        self._uses(statement.fields)

    def _uses(self, tree: Node) -> None:
        for name, node in nodes(tree):
            if name == "FuncCall":
                self._function(string_list(node.get("funcname", ()))[-1])
            elif name == "A_Expr":
                self._expression(node)
            elif name == "TypeCast":
                parts = string_list(node.get("typeName", {}).get("names", ()))
                if parts:
                    self._type(".".join(parts) if len(parts) > 1 else parts[0])
            elif name == "SQLValueFunction" and not node.get("op", "").startswith(_NO_CLOCK):
                self.found.settings |= setting_facts.CLOCK
            elif name in ("XmlExpr", "XmlSerialize"):
                self.found.settings |= setting_facts.XML
            elif name == "A_Indirection":
                for step in node.get("indirection", ()):
                    if "String" in step:
                        self._function(step["String"].get("sval", ""))

    def _expression(self, node: Node) -> None:
        parts = string_list(node.get("name", ()))
        if parts:
            self.found.operators.setdefault(parts[-1], self.table)
        if parts[-1:] == ["@@"]:
            self.found.settings |= setting_facts.SEARCH  # text @@ text makes a vector of either
            self.found.text_search = True
        if parts == ["="] and any(
            "isnull" in node.get(side, {}).get("A_Const", {}) for side in ("lexpr", "rexpr")
        ):
            self.found.settings.add("transform_null_equals")

    def _type(self, name: str) -> None:
        """A type by its name, qualified or not."""
        self.found.types.setdefault(name.rpartition(".")[2], self.table)
        if "." in name or facts.builtin_type(name) is not None:
            self.found.settings |= _of_column(name if "." in name else f"pg_catalog.{name}", self.catalog)
        elif self.catalog is not None and (known := self.catalog.type_named(None, name)) is not None:
            self.found.settings |= _of_column(f"{known.schema}.{known.name}", self.catalog)

    def _function(self, name: str) -> None:
        if name in self.found.functions or name == "current_setting":
            return
        self.found.functions[name] = self.table
        mine: tuple[Function, ...] = ()
        if self.catalog is not None:
            mine = tuple(each for each in self.catalog.functions if each.name == name)
        if not mine and facts.builtin(name):
            self.found.settings |= setting_facts.of_function(name)
            self.found.text_search |= "default_text_search_config" in setting_facts.of_function(name)
            return
        self.found.settings |= setting_facts.ALL
        for function in mine:
            self._body(function.body or "")

    def _body(self, text: str) -> None:
        """Whatever a function's text names: what it does with it is not asked."""
        if self.catalog is None or not text:
            return
        words = {word.lower() for word in _WORD.findall(text)} | set(_WORD.findall(text))
        for relation in self.catalog.relations.values():
            if relation.name in words:
                self.found.bare.setdefault(relation.name, self.table)
                self._relation(relation.schema, relation.name)
        for function in self.catalog.functions:
            if function.name in words:
                self._function(function.name)


_NO_CLOCK = ("SVFOP_CURRENT_ROLE", "SVFOP_CURRENT_USER", "SVFOP_USER", "SVFOP_SESSION_USER",
             "SVFOP_CURRENT_CATALOG", "SVFOP_CURRENT_SCHEMA")  # fmt: skip
