"""Small readings of the tree: lists of strings, the name PostgreSQL gives an unnamed output, the name of a type."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from guarddb.tree import Node, below


def string_list(nodes: Iterable[Node]) -> list[str]:
    """The strings of a list of String nodes."""
    return [node["String"]["sval"] for node in nodes if "String" in node]


def columns_in(node: Any) -> set[int]:
    """The ids of the ColumnRef fields below a node, sub-selects included."""
    return {id(column) for column in below(node, ("ColumnRef",))}


def holds_sublink(node: Any) -> bool:
    """Whether a sub-select stands below a node."""
    return bool(below(node, ("SubLink",)))


def sub_selects(node: Any) -> list[Node]:
    """The fields of every sub-select below a node, but those inside another."""
    found: list[Node] = []
    stack = [node]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            if "subselect" in value:
                found += value["subselect"].values()
            stack.extend(child for key, child in value.items() if key != "subselect")
        elif isinstance(value, list):
            stack.extend(value)
    return found


def calls_in(node: Any) -> list[str]:
    """The names of the functions called below a node, without their schemas."""
    return [string_list(call["funcname"])[-1] for call in below(node, ("FuncCall",))]


def quote(identifier: str) -> str:
    """An identifier in double quotes."""
    return '"' + identifier.replace('"', '""') + '"'


def quote_qualified(schema: str, name: str) -> str:
    """A name with its schema, both in double quotes (quote_qualified_identifier)."""
    return f"{quote(schema)}.{quote(name)}"


def literal(value: str) -> str:
    """A string constant that means the same whatever standard_conforming_strings says."""
    text = "'" + value.replace("'", "''") + "'"
    return " E" + text.replace("\\", "\\\\") if "\\" in value else text


def type_name(fields: Node) -> tuple[str | None, str] | None:
    """(schema or None, name) of a TypeName."""
    names = string_list(fields.get("names", ()))
    if not names:
        return None
    return (names[-2] if len(names) > 1 else None), names[-1]


_FIXED_NAMES = {
    "A_ArrayExpr": "array",
    "CaseExpr": "case",
    "CoalesceExpr": "coalesce",
    "RowExpr": "row",
    "GroupingFunc": "grouping",
    "MergeSupportFunc": "merge_action",
    "JsonObjectConstructor": "json_object",
    "JsonArrayConstructor": "json_array",
    "JsonArrayQueryConstructor": "json_array",
    "JsonObjectAgg": "json_objectagg",
    "JsonArrayAgg": "json_arrayagg",
    "JsonParseExpr": "json",
    "JsonScalarExpr": "json_scalar",
    "JsonSerializeExpr": "json_serialize",
    "XmlSerialize": "xmlserialize",
}
_SUBLINK_NAMES = {"EXISTS_SUBLINK": "exists", "ARRAY_SUBLINK": "array"}
_JSON_NAMES = {"JSON_EXISTS_OP": "json_exists", "JSON_QUERY_OP": "json_query", "JSON_VALUE_OP": "json_value"}
_XML_NAMES = {
    "IS_XMLCONCAT": "xmlconcat",
    "IS_XMLELEMENT": "xmlelement",
    "IS_XMLFOREST": "xmlforest",
    "IS_XMLPARSE": "xmlparse",
    "IS_XMLPI": "xmlpi",
    "IS_XMLROOT": "xmlroot",
}


def column_name(node: Node) -> str:
    """The name that PostgreSQL gives an output without AS (FigureColname in parse_target.c)."""
    return _figure(node)[0] or "?column?"


def _figure(node: Node) -> tuple[str | None, int]:
    ((kind, fields),) = node.items()
    if kind == "ColumnRef":
        names = string_list(fields["fields"])
        return (names[-1], 2) if names and "String" in fields["fields"][-1] else (None, 0)
    if kind == "A_Indirection":
        names = string_list(fields.get("indirection", ()))
        return (names[-1], 2) if names else _figure(fields["arg"])
    if kind == "FuncCall":
        return string_list(fields["funcname"])[-1], 2
    if kind == "A_Expr" and fields.get("kind") == "AEXPR_NULLIF":
        return "nullif", 2
    if kind == "TypeCast":
        name, strength = _figure(fields["arg"])
        if strength <= 1 and (found := type_name(fields["typeName"])) is not None:
            return found[1], 1
        return name, strength
    if kind == "CollateClause":
        return _figure(fields["arg"])
    if kind == "SubLink":
        sublink = fields.get("subLinkType", "EXISTS_SUBLINK")
        if sublink in _SUBLINK_NAMES:
            return _SUBLINK_NAMES[sublink], 2
        if sublink == "EXPR_SUBLINK":
            return _subselect_name(fields["subselect"])
        return None, 0
    if kind == "CaseExpr":
        name, strength = _figure(fields["defresult"]) if "defresult" in fields else (None, 0)
        return (name, strength) if strength > 1 else ("case", 1)
    if kind == "MinMaxExpr":
        return ("greatest" if fields.get("op", "IS_GREATEST") == "IS_GREATEST" else "least"), 2
    if kind == "SQLValueFunction":
        name = fields.get("op", "SVFOP_CURRENT_DATE").removeprefix("SVFOP_").removesuffix("_N").lower()
        return name, 2
    if kind == "XmlExpr":
        return _XML_NAMES.get(fields.get("op", "IS_XMLCONCAT")), 2
    if kind == "JsonFuncExpr":
        return _JSON_NAMES.get(fields.get("op", "JSON_EXISTS_OP")), 2
    if kind in _FIXED_NAMES:
        return _FIXED_NAMES[kind], 2
    return None, 0


def _subselect_name(subselect: Node) -> tuple[str | None, int]:
    fields = subselect.get("SelectStmt", {})
    while "larg" in fields:
        fields = fields["larg"]
    # PostgreSQL takes the name the inner target list has by then, and takes it for a strong one, "?column?" as well.
    if fields.get("valuesLists"):
        return "column1", 2
    targets = fields.get("targetList", ())
    if not targets:
        return None, 0
    target = targets[0]["ResTarget"]
    if "name" in target:
        return target["name"], 2
    return _figure(target["val"])[0] or "?column?", 2
