"""SQL text to libpg_query's JSON tree, as plain dicts.

The tree keeps PostgreSQL's own node and field names. The JSON road is the safe one: `pglast.parse_sql` builds its node
objects by recursion in C and can overflow the stack on a long chain of operators, which kills the process; the JSON
text is written without recursion problems, and the decoder's own nesting limit turns what is left into a clean error.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any, TypeAlias

import orjson
from pglast import parser

Node: TypeAlias = dict[str, Any]

#: PgBeam's limit on the text of one evaluation, in characters.
MAX_SQL_CHARS = 100_000
#: PostgreSQL's scanner takes time with the square of the depth of /* /* */ */.
_MAX_COMMENT_DEPTH = 2_500
_COMMENT_MARKS = re.compile(r"/\*|\*/")


class SQLSyntaxError(ValueError):
    """The text is not SQL that PostgreSQL's own parser accepts (or is too large or too deep to judge).

    `position` is the 0-based offset of the fault in characters, or None; `hint` is what to do about it.
    """

    def __init__(self, message: str, position: int | None = None, hint: str = "Correct the syntax.") -> None:
        super().__init__(message)
        self.position = position
        self.hint = hint


def parse(sql: str, *, checked: bool = True) -> list[Node]:
    """The statements of `sql`, each a RawStmt dict: `{"stmt": {"SelectStmt": {...}}, "stmt_location": 0, ...}`.

    Locations in the tree are byte offsets into the UTF-8 text; zero values are left out of the JSON.

    Args:
        checked: False for a text of our own making, which may be longer than what an agent may send.

    Raises:
        SQLSyntaxError: the text does not parse, holds a NUL byte or a lone surrogate, is over `MAX_SQL_CHARS`
            characters, or nests too deeply.
    """
    if checked and len(sql) > MAX_SQL_CHARS:
        raise SQLSyntaxError(
            f"the text has {len(sql)} characters; the limit is {MAX_SQL_CHARS}", hint="Send less in one text."
        )
    if "\0" in sql:
        # libpq would cut the text at the NUL, and so would the parser: both would see less than the log does.
        raise SQLSyntaxError("the text contains a NUL byte", sql.index("\0"))
    try:
        sql.encode()
    except UnicodeEncodeError as ex:
        raise SQLSyntaxError("the text is not valid Unicode", ex.start) from None
    if checked and sql.count("/*") > _MAX_COMMENT_DEPTH and _comment_depth(sql) > _MAX_COMMENT_DEPTH:
        raise SQLSyntaxError(f"comments nest more than {_MAX_COMMENT_DEPTH} deep")
    try:
        document = decode(parse_json(sql))
    except orjson.JSONDecodeError:
        raise SQLSyntaxError("the text nests too deeply to be judged") from None
    statements: list[Node] = document.get("stmts", [])
    return statements


def _comment_depth(sql: str) -> int:
    """How deep comment openers stand inside one another, at the most; what is a string is counted as well."""
    depth = deepest = 0
    for mark in _COMMENT_MARKS.findall(sql):
        depth = depth + 1 if mark == "/*" else max(depth - 1, 0)
        deepest = max(deepest, depth)
    return deepest


def decode(text: str) -> Any:
    """JSON text as dicts and lists.

    orjson stops at 1,024 levels whatever the application made of `sys.setrecursionlimit`; decoders that ask the
    interpreter for its limit can be made to overflow the C stack, which ends the process.

    Raises:
        orjson.JSONDecodeError: it nests more deeply.
    """
    return orjson.loads(text)


def parse_json(sql: str) -> str:
    """The parser's JSON, as text.

    Raises:
        SQLSyntaxError: the text does not parse.
    """
    try:
        text: str = parser.parse_sql_json(sql)
    except parser.ParseError as ex:
        position = ex.args[1] if len(ex.args) > 1 and isinstance(ex.args[1], int) else None
        raise SQLSyntaxError(str(ex.args[0]), position) from None
    except RecursionError:
        raise SQLSyntaxError("the text nests too deeply to be judged") from None
    return text


def nodes(root: Any) -> Iterator[tuple[str, Node]]:
    """Every node below `root` as (node name, its fields), parents before children, iteratively.

    A typed field that is not wrapped (a RangeVar in `InsertStmt.relation`) is yielded under its field name.
    """
    stack: list[tuple[str, Any]] = [("", root)]
    while stack:
        name, value = stack.pop()
        if isinstance(value, dict):
            yield name, value
            stack.extend(reversed(value.items()))
        elif isinstance(value, list):
            stack.extend((name, item) for item in reversed(value))


#: Nodes that hold no other node but a String.
_LEAVES = frozenset(("ColumnRef", "A_Const", "ParamRef", "String"))


def below(root: Any, names: Collection[str], but: Collection[str] = ()) -> list[Node]:
    """The fields of every node below `root` of one of these names, those inside another of them included; in no order.

    Cheaper than `nodes`, for it looks into no leaf.

    Args:
        but: names of nodes, and of fields, that it does not look into either.

    >>> calls = below(parse("SELECT f(g(a)), (SELECT h())"), ("FuncCall",), but=("SubLink",))
    >>> [call["funcname"][0]["String"]["sval"] for call in calls]
    ['f', 'g']
    """
    found: list[Node] = []
    stack: list[Any] = [root]
    while stack:
        value = stack.pop()
        if type(value) is dict:
            for name, fields in value.items():
                if name in names:
                    found.append(fields)
                if (type(fields) is dict and name not in _LEAVES and name not in but) or (
                    type(fields) is list and name not in but
                ):
                    stack.append(fields)
        elif type(value) is list or type(value) is tuple:
            stack += value
    return found
