"""Utility statements as facts: what is done (verb), to what kind of object, and in which parts.

Read once, by whoever asks: the floor, the rules about definitions, masks, filters, and the lint of migrations. The words are
PostgreSQL's own, in small letters: objects are those of `ObjectType` (`table`, `materialized view`, `foreign table`), the parts
of ALTER TABLE those of `AlterTableType` (`add column`, `set not null`, `alter column type`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from guarddb.sql.names import string_list
from guarddb.tree import Node, SQLSyntaxError, nodes, parse

#: Where the node's name alone says what is done to what.
_PLAIN: dict[str, tuple[str, str]] = {
    "AlterCollationStmt": ("refresh", "collation"),
    "AlterDatabaseRefreshCollStmt": ("refresh", "database"),
    "AlterDatabaseSetStmt": ("alter", "database"),
    "AlterDatabaseStmt": ("alter", "database"),
    "AlterDefaultPrivilegesStmt": ("grant", "default privileges"),
    "AlterDomainStmt": ("alter", "domain"),
    "AlterEnumStmt": ("alter", "type"),
    "AlterEventTrigStmt": ("alter", "event trigger"),
    "AlterExtensionContentsStmt": ("alter", "extension"),
    "AlterExtensionStmt": ("alter", "extension"),
    "AlterFdwStmt": ("alter", "foreign data wrapper"),
    "AlterForeignServerStmt": ("alter", "foreign server"),
    "AlterFunctionStmt": ("alter", "function"),
    "AlterOpFamilyStmt": ("alter", "operator family"),
    "AlterOperatorStmt": ("alter", "operator"),
    "AlterPolicyStmt": ("alter", "policy"),
    "AlterPublicationStmt": ("alter", "publication"),
    "AlterRoleSetStmt": ("alter", "role"),
    "AlterRoleStmt": ("alter", "role"),
    "AlterSeqStmt": ("alter", "sequence"),
    "AlterStatsStmt": ("alter", "statistics"),
    "AlterSubscriptionStmt": ("alter", "subscription"),
    "AlterSystemStmt": ("alter", "system"),
    "AlterTSConfigurationStmt": ("alter", "text search configuration"),
    "AlterTSDictionaryStmt": ("alter", "text search dictionary"),
    "AlterTableMoveAllStmt": ("alter", "tablespace"),
    "AlterTableSpaceOptionsStmt": ("alter", "tablespace"),
    "AlterTypeStmt": ("alter", "type"),
    "AlterUserMappingStmt": ("alter", "user mapping"),
    "CallStmt": ("call", "procedure"),
    "CheckPointStmt": ("checkpoint", "database"),
    "ClusterStmt": ("cluster", "table"),
    "CompositeTypeStmt": ("create", "type"),
    "ConstraintsSetStmt": ("set", "constraints"),
    "CopyStmt": ("copy", "table"),
    "CreateAmStmt": ("create", "access method"),
    "CreateCastStmt": ("create", "cast"),
    "CreateConversionStmt": ("create", "conversion"),
    "CreateDomainStmt": ("create", "domain"),
    "CreateEnumStmt": ("create", "type"),
    "CreateEventTrigStmt": ("create", "event trigger"),
    "CreateExtensionStmt": ("create", "extension"),
    "CreateFdwStmt": ("create", "foreign data wrapper"),
    "CreateForeignServerStmt": ("create", "foreign server"),
    "CreateForeignTableStmt": ("create", "foreign table"),
    "CreateFunctionStmt": ("create", "function"),
    "CreateOpClassStmt": ("create", "operator class"),
    "CreateOpFamilyStmt": ("create", "operator family"),
    "CreatePLangStmt": ("create", "language"),
    "CreatePolicyStmt": ("create", "policy"),
    "CreatePublicationStmt": ("create", "publication"),
    "CreateRangeStmt": ("create", "type"),
    "CreateRoleStmt": ("create", "role"),
    "CreateSchemaStmt": ("create", "schema"),
    "CreateSeqStmt": ("create", "sequence"),
    "CreateStatsStmt": ("create", "statistics"),
    "CreateStmt": ("create", "table"),
    "CreateSubscriptionStmt": ("create", "subscription"),
    "CreateTableSpaceStmt": ("create", "tablespace"),
    "CreateTransformStmt": ("create", "transform"),
    "CreateTrigStmt": ("create", "trigger"),
    "CreateUserMappingStmt": ("create", "user mapping"),
    "CreatedbStmt": ("create", "database"),
    "DiscardStmt": ("discard", "session"),
    "DoStmt": ("do", "block"),
    "DropOwnedStmt": ("drop", "owned"),
    "DropRoleStmt": ("drop", "role"),
    "DropSubscriptionStmt": ("drop", "subscription"),
    "DropTableSpaceStmt": ("drop", "tablespace"),
    "DropUserMappingStmt": ("drop", "user mapping"),
    "DropdbStmt": ("drop", "database"),
    "ImportForeignSchemaStmt": ("import", "foreign schema"),
    "IndexStmt": ("create", "index"),
    "ListenStmt": ("listen", "channel"),
    "LoadStmt": ("load", "library"),
    "LockStmt": ("lock", "table"),
    "NotifyStmt": ("notify", "channel"),
    "ReassignOwnedStmt": ("own", "owned"),
    "RefreshMatViewStmt": ("refresh", "materialized view"),
    "ReindexStmt": ("reindex", "index"),
    "RuleStmt": ("create", "rule"),
    "TransactionStmt": ("transaction", "session"),
    "TruncateStmt": ("truncate", "table"),
    "UnlistenStmt": ("unlisten", "channel"),
    "VariableSetStmt": ("set", "setting"),
    "ViewStmt": ("create", "view"),
}
#: Where a field of the node says what kind of object it is.
_BY_FIELD: dict[str, tuple[str, str]] = {
    "AlterObjectDependsStmt": ("alter", "objectType"),
    "AlterObjectSchemaStmt": ("move", "objectType"),
    "AlterOwnerStmt": ("own", "objectType"),
    "AlterTableStmt": ("alter", "objtype"),
    "CommentStmt": ("comment", "objtype"),
    "CreateTableAsStmt": ("create", "objtype"),
    "DefineStmt": ("create", "kind"),
    "DropStmt": ("drop", "removeType"),
    "RenameStmt": ("rename", "renameType"),
    "SecLabelStmt": ("label", "objtype"),
}
_OBJECT_WORDS = {
    "matview": "materialized view",
    "fdw": "foreign data wrapper",
    "tabconstraint": "table constraint",
    "domconstraint": "domain constraint",
    "statistic ext": "statistics",
    "opclass": "operator class",
    "opfamily": "operator family",
    "tsconfiguration": "text search configuration",
    "tsdictionary": "text search dictionary",
    "tsparser": "text search parser",
    "tstemplate": "text search template",
}
#: AlterDomainStmt.subtype
_DOMAIN_PARTS = {
    "T": "column default",
    "N": "drop not null",
    "O": "set not null",
    "C": "add constraint",
    "X": "drop constraint",
    "V": "validate constraint",
}
#: Statements that hold other statements: what is inside is a definition as well.
_HOLDS_STATEMENTS = frozenset(("CreateSchemaStmt", "RuleStmt"))


class Part:
    """One part of a definition: of ALTER TABLE, of a table's or a domain's definition.

    Attributes:
        verb: `add column`, `alter column type` …; of CREATE TABLE `column`, `constraint`, `like`.
        name: the column or constraint that it is about, or None.
        node: its fields: of an AlterTableCmd, a ColumnDef, a Constraint, a TableLikeClause, an AlterDomainStmt.
    """

    __slots__ = ("name", "node", "verb")

    def __init__(self, verb: str, name: str | None, node: Node) -> None:
        self.verb = verb
        self.name = name
        self.node = node

    @property
    def constraints(self) -> list[Node]:
        """The Constraints that it brings: those of the column, or the one that it is."""
        if "contype" in self.node:
            return [self.node]
        definition = self.node.get("def", {})
        if "Constraint" in definition:
            return [definition["Constraint"]]
        column = definition.get("ColumnDef", self.node)
        return [c["Constraint"] for c in column.get("constraints", ())]

    def __repr__(self) -> str:
        return f"<Part {self.verb} {self.name}>"


class Definition:
    """A utility statement as facts.

    Attributes:
        verb: create, alter, drop, rename, move (SET SCHEMA), own (OWNER TO), grant, revoke, comment, label, set …
        object: what kind of object it is about: table, view, function, type, role …
        command: the node's name, `fields` its fields.
        parts: of ALTER TABLE, CREATE TABLE and ALTER DOMAIN, each part.

    >>> from guarddb.tree import parse
    >>> raw = parse("ALTER TABLE t ALTER c SET NOT NULL, ADD d int")[0]["stmt"]
    >>> definition = define(*next(iter(raw.items())))
    >>> definition.verb, definition.object, definition.parts
    ('alter', 'table', (<Part set not null c>, <Part add column d>))
    """

    __slots__ = ("command", "fields", "object", "parts", "verb")

    def __init__(self, command: str, fields: Node, verb: str, object_: str, parts: tuple[Part, ...]) -> None:
        self.command = command
        self.fields = fields
        self.verb = verb
        self.object = object_
        self.parts = parts

    @property
    def shown(self) -> str:
        """As a person reads it: `ALTER TABLE`."""
        return f"{_SHOWN_VERBS.get(self.verb, self.verb)} {self.object}".upper()

    @property
    def names(self) -> list[tuple[str | None, str]]:
        """The objects it is about, (schema, name), where they are no relations: functions, types, operators …"""
        found: list[tuple[str | None, str]] = []
        for key in _NAMES:
            if key == "typeName" and self.command == "CreateDomainStmt":
                continue  # what it is a domain over
            if key == "relation" and self.object not in ("type", "attribute"):
                continue
            value = self.fields.get(key)
            for entry in value if key == "objects" and isinstance(value, list) else [value]:
                parts = _name(entry)
                if parts:
                    found.append((parts[-2] if len(parts) > 1 else None, parts[-1]))
        return found

    def __repr__(self) -> str:
        return f"<Definition {self.verb} {self.object}>"


#: Fields that hold the name of what a definition is about.
_NAMES = (
    "objects",
    "object",
    "func",
    "funcname",
    "typeName",
    "domainname",
    "defnames",
    "opfamilyname",
    "opclassname",
    "opername",
    "conversion_name",
    "cfgname",
    "dictname",
    "collname",
    "typevar",
    "relation",
)
_SHOWN_VERBS = {"move": "alter … set schema", "own": "alter … owner to", "label": "security label on"}


def _name(entry: object) -> list[str]:
    """The parts of a name, whichever way a node holds it."""
    if isinstance(entry, list):
        return string_list(entry)
    if not isinstance(entry, dict):
        return []
    if "relname" in entry:
        return [name for name in (entry.get("schemaname"), entry["relname"]) if name]
    if "String" in entry:
        return [entry["String"].get("sval", "")]
    for key in ("ObjectWithArgs", "TypeName", "List"):
        if key in entry:
            return _name(entry[key])
    for key in ("objname", "names", "items"):
        if key in entry:
            inner = entry[key]
            # (A domain's constraint and a column are named by their object first.)
            if inner and isinstance(inner[0], dict) and "String" not in inner[0]:
                return _name(inner[0])
            return string_list(inner)
    return []


def define(command: str, fields: Node) -> Definition:
    """The facts of one utility statement."""
    if command in ("GrantStmt", "GrantRoleStmt"):
        verb = "grant" if fields.get("is_grant") else "revoke"
        what = "role" if command == "GrantRoleStmt" else _object(fields.get("objtype", ""))
        return Definition(command, fields, verb, what, ())
    if command == "VacuumStmt":
        return Definition(
            command, fields, "vacuum" if fields.get("is_vacuumcmd", False) else "analyze", "table", ()
        )
    if command in _BY_FIELD:
        verb, key = _BY_FIELD[command]
        what = _object(fields.get(key, ""))
        return Definition(command, fields, verb, what, tuple(_parts(command, fields)))
    verb, what = _PLAIN.get(command, ("", ""))
    if not verb:
        words = re.findall(r"[A-Z][a-z]*", command.removesuffix("Stmt")) or [command]
        verb, what = words[0].lower(), " ".join(words[1:]).lower()
    return Definition(command, fields, verb, what, tuple(_parts(command, fields)))


def definitions(command: str, fields: Node) -> tuple[Definition, ...]:
    """The facts of a utility statement, and of those inside it (CREATE SCHEMA, CREATE RULE)."""
    found = [define(command, fields)]
    if command in _HOLDS_STATEMENTS:
        found += [
            define(name, node) for name, node in nodes(fields) if name.endswith("Stmt") and name[0].isupper()
        ]
    return tuple(found)


def stored(definition: Definition) -> list[tuple[str, Node]] | None:
    """The statements that a definition keeps, to be run later: a rule's actions, the body of an SQL function.

    None when they are not known: of another language, of a text that does not parse, of a function that another one stands for.
    """
    fields = definition.fields
    if definition.command == "RuleStmt":
        return [pair for wrapped in fields.get("actions", ()) for pair in wrapped.items()]
    if definition.command != "CreateFunctionStmt":
        return None
    if "sql_body" in fields:
        return [(name, node) for name, node in nodes(fields["sql_body"]) if name.endswith("Stmt")]
    options = {o["DefElem"]["defname"]: o["DefElem"].get("arg", {}) for o in fields.get("options", ())}
    language = options.get("language", {}).get("String", {}).get("sval", "sql")
    texts = string_list(options.get("as", {}).get("List", {}).get("items", ()))
    if language.lower() != "sql" or len(texts) != 1:
        return None
    try:
        return [pair for raw in parse(texts[0]) for pair in raw["stmt"].items()]
    except SQLSyntaxError:
        return None


def _object(value: str) -> str:
    # (The first of the enumeration, which the JSON leaves out, is an access method.)
    word = value.removeprefix("OBJECT_").lower().replace("_", " ") or "access method"
    return _OBJECT_WORDS.get(word, word)


def _parts(command: str, fields: Node) -> Iterator[Part]:
    if command == "AlterTableStmt":
        for wrapped in fields.get("cmds", ()):
            part = wrapped["AlterTableCmd"]
            subtype = part.get("subtype", "AT_AddColumn").removeprefix("AT_")
            column = part.get("def", {}).get("ColumnDef", {})
            yield Part(_words(subtype), part.get("name") or column.get("colname"), part)
    elif command in ("CreateStmt", "CreateForeignTableStmt"):
        base = fields.get("base", fields)
        for wrapped in base.get("tableElts", ()):
            ((name, node),) = wrapped.items()
            verb = {"ColumnDef": "column", "Constraint": "constraint", "TableLikeClause": "like"}.get(
                name, name
            )
            yield Part(verb, node.get("colname") or node.get("conname"), node)
    elif command == "AlterDomainStmt":
        subtype = _DOMAIN_PARTS.get(fields.get("subtype", ""), "unknown")
        yield Part(subtype, fields.get("name"), fields)


def _words(subtype: str) -> str:
    """`AddColumnRecurse` -> `add column`."""
    words = re.findall(r"[A-Z][a-z]*", subtype)
    return " ".join(words).lower().removesuffix(" recurse") if words else subtype.lower()
