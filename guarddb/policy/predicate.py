"""Row-filter predicates: parsed once, when the profile loads, so that a bad one is never met by a query.

A predicate is one boolean SQL expression over the columns of the filtered table. What is refused here is what
could make it mean something else once it stands inside an agent's statement, or what PostgreSQL would refuse
at every query. Whether its functions are volatile, and whether its columns exist, only the catalog knows:
that is the decision's part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pglast import parser

from guarddb.facts import functions
from guarddb.policy.errors import PolicyError, quoted
from guarddb.policy.patterns import RelationPattern
from guarddb.tree import Node, SQLSyntaxError, nodes, parse

#: A PostgreSQL setting's name: identifiers joined by dots (guc.c, valid_custom_variable_name).
SETTING_NAME = re.compile(r"[A-Za-z_\u0080-\U0010ffff][\w$]*(\.[A-Za-z_\u0080-\U0010ffff][\w$]*)*")

#: It goes into every statement that touches the table, and a statement has 100,000 characters at most.
MAX_PREDICATE_CHARS = 20_000

_PREFIX = "SELECT "

#: Fields of the tree that hold a byte offset into the text.
_OFFSETS = frozenset(
    {
        "location",
        "name_location",
        "arg_location",
        "list_start",
        "list_end",
        "rexpr_list_start",
        "rexpr_list_end",
    }
)

_WRITES = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})

#: Operators that give no boolean for any built-in type.
_VALUE_OPERATORS = frozenset({"+", "-", "*", "/", "%", "^", "||", "->", "->>", "#>", "#>>"})

#: Expressions whose value is never a boolean, and how a message calls them.
_VALUE_NODES = {
    "RowExpr": "a row",
    "A_ArrayExpr": "an array",
    "SQLValueFunction": "a value",
    "CollateClause": "a text",
    "XmlSerialize": "a text",
    "JsonObjectConstructor": "a JSON value",
    "JsonArrayConstructor": "a JSON value",
}


@dataclass(frozen=True, slots=True)
class Predicate:
    """A checked row-filter predicate.

    Attributes:
        text: its source without comments, trailing semicolon and surrounding space. It is safe between
            parentheses.
        tree: the expression's node in the JSON tree, `{"A_Expr": {…}}`. Offsets in it are bytes into
            `text.encode()`,
            written out also where they are zero. Read-only: one predicate is shared by all who use the
            profile.
        settings: the settings it reads with current_setting, in lower case.
        has_sublink: whether it holds a sub-select.
    """

    text: str
    tree: Node = field(compare=False, repr=False)
    settings: frozenset[str] = frozenset()
    has_sublink: bool = False

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=512)
def parse_predicate(text: str, table: RelationPattern) -> Predicate:
    """Check the predicate of a filter on `table`.

    Raises:
        PolicyError: it is not one boolean expression that keeps its meaning inside another statement.
    """
    if len(text) > MAX_PREDICATE_CHARS:
        raise PolicyError(f"has {len(text)} characters; the limit is {MAX_PREDICATE_CHARS}")
    text = _without_comments(text)
    if not text:
        raise PolicyError("is empty; write a boolean SQL expression, or true to show every row")
    tree = _expression(text)
    settings: set[str] = set()
    has_sublink = False
    for name, node in nodes(tree):
        has_sublink = has_sublink or name == "SelectStmt"
        _check_anywhere(name, node)
        if name == "FuncCall" and _function(node) == "current_setting":
            settings.add(_setting_read(node))
    for name, node in _outside_subselects(tree):
        _check_outside(name, node, table)
    _check_boolean(tree)
    _check_parenthesised(text, tree)

    shift = len(_PREFIX)
    for _, node in nodes(tree):
        for key in _OFFSETS & node.keys():
            if isinstance(node[key], int) and node[key] >= shift:
                node[key] -= shift
    return Predicate(text, tree, frozenset(settings), has_sublink)


def _without_comments(text: str) -> str:
    try:
        parse(_PREFIX + text + "\n")
        tokens = parser.scan(text)
    except SQLSyntaxError as ex:
        raise PolicyError(_syntax_message(ex, text)) from None
    except (parser.ParseError, ValueError, RecursionError) as ex:
        raise PolicyError(f"is not an SQL expression: {_one_line(str(ex))}") from None
    pieces, end = [], 0
    for token in tokens:
        if token.name in {"SQL_COMMENT", "C_COMMENT"}:
            # A space for each: a comment separates tokens. The line end after `--` stays where it is.
            pieces += [text[end : token.start], " "]
            end = token.end + 1
    pieces.append(text[end:])
    bare = "".join(pieces).strip(" \t\r\n\f\v")
    while bare.endswith(";"):
        bare = bare[:-1].rstrip(" \t\r\n\f\v")
    return bare


def _expression(text: str) -> Node:
    """The expression that `text` is when it stands, without parentheses of ours, where a target list
    stands."""
    try:
        statements = parse(_PREFIX + text + "\n")
    except SQLSyntaxError as ex:
        raise PolicyError(_syntax_message(ex, text)) from None
    if len(statements) != 1:
        raise PolicyError(f"holds {len(statements)} statements; it must be one boolean expression")
    select = statements[0]["stmt"].get("SelectStmt")
    if select is None:
        raise PolicyError("is not an expression")
    if select.get("op") != "SETOP_NONE":
        raise PolicyError("must be one boolean expression, not a query with UNION, INTERSECT or EXCEPT")
    extra = sorted(select.keys() - {"targetList", "limitOption", "op"})
    if extra:
        raise PolicyError(
            f"must be one boolean expression; it goes on with {_CLAUSES.get(extra[0], 'another clause')}"
        )
    targets = select.get("targetList", [])
    if len(targets) != 1:
        told = f"it holds {len(targets)} expressions; join conditions with AND" if targets else "it is empty"
        raise PolicyError(f"must be one boolean expression; {told}")
    target = targets[0]["ResTarget"]
    if "name" in target or "indirection" in target:
        raise PolicyError("must be one boolean expression without an output name")
    node: Node = target["val"]
    return node


_CLAUSES = {
    "distinctClause": "DISTINCT",
    "fromClause": "FROM",
    "groupClause": "GROUP BY",
    "havingClause": "HAVING",
    "intoClause": "INTO",
    "limitCount": "LIMIT",
    "limitOffset": "OFFSET",
    "lockingClause": "a locking clause",
    "sortClause": "ORDER BY",
    "whereClause": "WHERE",
    "windowClause": "WINDOW",
}


def _check_parenthesised(text: str, tree: Node) -> None:
    # As it will stand in a statement, parsed once more: `ALL x`, say, is fine in a target list and nowhere
    # else.
    try:
        (statement,) = parse(f"{_PREFIX}({text}\n)")
        (target,) = statement["stmt"]["SelectStmt"]["targetList"]
        if _same(tree, target["ResTarget"]["val"]):
            return
    except (SQLSyntaxError, ValueError, KeyError):
        pass
    raise PolicyError("is not one expression that can stand between parentheses")


def _syntax_message(error: SQLSyntaxError, text: str) -> str:
    reason = _one_line(str(error))
    if error.position is not None and len(_PREFIX) <= error.position < len(_PREFIX) + len(text):
        return f"is not an SQL expression: {reason} (character {error.position - len(_PREFIX) + 1})"
    return f"is not an SQL expression: {reason}"


def _one_line(text: str) -> str:
    return quoted(" ".join(text.split()), 200)[1:-1]


def _same(first: Any, second: Any) -> bool:
    """Whether two trees are equal but for the offsets, iteratively."""
    stack = [(first, second)]
    while stack:
        a, b = stack.pop()
        if isinstance(a, dict) and isinstance(b, dict):
            if a.keys() - _OFFSETS != b.keys() - _OFFSETS:
                return False
            stack.extend((a[key], b[key]) for key in a if key not in _OFFSETS)
        elif isinstance(a, list) and isinstance(b, list):
            if len(a) != len(b):
                return False
            stack.extend(zip(a, b, strict=True))
        elif a != b:
            return False
    return True


def _outside_subselects(root: Node) -> Iterator[tuple[str, Node]]:
    """Every node that is evaluated in the filtered table's own scope: `nodes`, but not below a sub-select."""
    stack: list[tuple[str, Any]] = [("", root)]
    while stack:
        name, value = stack.pop()
        if isinstance(value, dict):
            yield name, value
            # A SubLink's, and JSON_ARRAY(SELECT …)'s.
            stack.extend(item for item in reversed(value.items()) if item[0] != "SelectStmt")
        elif isinstance(value, list):
            stack.extend((name, item) for item in reversed(value))


def _strings(fields: list[Node]) -> list[str]:
    return [str(part["String"].get("sval", "")) for part in fields if "String" in part]


def _function(call: Node) -> str | None:
    """The name of a built-in function a call may mean; None when it names a schema other than pg_catalog."""
    names = _strings(call.get("funcname", []))
    if len(names) == 1 or (len(names) == 2 and names[0] == "pg_catalog"):
        return names[-1]
    return None


def _check_anywhere(name: str, node: Node) -> None:
    if name == "ParamRef":
        raise PolicyError("holds a parameter ($1); values come in through current_setting('name')")
    if name in _WRITES:
        raise PolicyError("writes data; a predicate may only read")
    if node.get("lockingClause"):
        raise PolicyError("locks rows (FOR UPDATE, FOR SHARE); a predicate may only read")
    if "intoClause" in node:
        raise PolicyError("holds SELECT INTO; a predicate may only read")
    if name == "SetToDefault":
        raise PolicyError("holds DEFAULT, which is not a value here")
    if name == "FuncCall" and _function(node) == "set_config":
        raise PolicyError("calls set_config; a predicate may only read")
    if name == "A_Indirection" and "current_setting" in _strings(node.get("indirection", [])):
        # ('app.tenant'::text).current_setting is a call in attribute notation.
        raise PolicyError("reads a setting in attribute notation; write current_setting('name')")
    if name == "ColumnRef":
        parts = _strings(node["fields"])
        if len(node["fields"]) > 2 and len(parts) == len(node["fields"]):
            shown = ".".join(parts)
            raise PolicyError(
                f"names the column {quoted(shown)} with its schema; write {quoted('.'.join(parts[-2:]))}, "
                "and a field of a composite column as (column).field"
            )


def _setting_read(call: Node) -> str:
    """The setting that a current_setting call reads."""
    form = "current_setting takes the setting's name as a plain text literal, and true or false after it"
    args = call.get("args", [])
    literal = args[0].get("A_Const", {}) if args else {}
    if not 1 <= len(args) <= 2 or "sval" not in literal:
        raise PolicyError(f"reads a setting whose name is not a plain literal; {form}")
    if len(args) == 2 and "boolval" not in args[1].get("A_Const", {}):
        raise PolicyError(f"has a second argument of current_setting that is neither true nor false; {form}")
    if call.keys() & {"func_variadic", "agg_distinct", "agg_order", "agg_filter", "agg_star", "over"}:
        raise PolicyError(f"calls current_setting in an unusual way; {form}")
    setting = str(literal["sval"].get("sval", ""))
    if not SETTING_NAME.fullmatch(setting):
        raise PolicyError(f"reads {quoted(setting)}, which is not the name of a setting")
    return setting.lower()


def _check_outside(name: str, node: Node, table: RelationPattern) -> None:
    if name == "FuncCall":
        function = _function(node)
        if node.get("over") is not None or (function is not None and functions.is_window(function)):
            raise PolicyError("calls a window function; a predicate is about one row, so use a sub-select")
        if (function is not None and functions.is_aggregate(function)) or node.keys() & {
            "agg_star", "agg_distinct", "agg_order", "agg_filter", "agg_within_group"
        }:  # fmt: skip
            shown = quoted(".".join(_strings(node.get("funcname", []))))[1:-1]
            raise PolicyError(
                f"calls the aggregate {shown}(); a predicate is about one row, so use a sub-select"
            )
        if function is not None and functions.returns_set(function):
            raise PolicyError(f"calls {function}(), which gives many rows; use it in a sub-select's FROM")
    elif name in {"GroupingFunc", "JsonObjectAgg", "JsonArrayAgg", "MergeSupportFunc"}:
        raise PolicyError("calls an aggregate; a predicate is about one row, so use a sub-select")
    elif name == "A_Star":
        raise PolicyError("holds a *; name the columns")
    elif name == "ColumnRef":
        parts = _strings(node["fields"])
        if len(parts) == 2 and table.name is None:
            raise PolicyError(
                f"names the column {quoted('.'.join(parts))} with a table; "
                "a filter on every table of a schema names its columns alone"
            )
        if len(parts) == 2 and table.name is not None and not table.name.matches(parts[0], strict=False):
            raise PolicyError(
                f"names the column {quoted('.'.join(parts))}, but the filter is on {table}; "
                "other tables are reached with a sub-select"
            )


def _check_boolean(tree: Node) -> None:
    """Refuse what cannot be a boolean, through AND, OR and NOT. What only the catalog can tell passes."""
    stack = [tree]
    while stack:
        ((name, node),) = stack.pop().items()
        if name == "BoolExpr":
            stack.extend(node.get("args", []))
        elif name == "A_Const":
            if "boolval" not in node:
                raise PolicyError("has a constant where a condition belongs; write true or false")
        elif name == "A_Expr" and node.get("kind") == "AEXPR_OP":
            operator = _strings(node.get("name", []))
            if len(operator) == 1 and operator[0] in _VALUE_OPERATORS:
                raise PolicyError(
                    f"gives a value and not a condition (operator {operator[0]}); compare it with something"
                )
        elif name == "TypeCast":
            cast = _strings(node.get("typeName", {}).get("names", []))
            if node.get("typeName", {}).get("arrayBounds") or (
                (cast[:1] == ["pg_catalog"] and cast[-1:] != ["bool"])
                or cast in (["text"], ["date"], ["uuid"])
            ):
                raise PolicyError("is cast to something other than boolean; compare it with something")
        elif name == "SubLink" and node.get("subLinkType") in {"ARRAY_SUBLINK", "MULTIEXPR_SUBLINK"}:
            raise PolicyError("gives an array and not a condition; compare it with something")
        elif name in _VALUE_NODES:
            raise PolicyError(f"gives {_VALUE_NODES[name]} and not a condition; compare it with something")
