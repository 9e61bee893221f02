"""What a statement does, seen through every wrapper: EXPLAIN, PREPARE, DECLARE, COPY, CREATE TABLE AS, CTEs that write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from guarddb.facts import functions
from guarddb.sql.analysis.definitions import definitions, stored
from guarddb.sql.analysis.expressions import NotJudged
from guarddb.sql.analysis.scope import Scope
from guarddb.sql.analysis.writes import Analysis, UnknownNode
from guarddb.sql.catalog import Catalog
from guarddb.sql.names import string_list
from guarddb.sql.statement import Call, Query, Root, Statement, TypeUse
from guarddb.tree import Node, nodes
from guarddb.vocabulary import Kind

_QUERIES: dict[str, tuple[Kind, str]] = {
    "SelectStmt": ("select", "SELECT"),
    "InsertStmt": ("insert", "INSERT"),
    "UpdateStmt": ("update", "UPDATE"),
    "DeleteStmt": ("delete", "DELETE"),
    "MergeStmt": ("update", "MERGE"),
}
#: Utility statements that are neither DDL nor any other named kind; closed unless a profile allows `other`.
_OTHER: dict[str, str] = {
    "DoStmt": "DO",
    "CallStmt": "CALL",
    "LockStmt": "LOCK TABLE",
    "ListenStmt": "LISTEN",
    "UnlistenStmt": "UNLISTEN",
    "NotifyStmt": "NOTIFY",
    "DiscardStmt": "DISCARD",
    "VacuumStmt": "VACUUM",
    "CheckPointStmt": "CHECKPOINT",
    "LoadStmt": "LOAD",
    "ConstraintsSetStmt": "SET CONSTRAINTS",
}
_DDL_NAMES: dict[str, str] = {
    "IndexStmt": "CREATE INDEX",
    "ViewStmt": "CREATE VIEW",
    "RuleStmt": "CREATE RULE",
    "TruncateStmt": "TRUNCATE",
    "GrantStmt": "GRANT",
    "GrantRoleStmt": "GRANT ROLE",
    "CommentStmt": "COMMENT",
    "RenameStmt": "RENAME",
    "ClusterStmt": "CLUSTER",
    "ReindexStmt": "REINDEX",
    "RefreshMatViewStmt": "REFRESH MATERIALIZED VIEW",
    "CreateStmt": "CREATE TABLE",
    "CreateTableAsStmt": "CREATE TABLE AS",
    "CreateSeqStmt": "CREATE SEQUENCE",
    "CreateTrigStmt": "CREATE TRIGGER",
    "CreatedbStmt": "CREATE DATABASE",
    "DropdbStmt": "DROP DATABASE",
    "AlterTableMoveAllStmt": "ALTER TABLE",
    "SecLabelStmt": "SECURITY LABEL",
    "DefineStmt": "CREATE",
    "CompositeTypeStmt": "CREATE TYPE",
    "ImportForeignSchemaStmt": "IMPORT FOREIGN SCHEMA",
    "ReassignOwnedStmt": "REASSIGN OWNED",
}
_TRANSACTION: dict[str, tuple[str, str]] = {
    "TRANS_STMT_BEGIN": ("begin", "BEGIN"),
    "TRANS_STMT_START": ("begin", "BEGIN"),
    "TRANS_STMT_COMMIT": ("commit", "COMMIT"),
    "TRANS_STMT_ROLLBACK": ("rollback", "ROLLBACK"),
    "TRANS_STMT_SAVEPOINT": ("savepoint", "SAVEPOINT"),
    "TRANS_STMT_RELEASE": ("release", "RELEASE"),
    "TRANS_STMT_ROLLBACK_TO": ("rollback_to", "ROLLBACK TO"),
    "TRANS_STMT_PREPARE": ("prepare", "PREPARE TRANSACTION"),
    "TRANS_STMT_COMMIT_PREPARED": ("commit_prepared", "COMMIT PREPARED"),
    "TRANS_STMT_ROLLBACK_PREPARED": ("rollback_prepared", "ROLLBACK PREPARED"),
}
#: Utility statements that make, change or drop an object, by the form of their node's name.
_DDL_FORM = re.compile(
    r"(?:Create|Alter|Drop|Define|Rename|Grant|Revoke|Comment|SecLabel|Truncate|Cluster|Reindex|Refresh|Index|View|Rule|"
    r"Composite|ImportForeignSchema|ReassignOwned)\w*$"
)


class UnknownName(Exception):
    """EXECUTE or FETCH of a name that the session is not known to have. `args`: what it is, the name."""


def read_statement(raw: Node, catalog: Catalog | None, names: Mapping[str, Mapping[str, Any]]) -> Statement:
    """The facts of one RawStmt.

    Args:
        names: `prepared` and `portals`, name -> plan of what the session has under it.

    Raises:
        UnknownNode: the statement holds a node that is not known.
        NotJudged: it is a combination that cannot be judged.
        UnknownName: it executes or fetches from a name that the session does not have.
    """
    wrapper = raw["stmt"]
    ((command, fields),) = wrapper.items()
    statement = Statement(command, fields, wrapper)
    statement.location = raw.get("stmt_location", 0)
    statement.end = statement.location + raw.get("stmt_len", 0)
    reader = _Reader(statement, Analysis(statement, catalog), names)
    reader.read(wrapper, top=True)
    if statement.ddl is not None:
        statement.definitions = definitions(*statement.ddl)
        for definition in statement.definitions:
            for name, node in stored(definition) or ():
                _stored_kinds(name, node, statement)
    return statement


def _stored_kinds(name: str, tree: Node, statement: Statement) -> None:
    """What a stored statement will do counts as what the definition does: it would be done without being asked about."""
    for inner, _ in ((name, tree), *nodes(tree)):
        if inner in _QUERIES and inner != "SelectStmt":
            statement.kinds.add(_QUERIES[inner][0])
        elif inner == "CopyStmt":
            statement.kinds.add("copy")


class _Reader:
    def __init__(
        self, statement: Statement, analysis: Analysis, names: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self.statement = statement
        self.analysis = analysis
        self.names = names

    def read(self, wrapper: Node, *, top: bool = False) -> Query | None:
        """Read one statement; `top` when its own result is what the session sees."""
        ((command, fields),) = wrapper.items()
        statement = self.statement
        if command in _QUERIES:
            kind, operation = _QUERIES[command]
            if top:
                statement.kind, statement.operation = kind, operation
            query = self.analysis.query(wrapper, None, None)
            statement.kinds.add(kind)
            if command == "SelectStmt" and _into(fields) is not None:
                self._select_into(fields, query, top)
            elif top:
                query.top = True
                statement.top = query
                statement.returns_rows = command == "SelectStmt" or "returningClause" in fields
            statement.inner.append(command)
            return query
        handler = getattr(self, f"_{command}", None)
        if handler is not None:
            handler(fields, top)
        elif command in _OTHER:
            analyze = command == "VacuumStmt" and not fields.get("is_vacuumcmd", False)
            self._headline("other", "ANALYZE" if analyze else _OTHER[command], top)
            statement.ddl = (command, fields)
            self._utility(fields)
        elif _DDL_FORM.match(command):
            self._headline("ddl", _DDL_NAMES.get(command) or _words(command), top)
            statement.ddl = (command, fields)
            self._utility(fields)
        else:
            # Unclassified: `other`, which is closed unless a profile names it.
            self._headline("other", _words(command), top)
            statement.ddl = (command, fields)
            self._utility(fields)
        return None

    def _headline(self, kind: Kind, operation: str, top: bool) -> None:
        self.statement.kinds.add(kind)
        if top:
            self.statement.kind = kind
            self.statement.operation = operation

    # ------------------------------------------------------------------ wrappers

    def _ExplainStmt(self, fields: Node, top: bool) -> None:
        statement = self.statement
        self._headline("explain", "EXPLAIN", top)
        statement.returns_rows = statement.returns_rows or top
        for option in fields.get("options", ()):
            if option["DefElem"]["defname"] == "analyze" and _is_true(option["DefElem"].get("arg")):
                statement.analyzes = True
        self.read(fields["query"])

    def _PrepareStmt(self, fields: Node, top: bool) -> None:
        self._session("prepare", fields["name"], top)
        for node in fields.get("argtypes", ()):
            self._types(node)
        query = self.read(fields["query"])
        self._wrapped("PREPARE", query, top)

    def _DeclareCursorStmt(self, fields: Node, top: bool) -> None:
        self._session("declare", fields["portalname"], top)
        query = self.read(fields["query"])
        self._wrapped("DECLARE CURSOR", query, top)

    def _wrapped(self, operation: str, query: Query | None, top: bool) -> None:
        statement = self.statement
        if not top:
            return
        statement.operation = operation
        inner = statement.inner[-1] if statement.inner else ""
        statement.kind = _QUERIES[inner][0] if inner in _QUERIES else statement.kind
        statement.returns_rows = query is not None and (
            inner == "SelectStmt" or "returningClause" in query.fields
        )
        if query is not None and statement.top is None:
            # What a portal or a prepared statement hands out later is this query's result.
            query.top = True
            statement.top = query

    def _session(self, verb: str, name: str | None, top: bool) -> None:
        if top:
            self.statement.session_verb = verb
            self.statement.session_name = name

    def _ExecuteStmt(self, fields: Node, top: bool) -> None:
        if not top:
            # Its result would go where the rules of the prepared statement were not asked about.
            raise NotJudged("EXECUTE inside another statement cannot be judged; write the query itself there")
        self._session("execute", fields["name"], top)
        for node in fields.get("params", ()):
            self.analysis.expression(node, Scope(None, None), None, "values")
        self._of_name("prepared", "prepared statement", fields["name"], "EXECUTE", top)

    def _FetchStmt(self, fields: Node, top: bool) -> None:
        move = fields.get("ismove", False)
        self._session("move" if move else "fetch", fields["portalname"], top)
        self._of_name("portals", "cursor", fields["portalname"], "MOVE" if move else "FETCH", top)
        if move:
            self.statement.returns_rows = False

    def _of_name(self, group: str, what: str, name: str, operation: str, top: bool) -> None:
        plan = self.names[group].get(name)
        if plan is None:
            raise UnknownName(what, name)
        self.statement.kinds |= plan.kinds
        if top:
            self.statement.kind = plan.kind
            self.statement.operation = operation
            self.statement.returns_rows = plan.returns_rows or group == "portals"

    def _ClosePortalStmt(self, fields: Node, top: bool) -> None:
        self._session("close", fields.get("portalname"), top)
        self._headline("select", "CLOSE", top)

    def _DeallocateStmt(self, fields: Node, top: bool) -> None:
        self._session("deallocate", fields.get("name"), top)
        self._headline("select", "DEALLOCATE", top)

    def _CopyStmt(self, fields: Node, top: bool) -> None:
        statement = self.statement
        self._headline("copy", "COPY", top)
        statement.ddl = ("CopyStmt", fields)
        if "query" in fields:
            query = self.read(fields["query"])
            if top and query is not None:
                query.top = True
                statement.top = query
        else:
            reference = self.analysis.reference(fields["relation"], "copy", None)
            if not fields.get("is_from", False):
                root = Root(None, "target", None)
                for column in string_list(fields.get("attlist", ())):
                    root.uses.append(((reference, column), None))
        if "whereClause" in fields:
            self._ddl_expressions(fields["whereClause"])

    def _select_into(self, fields: Node, query: Query, top: bool) -> None:
        self._headline("ddl", "SELECT INTO", top)
        into = _into(fields)
        assert into is not None
        self.analysis.reference(into["rel"], "ddl", None)
        self._stored(query)

    def _CreateTableAsStmt(self, fields: Node, top: bool) -> None:
        self._headline("ddl", "CREATE TABLE AS", top)
        if fields.get("objtype") == "OBJECT_MATVIEW" and top:
            self.statement.operation = "CREATE MATERIALIZED VIEW"
        self.statement.ddl = ("CreateTableAsStmt", fields)
        self.analysis.reference(fields["into"]["rel"], "ddl", None)
        query = self.read(fields["query"])
        if query is not None:
            self._stored(query)

    def _ViewStmt(self, fields: Node, top: bool) -> None:
        self._headline("ddl", "CREATE VIEW", top)
        self.statement.ddl = ("ViewStmt", fields)
        self.analysis.reference(fields["view"], "ddl", None)
        query = self.read(fields["query"])
        if query is not None:
            self._stored(query)

    def _CreateSchemaStmt(self, fields: Node, top: bool) -> None:
        self._headline("ddl", "CREATE SCHEMA", top)
        for element in fields.get("schemaElts", ()):
            self.read(element)
        self.statement.ddl = ("CreateSchemaStmt", fields)

    def _stored(self, query: Query) -> None:
        """The query's result goes into a relation of its own."""
        root = Root(query, "write", None)
        root.uses = [(output, None) for output in query.outputs]
        self.statement.roots.append(root)

    # ------------------------------------------------------------------ session and transaction

    def _TransactionStmt(self, fields: Node, top: bool) -> None:
        verb, operation = _TRANSACTION.get(fields.get("kind", "TRANS_STMT_BEGIN"), ("unknown", "TRANSACTION"))
        self._headline("transaction", operation, top)
        self.statement.transaction = verb
        self.statement.session_name = fields.get("savepoint_name")
        self.statement.ddl = ("TransactionStmt", fields)

    def _VariableSetStmt(self, fields: Node, top: bool) -> None:
        name = fields.get("name", "")
        if fields.get("kind") == "VAR_SET_MULTI" and name == "TRANSACTION":
            self._headline("transaction", "SET TRANSACTION", top)
            self.statement.transaction = "set"
        else:
            reset = fields.get("kind") in ("VAR_RESET", "VAR_RESET_ALL")
            self._headline("set", "RESET" if reset else "SET", top)
        self.statement.ddl = ("VariableSetStmt", fields)

    def _VariableShowStmt(self, fields: Node, top: bool) -> None:
        self._headline("show", "SHOW", top)
        self.statement.returns_rows = self.statement.returns_rows or top

    # ------------------------------------------------------------------ everything else

    def _CallStmt(self, fields: Node, top: bool) -> None:
        self._headline("other", "CALL", top)
        self.statement.ddl = ("CallStmt", fields)
        call = fields["funccall"]
        self.analysis.expression({"FuncCall": call}, Scope(None, None), None, "values")
        self.statement.calls[-1].how = "call"

    def _DropStmt(self, fields: Node, top: bool) -> None:
        what = fields.get("removeType", "").removeprefix("OBJECT_").replace("_", " ")
        self._headline("ddl", f"DROP {what}", top)
        self.statement.ddl = ("DropStmt", fields)
        for entry in fields.get("objects", ()):
            parts = string_list(entry.get("List", {}).get("items", ()))
            if what in ("TABLE", "VIEW", "MATVIEW", "FOREIGN TABLE", "SEQUENCE", "INDEX") and parts:
                node = {"relname": parts[-1], "inh": True, "location": -1}
                if len(parts) > 1:
                    node["schemaname"] = parts[-2]
                self.analysis.reference(node, "ddl", None)
            elif what in ("TRIGGER", "RULE", "POLICY") and len(parts) > 1:
                node = {"relname": parts[-2], "inh": True, "location": -1}
                if len(parts) > 2:
                    node["schemaname"] = parts[-3]
                self.analysis.reference(node, "ddl", None)

    def _CommentStmt(self, fields: Node, top: bool) -> None:
        self._about("COMMENT", "CommentStmt", fields, top)

    def _SecLabelStmt(self, fields: Node, top: bool) -> None:
        self._about("SECURITY LABEL", "SecLabelStmt", fields, top)

    def _about(self, operation: str, command: str, fields: Node, top: bool) -> None:
        """COMMENT ON and SECURITY LABEL name their object as a list of strings."""
        self._headline("ddl", operation, top)
        self.statement.ddl = (command, fields)
        what = fields.get("objtype", "").removeprefix("OBJECT_")
        parts = string_list(fields.get("object", {}).get("List", {}).get("items", ()))
        if what in ("COLUMN", "TABCONSTRAINT", "TRIGGER", "RULE", "POLICY"):
            parts = parts[:-1]
        elif what not in ("TABLE", "VIEW", "MATVIEW", "FOREIGN_TABLE", "SEQUENCE", "INDEX"):
            return
        if parts:
            node = {"relname": parts[-1], "inh": True, "location": -1}
            if len(parts) > 1:
                node["schemaname"] = parts[-2]
            self.analysis.reference(node, "ddl", None)

    def _utility(self, fields: Node) -> None:
        """Relations, functions and types named anywhere in a utility statement."""
        self._ddl_expressions(fields)

    def _ddl_expressions(self, tree: Any) -> None:
        statement = self.statement
        root = Root(None, "ddl", tree)
        references = []
        columns: list[str] = []
        for name, node in nodes(tree):
            if "relname" in node:
                references.append(self.analysis.reference(node, "ddl", None))
            elif name == "FuncCall" and "funcname" in node:
                parts = string_list(node["funcname"])
                statement.calls.append(
                    Call(parts[-2] if len(parts) > 1 else None, parts[-1], len(node.get("args", ())), node)
                )
            elif name == "ColumnRef":
                self._ddl_column(node["fields"], columns)
            elif name == "A_Indirection":
                # (value).f is a field, or a function of the value
                for step in node.get("indirection", ()):
                    if "String" in step:
                        statement.calls.append(Call(None, step["String"]["sval"], 1, None, how="field"))
            elif (
                name == "A_Expr"
                and "name" in node
                and node.get("kind") in ("AEXPR_OP", "AEXPR_OP_ANY", "AEXPR_OP_ALL")
            ):
                parts = string_list(node["name"])
                statement.operators.add((parts[-2] if len(parts) > 1 else None, parts[-1]))
            elif "names" in node and "typemod" in node:
                parts = string_list(node["names"])
                if parts:
                    statement.types.append(TypeUse(parts[-2] if len(parts) > 1 else None, parts[-1]))
        for name, node in nodes(tree):
            if name == "SubLink" and "SelectStmt" in node.get("subselect", {}):
                self.analysis.query(node["subselect"], None, None)
        if columns and references:
            rows = {"*", "new", "old", *(r.name for r in references), *(r.alias for r in references)}
            root.uses = [
                ((reference, "*" if column in rows else column), None)
                for reference in references
                for column in columns
            ]
            statement.roots.append(root)

    def _ddl_column(self, fields: list[Node], columns: list[str]) -> None:
        """A column in a definition: `t.x` is a column, or the function x of the row, and counts as both."""
        last = fields[-1]
        if "String" not in last:
            columns.append("*")
            return
        name = last["String"]["sval"]
        columns.append(name)
        if len(fields) > 1:
            self.statement.calls.append(Call(None, name, 1, None, how="attribute"))
            if functions.builtin(name) or self.analysis.has_function(name):
                columns.append("*")

    def _types(self, node: Node) -> None:
        fields = node.get("TypeName", node)
        parts = string_list(fields.get("names", ()))
        if parts:
            self.statement.types.append(TypeUse(parts[-2] if len(parts) > 1 else None, parts[-1]))


def _into(fields: Node) -> Node | None:
    """SELECT INTO: the clause may stand in the leftmost branch of a set operation."""
    while fields.get("op", "SETOP_NONE") != "SETOP_NONE" and "intoClause" not in fields:
        fields = fields["larg"]
    into: Node | None = fields.get("intoClause")
    return into


def _is_true(node: Any) -> bool:
    """The value of a boolean option: given alone it is true."""
    if not node:
        return True
    if "String" in node:
        return str(node["String"].get("sval", "")).lower() not in ("off", "false", "no", "0", "f", "n")
    if "Integer" in node:
        return bool(node["Integer"].get("ival", 0))
    if "Boolean" in node:
        return bool(node["Boolean"].get("boolval", False))
    return True


def _words(command: str) -> str:
    """`AlterTableStmt` -> `ALTER TABLE`."""
    return " ".join(re.findall(r"[A-Z][a-z]*", command.removesuffix("Stmt"))).upper()


__all__ = ["NotJudged", "UnknownName", "UnknownNode", "read_statement"]
