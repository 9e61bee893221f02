"""A row filter as the expression of a policy: settings put in, names tied to their schemas.

What the text does with columns is left to PostgreSQL, which resolves it when the policy is made, once and for all. Only what a
session could move afterwards is looked at here: settings that casts and comparisons depend on, and code of the users'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pglast import parser

from guarddb.facts.functions import builtin, builtin_type
from guarddb.policy.patterns import RelationPattern
from guarddb.policy.predicate import Predicate
from guarddb.sql.names import literal, quote, string_list
from guarddb.tree import Node, nodes
from guarddb.wall.asked_first import Cost
from guarddb.wall.database import Column, Database, Relation
from guarddb.wall.operands import TYPE_NAMES, operators

#: Types whose text, casts among each other and comparisons depend on no setting.
_SETTLED = frozenset(
    ("bool", "int2", "int4", "int8", "numeric", "text", "varchar", "bpchar", "name", "char", "uuid", "oid")
)
#: Types that may be compared with their own kind, and with constants, which are read when the policy is made.
_COMPARED = frozenset(("date", "time", "timestamp", "timestamptz", "float4", "float8", "jsonb", "inet"))
_SETTLED_OPERATORS = frozenset(
    ("=", "<>", "<", ">", "<=", ">=", "~~", "!~~", "~~*", "!~~*", "~", "!~", "~*", "!~*")
)
_ARITHMETIC = frozenset(("+", "-", "*", "/", "%", "||"))
_SETTLED_FUNCTIONS = frozenset(
    ("lower", "upper", "length", "btrim", "ltrim", "rtrim", "left", "right", "abs", "mod", "starts_with",
     "strpos", "substring", "replace", "concat_ws", "current_setting", "count", "max", "min", "bool_and", "bool_or",
     "pg_has_role", "position", "split_part", "hashtext")
)  # fmt: skip
_USERS = frozenset(
    ("SVFOP_CURRENT_USER", "SVFOP_SESSION_USER", "SVFOP_USER", "SVFOP_CURRENT_ROLE", "SVFOP_CURRENT_CATALOG",
     "SVFOP_CURRENT_SCHEMA")
)  # fmt: skip


@dataclass(slots=True)
class FilterText:
    """A filter of one table.

    Attributes:
        text: a boolean expression over the table's row.
        checked: the same, for rows that are written.
        columns: the table's columns that it names, and perhaps others of the same name.
        reads: relations that its sub-selects read, as (schema, name).
        late: settings that are looked up for each login, because no value was given.
        moved_by: why a setting of the session could change what it means, or None.
        opaque: a function, operator or cast of the users' that it runs, or None.
        calls: those functions, as far as they are known, as GRANT takes them.
        whole: it is about a whole row, of this table or of another.
        asks_who: it asks for the user's name.
        cost: nothing that the agent writes and that costs as much is asked before it; `single`: it is one condition. See
            `guarddb.wall.asked_first`.
    """

    text: str
    checked: str = ""
    columns: list[Column] = field(default_factory=list)
    reads: list[tuple[str, str]] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)
    moved_by: str | None = None
    opaque: str | None = None
    calls: set[str] = field(default_factory=set)
    whole: bool = False
    asks_who: bool = False
    cost: Cost = Cost.MORE
    single: bool = False


class Unbindable(Exception):
    """The filter cannot stand in a policy. `args`: why."""


def filter_text(
    predicate: Predicate,
    pattern: RelationPattern,
    relation: Relation,
    database: Database,
    settings: Mapping[str, str],
    *,
    setting_function: str,
    row: str,
    stand_ins: Mapping[tuple[str, str], str],
) -> FilterText:
    """The filter as it stands in the policy of `relation`.

    Args:
        settings: values by setting name; the others are looked up by `setting_function` when the policy is asked.
        row: what the table's own row is called there.
        stand_ins: relations that sub-selects read under another name, which is given as SQL.

    Raises:
        Unbindable: a name in it could mean the table or something inside of a sub-select.
    """
    found = FilterText(predicate.text)
    tokens = _Tokens(predicate.text)
    edits: list[tuple[int, int, str]] = []
    ctes = {n["ctename"] for kind, n in nodes(predicate.tree) if kind == "CommonTableExpr"}
    inner = {
        n["aliasname"] for kind, n in nodes(predicate.tree) if kind == "alias" and "aliasname" in n
    } | ctes
    for kind, node in nodes(predicate.tree):
        if kind == "FuncCall":
            name = string_list(node.get("funcname", ()))[-1]
            if name == "current_setting":
                edits.append(_setting(node, tokens, settings, setting_function, found))
            elif name in ("current_user", "session_user", "pg_has_role"):
                found.asks_who = True
        elif "relname" in node:
            name = node["relname"]
            schema = node.get("schemaname")
            if schema is None and name in ctes:
                continue
            edits += _relation(node, tokens, database, stand_ins, found)
            inner.add(node.get("alias", {}).get("aliasname", name))
        elif kind == "SQLValueFunction" and node.get("op") in _USERS:
            found.asks_who = True
    for kind, node in nodes(predicate.tree):
        if kind == "ColumnRef":
            edits += _column(node, tokens, pattern, relation, row, inner, found)
    found.columns = [column for column in relation.columns if column.name in found.named]
    _users_code(found, predicate.tree, database, relation)
    found.moved_by = _moved_by(predicate.tree, found, database, relation)
    if found.opaque is not None:
        # What it reads has to be what it reads for the one who wrote it, whatever the session's path finds.
        found.moved_by = found.moved_by or f"{found.opaque} may depend on settings"
    found.text = tokens.edited(edits)
    return found


def _holds_users_type(found: FilterText, tree: Node, database: Database, relation: Relation) -> bool:
    """Whether a value of a type outside pg_catalog may stand in a filter, for a cast to take or to make."""
    columns = list(relation.columns) if found.whole else list(found.columns)
    for key in found.reads:
        read = database.by_name.get(key)
        if read is None:
            return True
        columns += read.columns
    if any(not column.type_name for column in columns):
        return True
    for kind, node in nodes(tree):
        if kind == "TypeCast":
            *schema, name = string_list(node.get("typeName", {}).get("names", ()))
            if schema not in ([], ["pg_catalog"]) or builtin_type(name) is None:
                return True
        elif kind == "FuncCall" and not builtin(string_list(node.get("funcname", ()))[-1]):
            return True  # a type's name may be called as well
    return False


def _setting(
    node: Node, tokens: _Tokens, settings: Mapping[str, str], setting_function: str, found: FilterText
) -> tuple[int, int, str]:
    name = str(node["args"][0]["A_Const"]["sval"].get("sval", "")).lower()
    first = tokens.at(node.get("location", 0))
    last = tokens.closing(first)
    if name in settings:
        value = f"{literal(settings[name])}::pg_catalog.text"
    else:
        found.late.add(name)
        # A sub-select that refers to nothing is asked once a query, a call would be asked once a row.
        value = f"(SELECT {setting_function}({literal(name)}))"
    return tokens.start(first), tokens.end(last), value


def _users_code(found: FilterText, tree: Node, database: Database, relation: Relation) -> None:
    """The code of the users' that a filter runs.

    What takes only types of the users' own is not meant where no value of such a type can stand: PostgreSQL, which tries
    pg_catalog first, has something of that name that fits better.
    """
    strangers = bool(database.implicit_casts) or _holds_users_type(found, tree, database, relation)
    columns = {column.name for each in (relation, *_read(found, database)) for column in each.columns}
    called = _called(tree) | {(None, name) for name in found.named - columns}
    for routine in database.functions:
        if routine.trusted or not called & {(None, routine.name), (routine.schema, routine.name)}:
            continue
        bare = (routine.schema, routine.name) not in called
        if routine.of_users and not strangers and bare and builtin(routine.name):
            continue
        found.opaque = found.opaque or f"the function {routine.schema}.{routine.name}"
        found.calls.add(routine.signature)
    # (One sub-select more that reads something else, and nobody knows what a name means there.)
    named, perhaps = operators(tree, (relation, *_read(found, database)))
    for operator in database.operators:
        # What takes PostgreSQL's own types alone is not meant where pg_catalog has an operator for exactly the operands'.
        meant = perhaps if operator.of_built_ins else named
        if operator.name in meant and (strangers or not operator.of_users):
            found.opaque = found.opaque or f"the operator {operator.name}, which a user made"
            found.calls.add(operator.function)
    if database.casts_of_built_ins or (database.user_casts and strangers):
        found.opaque = found.opaque or "casts that users made"
    if database.coded_types and strangers:
        found.opaque = found.opaque or "a type whose CHECK runs a user's function"
    for code in _code_of_views(_read(found, database), database):
        found.opaque = found.opaque or f"the function {code.partition('(')[0]}, in a view"
        found.calls.add(code)


def _read(found: FilterText, database: Database) -> list[Relation]:
    return [database.by_name[key] for key in found.reads if key in database.by_name]


def _called(tree: Node) -> set[tuple[str | None, str]]:
    """(schema or None, name) of what may be a function: `(row).name` calls `name(row)` where there is no such column."""
    calls: set[tuple[str | None, str]] = set()
    for kind, node in nodes(tree):
        if kind == "FuncCall":
            *schema, name = string_list(node.get("funcname", ()))
            calls.add((schema[-1] if schema else None, name))
        elif kind == "A_Indirection":
            calls |= {(None, name) for name in string_list(node.get("indirection", ()))}
    return calls


def _code_of_views(reads: Iterable[Relation], database: Database) -> list[str]:
    """What the views that a filter reads run, and the views that these read."""
    queue = list(reads)
    seen: set[int] = set()
    code: list[str] = []
    while queue:
        relation = queue.pop()
        if relation.oid in seen:
            continue
        seen.add(relation.oid)
        code += relation.code
        queue += [database.by_oid[oid] for oid, _ in relation.reads if oid in database.by_oid]
    return code


def _relation(
    node: Node,
    tokens: _Tokens,
    database: Database,
    stand_ins: Mapping[tuple[str, str], str],
    found: FilterText,
) -> list[tuple[int, int, str]]:
    """A relation of a sub-select: a bare name means schema public, or the system's relation of that name."""
    schema, name = node.get("schemaname"), node["relname"]
    if schema is None and ("public", name) not in database.by_name:
        return []
    key = (schema or "public", name)
    found.reads.append(key)
    first = tokens.at(node.get("location", 0))
    last = first + (2 if schema is not None else 0)
    target = stand_ins.get(key, f"{quote(key[0])}.{quote(name)}")
    alias = "" if "alias" in node or key not in stand_ins else f" AS {quote(name)}"
    return [(tokens.start(first), tokens.end(last), target + alias)]


def _column(
    node: Node,
    tokens: _Tokens,
    pattern: RelationPattern,
    relation: Relation,
    row: str,
    inner: set[str],
    found: FilterText,
) -> list[tuple[int, int, str]]:
    fields = node.get("fields", ())
    parts = string_list(fields)
    if len(parts) < len(fields):
        found.whole = True
        return []
    found.named.add(parts[-1])
    if parts[-1] == relation.name or parts[-1] in inner:
        found.whole = True
    if len(parts) != 2 or pattern.name is None or not pattern.name.matches(parts[0], strict=False):
        return []
    if parts[0] in inner:
        # The sub-select's own table of that name, as SQL has it. Elsewhere the name means the filtered row.
        if parts[0] != relation.name or row != relation.name:
            raise Unbindable(f'"{parts[0]}" is also a name inside of a sub-select; use another alias there')
        return []
    first = tokens.at(node.get("location", 0))
    return [(tokens.start(first), tokens.end(first), quote(row))]


def _moved_by(tree: Node, found: FilterText, database: Database, relation: Relation) -> str | None:
    """Why a session could move the filter by a setting; volatility in pg_proc is no test for it."""
    types: set[str] = set()
    inner = [database.by_name[key] for key in found.reads if key in database.by_name]
    for name in found.named:
        columns = [c for each in (relation, *inner) for c in each.columns if c.name == name]
        if not columns and not found.whole:
            return f'the type of "{name}" is not known'
        types.update(
            "text" if c.category == "E" else c.type_name.removeprefix("_") or c.type for c in columns
        )
    others = types - _SETTLED
    for kind, node in nodes(tree):
        if kind == "FuncCall":
            name = string_list(node.get("funcname", ()))[-1]
            if name == "now" and others <= {"timestamptz"}:
                others = {"timestamptz"}
            elif name not in _SETTLED_FUNCTIONS or (others and name != "current_setting"):
                return f"{name}() may depend on settings"
        elif kind == "SQLValueFunction":
            if node.get("op") not in _USERS:
                return "the current date and time depend on the time zone"
        elif kind == "TypeCast":
            target = string_list(node["typeName"].get("names", ()))[-1]
            target = TYPE_NAMES.get(target, target)
            constant = "A_Const" in node["arg"]
            if target not in _SETTLED and not (constant and (not others or others == {target})):
                return f"a cast to {target} may depend on settings"
            if others and not constant and not _is_setting(node["arg"]):
                return f"a cast beside a column of type {sorted(others)[0]} may depend on settings"
        elif kind == "A_Expr":
            operators = string_list(node.get("name", ()))
            operator = operators[-1] if operators else "="
            if operator in _ARITHMETIC and not others:
                continue
            if operator not in _SETTLED_OPERATORS and operator not in ("->", "->>", "?", "@>", "<@"):
                return f"the operator {operator} may depend on settings"
        elif kind in ("CollateClause", "XmlExpr", "XmlSerialize"):
            return "its kind of expression may depend on settings"
    if len(others) > 1 or not others <= _COMPARED:
        return f"comparing {' and '.join(sorted(others))} may depend on settings"
    return None


def _is_setting(node: Node) -> bool:
    while "TypeCast" in node:
        node = node["TypeCast"]["arg"]
    return string_list(node.get("FuncCall", {}).get("funcname", ()))[-1:] == ["current_setting"]


class _Tokens:
    """The tokens of a text; the tree counts in bytes, the scanner in characters."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.data = text.encode()
        self.tokens = [t for t in parser.scan(text) if t.name not in ("SQL_COMMENT", "C_COMMENT")]
        self._at = {self.start(i): i for i in range(len(self.tokens))}

    def start(self, token: int) -> int:
        return len(self.text[: self.tokens[token].start].encode())

    def end(self, token: int) -> int:
        return len(self.text[: self.tokens[token].end + 1].encode())

    def at(self, offset: int) -> int:
        return self._at[offset]

    def closing(self, first: int) -> int:
        """The token of the parenthesis that closes the first one opened from here."""
        depth = 0
        for position in range(first, len(self.tokens)):
            if self.tokens[position].name == "ASCII_40":
                depth += 1
            elif self.tokens[position].name == "ASCII_41":
                depth -= 1
                if depth == 0:
                    return position
        raise Unbindable("its parentheses are not balanced")

    def edited(self, edits: list[tuple[int, int, str]]) -> str:
        made, position = [], 0
        for start, end, piece in sorted(set(edits)):
            made += [self.data[position:start].decode(), piece]
            position = end
        return "".join([*made, self.data[position:].decode()])
