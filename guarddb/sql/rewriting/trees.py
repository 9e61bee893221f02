"""Trees we build and compare: the snippets that edits put in, and the proof that a text means a tree."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import msgspec

from guarddb.tree import Node, below, decode, parse_json

#: Where things stand in the text; never part of what it means.
# Literal beginnings: the search for these is a memchr, and a location is by far the most frequent.
_PLACES = re.compile(r',"location":-?\d+')

_RARE_PLACES = re.compile(
    r',"(?:stmt_location|stmt_len|list_start|list_end|rexpr_list_start|rexpr_list_end|name_location|arg_location)":-?\d+'
)

_FIRST_PLACES = re.compile(
    r'\{"(?:location|stmt_location|stmt_len|list_start|list_end|rexpr_list_start|rexpr_list_end|name_location|arg_location)":-?\d+,?'
)


def same_tree(sql: str, expected: list[Node]) -> bool:
    """Whether a text parses to a tree, but for the places in the text.

    Places are cut out of the JSON of both, and the rest is compared by the interpreter's own `==`: several times faster
    than a walk. A quote inside a JSON string is always escaped, so the pattern cannot match inside one.
    """
    found = parse_json(sql)
    found = placeless(found[found.index('"stmts":') + 8 : -1])
    found = found.replace("\\u003c", "<").replace("\\u003e", ">")  # as the other encoder writes them
    wanted = placeless(msgspec.json.encode(expected).decode())
    # The texts are the same when the edits kept the parser's order of fields; otherwise the trees decide.
    return found == wanted or bool(decode(found) == decode(wanted))


#: The order in which the parser writes the fields that edits add.
_ORDER = (
    "name",
    "indirection",
    "val",
    "distinctClause",
    "intoClause",
    "targetList",
    "usingClause",
    "whereClause",
    "groupClause",
    "groupDistinct",
    "havingClause",
    "windowClause",
    "valuesLists",
    "sortClause",
    "limitOffset",
    "limitCount",
    "limitOption",
    "lockingClause",
    "returningClause",
    "withClause",
    "op",
    "all",
    "larg",
    "rarg",
    "override",
    "location",
)


def put(fields: Node, key: str, value: Any) -> None:
    """Set a field, in the place where the parser would have written it."""
    if key not in fields:
        later = frozenset(_ORDER[_ORDER.index(key) + 1 :])
        if key == "whereClause" and "relation" in fields:
            later |= {"fromClause"}  # UPDATE writes its FROM behind WHERE, SELECT before
        moved = {k: fields.pop(k) for k in list(fields) if k in later}
        fields[key] = value
        fields.update(moved)
    else:
        fields[key] = value


def placeless(text: str) -> str:
    text = _PLACES.sub("", text)
    if '{"location"' in text or '{"stmt_' in text or '{"name_location"' in text:
        text = _FIRST_PLACES.sub("{", text)
    return (
        _RARE_PLACES.sub("", text)
        if '_start":' in text or '"stmt_' in text or '_location":' in text
        else text
    )


@lru_cache(maxsize=512)
def _parse_cached(sql: str) -> Node:
    # Without places: a location in a text of ours means nothing in the agent's.
    statement: Node = decode(placeless(parse_json(sql)))["stmts"][0]["stmt"]
    return statement


def parsed(sql: str) -> Node:
    """The tree of a query we wrote. Cached and shared: it is compared and never changed in place."""
    return _parse_cached(sql)


def expression_tree(sql: str) -> Node:
    node: Node = _parse_cached(f"SELECT {sql}")["SelectStmt"]["targetList"][0]["ResTarget"]["val"]
    return node


def conjunction_of(left: Node, right: Node) -> Node:
    """`left AND right` as the grammar makes it: a conjunction on the left takes the right one in (makeAndExpr)."""
    conjunction = left.get("BoolExpr")
    if conjunction is not None and conjunction.get("boolop") == "AND_EXPR":
        return {"BoolExpr": {**conjunction, "args": [*conjunction["args"], right]}}
    return {"BoolExpr": {"boolop": "AND_EXPR", "args": [left, right]}}


def guarded(condition: Node, result: Node) -> Node:
    return {"CaseExpr": {"args": [{"CaseWhen": {"expr": condition, "result": result}}]}}


#: Where something goes in a form. A form without it has `{}` there.
HOLE = "guarddb_hole"


def around_holes(form: str) -> list[str]:
    """What stands between the holes of a form."""
    return form.split(HOLE if HOLE in form else "{}")


def substituted(form: str, node: Node) -> Node:
    """The tree of `form` with `node` in the hole."""
    if HOLE not in form:
        form = form.replace("{}", HOLE).replace("{{", "{").replace("}}", "}")
    pattern = expression_tree(form)

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            column = value.get("ColumnRef")
            if column is not None and column.get("fields", [{}])[0].get("String", {}).get("sval") == HOLE:
                return node
            return {k: fill(v) for k, v in value.items()}
        if isinstance(value, list):
            return [fill(v) for v in value]
        return value

    filled: Node = fill(pattern)
    return filled


def columns_below(node: Any) -> list[Node]:
    """The ColumnRef fields below a node."""
    return below(node, ("ColumnRef",))


#: The field of a node that is written first, where its own location is that of what stands behind it.
_FIRST = {"A_Expr": "lexpr", "BoolExpr": "args", "NullTest": "arg", "BooleanTest": "arg"}


def first_location(node: Any) -> int | None:
    """The smallest byte offset of any node below.

    >>> from guarddb.tree import parse
    >>> where = parse("SELECT 1 WHERE a + 1 = 2 AND b")[0]["stmt"]["SelectStmt"]["whereClause"]
    >>> first_location(where)
    15
    >>> first_location(parse("SELECT 1 WHERE nullif(a, b)")[0]["stmt"]["SelectStmt"]["whereClause"])
    15
    """
    while type(node) is dict and len(node) == 1:
        ((kind, fields),) = node.items()
        if kind == "ColumnRef" or kind == "A_Const":
            place: int = fields.get("location", -1)
            if place >= 0:
                return place
            break
        first = fields.get(_FIRST.get(kind, ""))
        if first is None or fields.get("boolop") == "NOT_EXPR" or fields.get("kind") == "AEXPR_NULLIF":
            break
        node = first[0] if type(first) is list else first
    best: int | None = None
    stack = [node]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            location = value.get("location")
            if location is None:
                # Zero values are left out of the JSON; nothing in an ON clause stands at the text's beginning.
                pass
            elif location >= 0 and (best is None or location < best):
                best = location
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
    return best
