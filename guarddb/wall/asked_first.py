"""A filter in a form that PostgreSQL asks before anything that the agent writes.

Of the conditions on a table PostgreSQL asks the cheaper ones first, and those of a policy and the agent's own in one order, if
the agent's count as leakproof. They do count as such and raise nevertheless: where two collations conflict, and where they take
a value from a sub-select or a parameter, which is computed when it is first needed: `CASE WHEN name = ANY ('{x}') THEN
(SELECT 1 / count(*) = 1 FROM t WHERE false) END` fails where a hidden row has that name, and costs half an operator. An equality
is asked last of all, for it may follow from others. So a filter is written in forms that cost no more than that, and of two that
cost the same the policy's comes first:

- An equality stays, for indexes give an order within it, and a look-up beside it hides the rows: of an integer in an array and
  of a text among the keys of a jsonb, which PostgreSQL takes to cost nothing; of anything else a membership in an array of one,
  which is half an operator. `IS NOT NULL` keeps the estimate: 0.995.
- Any other comparison stays as it is. It costs an operator, and as a membership it would cost half of one: that is slower for
  each row, and looking a column up, which an agent can do as well, would still come before it.
- What is a flag by itself, or a test for NULL, costs nothing already.
- Beside an OR of equalities of integers and texts, flags and tests for NULL stands the same OR of look-ups.

What costs something is asked after what costs nothing, and an agent's conditions may cost nothing too: flags, tests for NULL,
look-ups of the same kind.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import NamedTuple

from pglast import parser

from guarddb.facts.functions import builtin_operator, builtin_type
from guarddb.sql.names import literal, quote, string_list
from guarddb.tree import Node, nodes, parse
from guarddb.wall.database import Column
from guarddb.wall.operands import TYPE_NAMES

_MIRRORED = {"=": "=", "<": ">", ">": "<", "<=": ">=", ">=": "<=", "<>": "<>"}
#: Types that text is read as in one way only.
_READ_FROM_TEXT = frozenset(("int2", "int4", "int8", "numeric", "bool", "uuid", "text"))
_INTEGERS = frozenset(("int2", "int4", "int8"))
#: Entries of what integers and texts are looked up in.
_MOST_ENTRIES = 100
_LARGEST = 2**31 - 2


class Cost(IntEnum):
    """What PostgreSQL takes a condition to cost, in halves of an operator."""

    NOTHING = 0
    HALF = 1
    OPERATOR = 2
    MORE = 3


class Asked(NamedTuple):
    """A filter as it is written. `cost`: that of the most expensive of its parts; `single`: an index finds the rows of it by one
    condition, or by several of which any will do.
    """

    text: str
    cost: Cost
    single: bool


class _Form(NamedTuple):
    """A part as it is written, and what it costs."""

    text: str
    cost: Cost


def asked_first(text: str, columns: Iterable[Column]) -> Asked:
    """A filter with each of its ANDed parts in such a form where there is one.

    >>> tenant = Column("tenant", 1, "integer", "int4", "N")
    >>> kind = Column("kind", 2, "text", "text", "S")
    >>> asked_first("tenant < 3 AND kind > 'a'::text", [tenant, kind])
    Asked(text="(tenant < 3) AND (kind > 'a'::text)", cost=<Cost.OPERATOR: 2>, single=False)
    >>> asked_first("tenant = 1", [tenant])[1:]
    (<Cost.NOTHING: 0>, True)
    >>> asked_first("tenant = 1", [tenant]).text
    '("tenant" = \\'1\\'::"int4" AND (((\\'[1:1]={t}\\'::pg_catalog.bool[])["tenant"]) IS NOT NULL))'
    >>> asked_first("tenant = 1 OR kind IS NULL", [tenant, kind]).text
    '((tenant = 1 OR kind IS NULL) AND ((((\\'[1:1]={t}\\'::pg_catalog.bool[])["tenant"]) IS NOT NULL OR "kind" IS NULL)))'
    >>> asked_first("tenant = 1 OR kind LIKE 'a%'", [tenant, kind])
    Asked(text="(tenant = 1 OR kind LIKE 'a%')", cost=<Cost.MORE: 3>, single=True)
    """
    by_name = {column.name: column for column in columns}
    found = _parts(text)
    forms = [_form(part, tree, by_name) for part, tree in found]
    return Asked(
        " AND ".join(f"({form.text})" for form in forms),
        max(form.cost for form in forms),
        len(found) == 1 and _is_single(found[0][1]),
    )


def _is_single(tree: Node) -> bool:
    """Whether nothing in a condition holds only together with something else."""
    if "BoolExpr" in tree:
        return tree["BoolExpr"]["boolop"] == "OR_EXPR" and all(map(_is_single, tree["BoolExpr"]["args"]))
    return "BETWEEN" not in tree.get("A_Expr", {}).get("kind", "")


# ---------------------------------------------------------------------- what is ANDed


def _parts(text: str) -> list[tuple[str, Node]]:
    """The parts that AND joins, each with its tree."""
    tree = _tree(text)
    if tree.get("BoolExpr", {}).get("boolop") != "AND_EXPR":
        return [(text, tree)]
    tokens = _tokens(text)
    cuts, depth, between = [], 0, False
    for token in tokens:
        depth += {"ASCII_40": 1, "ASCII_91": 1, "ASCII_41": -1, "ASCII_93": -1, "CASE": 1, "END_P": -1}.get(
            token.name, 0
        )
        if depth == 0 and token.name == "BETWEEN":
            between = True
        elif depth == 0 and token.name == "AND":
            if not between:
                cuts.append(token)
            between = False
    if not cuts:
        # It is in parentheses as a whole.
        if tokens[0].name == "ASCII_40" and tokens[-1].name == "ASCII_41":
            return _parts(text[tokens[0].end + 1 : tokens[-1].start])
        return [(text, tree)]
    starts = [0, *(token.end + 1 for token in cuts)]
    ends = [*(token.start for token in cuts), len(text)]
    pieces = [text[start:end].strip() for start, end in zip(starts, ends, strict=True)]
    return [part for piece in pieces for part in _parts(piece)]


def _tokens(text: str) -> list[parser.Token]:
    return [t for t in parser.scan(text) if t.name not in ("SQL_COMMENT", "C_COMMENT")]


def _tree(text: str) -> Node:
    statement = parse(f"SELECT {text}", checked=False)[0]
    target: Node = statement["stmt"]["SelectStmt"]["targetList"][0]["ResTarget"]["val"]
    return target


# ---------------------------------------------------------------------- one of them


def _form(text: str, tree: Node, columns: Mapping[str, Column]) -> _Form:
    """The form that a part is asked first in, or else the part as it is."""
    if _costs_nothing(tree, columns):
        return _Form(text, Cost.NOTHING)
    as_it_is = _Form(text, Cost.MORE)
    if tree.get("BoolExpr", {}).get("boolop") == "OR_EXPR":
        found = _for_nothing(tree, columns)
        return as_it_is if found is None else _Form(f"({text}) AND ({found})", Cost.NOTHING)
    comparison = tree.get("A_Expr")
    if comparison is None or "lexpr" not in comparison or "rexpr" not in comparison:
        return as_it_is
    names = string_list(comparison.get("name", ()))
    left, right, how = comparison["lexpr"], comparison["rexpr"], comparison.get("kind", "AEXPR_OP")
    if how == "AEXPR_OP" and len(names) == 1 and names[0] in _MIRRORED:
        operator = names[0]
        if _column(left, columns) is None:
            operator, left, right = _MIRRORED[operator], right, left
        column = _column(left, columns)
        if column is None:
            return as_it_is
        if operator == "=":
            return _equal(text, left, column, [right]) or as_it_is
        return _compared(text, left, column, operator, right) or as_it_is
    column = _column(left, columns)
    if column is None or "List" not in right:
        return as_it_is
    items = right["List"]["items"]
    if how == "AEXPR_IN" and names == ["="]:
        return _equal(text, left, column, items) or as_it_is
    if how == "AEXPR_BETWEEN" and all(
        (constant := _constant(item)) is not None and _is_compared(column, operator, constant[1])
        for operator, item in zip((">=", "<="), items, strict=True)
    ):
        return _Form(text, Cost.OPERATOR)
    return as_it_is


def _costs_nothing(tree: Node, columns: Mapping[str, Column]) -> bool:
    """A flag as it is, not, or compared with true; a test for NULL."""
    for kind in ("NullTest", "BooleanTest"):
        if kind in tree:
            return _column(tree[kind]["arg"], columns) is not None
    if tree.get("BoolExpr", {}).get("boolop") == "NOT_EXPR":
        return _costs_nothing(tree["BoolExpr"]["args"][0], columns)
    comparison = tree.get("A_Expr", {})
    if comparison.get("kind") == "AEXPR_OP" and string_list(comparison.get("name", ())) == ["="]:
        constant = comparison.get("rexpr", {}).get("A_Const", {})
        return "boolval" in constant and _costs_nothing(comparison["lexpr"], columns)
    column = _column(tree, columns)
    return column is not None and column.type_name == "bool"


def _for_nothing(tree: Node, columns: Mapping[str, Column]) -> str | None:
    """What is true where a condition is, and costs nothing; None where that cannot be said."""
    conjunction = tree.get("BoolExpr", {})
    if conjunction.get("boolop") in ("OR_EXPR", "AND_EXPR"):
        word = " OR " if conjunction["boolop"] == "OR_EXPR" else " AND "
        parts = [_for_nothing(part, columns) for part in conjunction["args"]]
        return None if None in parts else "(" + word.join(str(part) for part in parts) + ")"
    if _costs_nothing(tree, columns):
        return _flag(tree)
    comparison = tree.get("A_Expr", {})
    if string_list(comparison.get("name", ())) != ["="] or "lexpr" not in comparison:
        return None
    left, right, how = comparison["lexpr"], comparison["rexpr"], comparison.get("kind", "AEXPR_OP")
    if how == "AEXPR_IN":
        items = right["List"]["items"]
    elif how == "AEXPR_OP":
        left, items = (left, [right]) if _column(left, columns) is not None else (right, [left])
    else:
        return None
    column = _column(left, columns)
    found = _entry(left, column, items) if column is not None else None
    return None if found is None else f"({found}) IS NOT NULL"


def _flag(tree: Node) -> str:
    """What costs nothing, as SQL."""
    if "NullTest" in tree:
        test = tree["NullTest"]
        return f"{_name(test['arg'])} IS {'NOT ' * (test.get('nulltesttype') == 'IS_NOT_NULL')}NULL"
    if "BooleanTest" in tree:
        test = tree["BooleanTest"]
        return f"{_name(test['arg'])} {test.get('booltesttype', 'IS_TRUE').replace('_', ' ')}"
    if "BoolExpr" in tree:
        return f"NOT {_flag(tree['BoolExpr']['args'][0])}"
    if "A_Expr" in tree:
        value = tree["A_Expr"]["rexpr"]["A_Const"]["boolval"].get("boolval", False)
        return f"{'' if value else 'NOT '}{_flag(tree['A_Expr']['lexpr'])}"
    return _name(tree)


def _column(tree: Node, columns: Mapping[str, Column]) -> Column | None:
    """The column that an expression is, of a type that has an array and operators of PostgreSQL's own."""
    parts = string_list(tree.get("ColumnRef", {}).get("fields", ()))
    column = columns.get(parts[-1]) if 0 < len(parts) <= 2 else None
    return column if column is not None and (column.type_name or column.category == "E") else None


def _name(tree: Node) -> str:
    return ".".join(quote(part) for part in string_list(tree["ColumnRef"]["fields"]))


def _equal(text: str, left: Node, column: Column, items: list[Node]) -> _Form | None:
    """An equality, or IN, and a look-up beside it."""
    found, cost = _entry(left, column, items), Cost.NOTHING
    if found is None:
        member = _member(text, left, column, items[0]) if len(items) == 1 else None
        if member is None:
            return None
        found, cost = f"CASE WHEN {member} THEN 1 END", Cost.HALF
    constant = _constant(items[0]) if len(items) == 1 else None
    if constant is not None and constant[1] is not None:
        text = f"{_name(left)} = {literal(constant[0])}::{quote(constant[1])}"
    elif len(items) > 1:
        text = f"({text})"
    return _Form(f"{text} AND (({found}) IS NOT NULL)", cost)


def _entry(left: Node, column: Column, items: list[Node]) -> str | None:
    """What is not NULL where a column has one of some values, and is looked up for nothing."""
    values = [_integer(item) for item in items] if column.type_name == "int4" else [None]
    numbers = [value for value in values if value is not None and abs(value) < _LARGEST]
    if len(numbers) == len(values) and max(numbers) - min(numbers) < _MOST_ENTRIES:
        low, high = min(numbers), max(numbers)
        entries = ",".join("t" if number in numbers else "NULL" for number in range(low, high + 1))
        return f"('[{low}:{high}]={{{entries}}}'::pg_catalog.bool[])[{_name(left)}]"
    if (texts := _texts(column, items)) is not None:
        document = json.dumps(dict.fromkeys(texts, 1), ensure_ascii=False)
        return f"({literal(document).strip()}::pg_catalog.jsonb)[{_name(left)}]"
    return None


def _texts(column: Column, items: list[Node]) -> list[str] | None:
    """The texts that a column is compared with byte for byte: all there are, but under a collation that may say otherwise."""
    if (
        column.type_name not in ("text", "varchar")
        or column.collation is not None
        or len(items) > _MOST_ENTRIES
    ):
        return None
    constants = [_constant(item) for item in items]
    values = [c[0] for c in constants if c is not None and c[1] in (None, "text", "varchar")]
    return values if len(values) == len(items) else None


def _member(text: str, left: Node, column: Column, right: Node) -> str | None:
    """An equality as a membership in an array of one, where no cast of the column is needed for it."""
    element = _constant_element(right)
    if element is None:
        once = _asked_once(text, right)
        element = once and (f"ARRAY[{once[0]}]", once[1])
    if element is None or not _is_compared(column, "=", element[1]):
        return None
    return f"{_name(left)} = ANY ({element[0]})"


def _compared(text: str, left: Node, column: Column, operator: str, right: Node) -> _Form | None:
    """Another comparison, where it costs no more than its operator."""
    constant = _constant(right)
    if constant is not None:
        return _Form(text, Cost.OPERATOR) if _is_compared(column, operator, constant[1]) else None
    once = _asked_once(text, right)
    if once is None or not _is_compared(column, operator, once[1]):
        return None
    return _Form(f"{_name(left)} {operator} {once[0]}", Cost.OPERATOR)


def _is_compared(column: Column, operator: str, type_: str | None) -> bool:
    """Whether a column is compared with something of a type without a cast. None: a text that becomes what is needed."""
    mine = "text" if column.type_name == "varchar" else column.type_name or "anyenum"
    theirs = "text" if type_ == "varchar" else type_ or mine
    return column.category != "A" and any(
        fact.left == mine and fact.right == theirs for fact in builtin_operator(operator)
    )


# ---------------------------------------------------------------------- what it is compared with


def _constant_element(tree: Node) -> tuple[str, str | None] | None:
    """An array of one constant as SQL, and its type; None for the type: that of what it is compared with."""
    constant = _constant(tree)
    if constant is None:
        return None
    value, type_ = constant
    # As a constant of its own: PostgreSQL would compute ARRAY[…] each time that it plans.
    entry = value if type_ in _NUMBERS else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    cast = "" if type_ is None else f"::{quote(type_)}[]"
    return f"{literal('{' + entry + '}').strip()}{cast}", type_


def _asked_once(text: str, tree: Node) -> tuple[str, str] | None:
    """The user's name, or a setting of the login, as SQL, and its type: in a sub-select, which is computed once a statement, with
    its casts, which would count for each row."""
    type_, inner = None, tree
    while "TypeCast" in inner:
        target = _cast_to(inner["TypeCast"]["typeName"])
        if target is None:
            return None
        type_, inner = type_ or target, inner["TypeCast"]["arg"]
    if any(kind in ("ColumnRef", "RangeVar") for kind, _ in nodes(tree)):
        return None
    tokens = _tokens(text)
    place = 3 if len(tokens) > 1 and tokens[1].name == "ASCII_46" else 1
    right = text[tokens[place].end + 1 :].strip()
    if "SQLValueFunction" in inner:
        return f"(SELECT {right})", type_ or "name"
    if "SubLink" not in inner or not right.startswith("("):
        return None
    closing, depth = 0, 0
    for token in tokens[place + 1 :]:
        depth += {"ASCII_40": 1, "ASCII_41": -1}.get(token.name, 0)
        if depth == 0:
            closing = token.start - len(text) + len(text[tokens[place].end + 1 :].lstrip())
            break
    return f"{right[:closing]}{right[closing + 1 :]})", type_ or "text"


_NUMBERS = frozenset(("int2", "int4", "int8", "numeric"))


def _constant(tree: Node) -> tuple[str, str | None] | None:
    """The value of a constant, as its type prints it, and the type; None for a text that may still become any."""
    if "A_Const" in tree:
        constant = tree["A_Const"]
        if "sval" in constant:
            return str(constant["sval"].get("sval", "")), None
        return _number(tree)
    if (
        "A_Expr" in tree
        and string_list(tree["A_Expr"].get("name", ())) == ["-"]
        and "lexpr" not in tree["A_Expr"]
    ):
        number = _number(tree["A_Expr"]["rexpr"])
        return None if number is None or number[0].startswith("-") else (f"-{number[0]}", number[1])
    if "TypeCast" in tree:
        inner, target = _constant(tree["TypeCast"]["arg"]), _cast_to(tree["TypeCast"]["typeName"])
        if inner is None or target is None:
            return None
        value, type_ = inner
        if type_ is None or (type_ == "text" and target in _READ_FROM_TEXT):
            return value, target
        return (value, target) if type_ in _INTEGERS and target in _NUMBERS else None
    return None


def _number(tree: Node) -> tuple[str, str] | None:
    constant = tree.get("A_Const", {})
    if "ival" in constant:
        return str(constant["ival"].get("ival", 0)), "int4"
    if "fval" in constant:
        value = str(constant["fval"].get("fval", ""))
        large = value.isdigit() and int(value) < 2**63
        return value, "int8" if large else "numeric"
    return None


def _integer(tree: Node) -> int | None:
    constant = _constant(tree)
    if constant is None or constant[1] not in (None, "int2", "int4"):
        return None
    try:
        return int(constant[0])
    except ValueError:
        return None


def _cast_to(target: Node) -> str | None:
    """The type that a cast names, if it is one of PostgreSQL's own, without a length."""
    *schema, name = string_list(target.get("names", ()))
    name = TYPE_NAMES.get(name, name)
    if schema not in ([], ["pg_catalog"]) or "arrayBounds" in target or "typmods" in target:
        return None
    return name if builtin_type(name) is not None else None
