"""The type of what stands in FROM in the syntax of a function: its columns follow from that.

`CAST(x AS t)`, `COALESCE(…)`, `NULLIF(…)` and the functions whose result has the type of an argument (unnest,
jsonb_populate_record). A type is its qualified name, a domain's as it is; an array is its element's with `[]` behind it. None
means that nobody can tell, and then any name may be a column of the item.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from guarddb.facts import functions
from guarddb.sql.catalog import Catalog
from guarddb.sql.names import string_list, type_name
from guarddb.tree import Node

#: A string constant or NULL: it takes the type of what stands beside it.
UNKNOWN = "pg_catalog.unknown"
#: Types of results that may have columns of their own: which, the call decides.
POLYMORPHIC = frozenset(
    ("record", "anyelement", "anynonarray", "anycompatible", "anycompatiblenonarray", "any")
)
#: Of an argument declared so, the result that is declared `anyelement` or `anycompatible` has the type, or the element's.
_SAME = frozenset(("anyelement", "anynonarray", "anycompatible", "anycompatiblenonarray"))
_ELEMENT = frozenset(("anyarray", "anycompatiblearray"))
_CONSTANTS = {"ival": "int4", "boolval": "bool", "bsval": "bit"}


class ItemTypes:
    """`column_type` gives the type of a ColumnRef, by its fields, or None."""

    def __init__(self, catalog: Catalog | None, column_type: Callable[[Node], str | None]) -> None:
        self.catalog = catalog
        self.column_type = column_type

    def of(self, node: Node) -> str | None:
        """The type of an expression, or None."""
        ((kind, fields),) = node.items()
        if kind == "A_Const":
            if "sval" in fields or "isnull" in fields:
                return UNKNOWN
            return f"pg_catalog.{next((t for key, t in _CONSTANTS.items() if key in fields), 'numeric')}"
        if kind == "ColumnRef":
            return self.column_type(fields)
        if kind == "TypeCast":
            return self.named(fields["typeName"])
        if kind in ("CoalesceExpr", "MinMaxExpr"):
            return self._common(fields.get("args", ()))
        if kind == "A_Expr" and fields.get("kind") == "AEXPR_NULLIF":
            first = self.of(fields["lexpr"])
            # The operator decides what becomes of a constant.
            return None if first == UNKNOWN else first
        if kind == "A_ArrayExpr":
            element = self._common(fields.get("elements", ()))
            return f"{element}[]" if element is not None and not element.endswith("[]") else element
        if kind == "FuncCall":
            return self._call(fields)
        return None

    def named(self, fields: Node) -> str | None:
        """The type that a TypeName means."""
        names = type_name(fields)
        if names is None or fields.get("setof") or fields.get("pct_type"):
            return None
        found = self.catalog.type_named(*names) if self.catalog is not None else None
        if found is not None:
            name = f"{found.schema}.{found.name}"
        elif names[0] in (None, "pg_catalog") and functions.builtin_type(names[1]) is not None:
            name = f"pg_catalog.{names[1]}"
        elif fields.get("arrayBounds"):
            name = f"{names[0] or '?'}.{names[1]}"  # whatever it is, an array is one column
        else:
            return None
        return f"{name}[]" if fields.get("arrayBounds") else self.of_attribute(name)

    def of_attribute(self, name: str) -> str:
        """A type as the catalog names it, arrays as they are written here."""
        schema, _, short = name.partition(".")
        if short.startswith("_"):
            if schema == "pg_catalog" and functions.builtin_type(short[1:]) is not None:
                return f"{name.replace('._', '.', 1)}[]"
            found = self.catalog.type_named(schema, short[1:]) if self.catalog is not None else None
            if found is not None:
                return f"{found.schema}.{found.name}[]"
        return name

    def _common(self, nodes: Sequence[Node]) -> str | None:
        """What COALESCE and ARRAY make of several, where that needs no rule of conversion (select_common_type)."""
        known: set[str] = set()
        for node in nodes:
            if (type_ := self.of(node)) is None:
                return None
            known.add(type_)
        known.discard(UNKNOWN)
        if not known:
            return "pg_catalog.text"
        if len(known) == 1 or all(map(_is_built_in_scalar, known)):
            return min(known)  # (of several, some scalar type comes out, or an error)
        return None

    def _call(self, fields: Node) -> str | None:
        *schema, name = string_list(fields["funcname"])
        if schema not in ([], ["pg_catalog"]) or "over" in fields or fields.get("func_variadic"):
            return None
        if not schema and self.catalog is not None and self.catalog.functions_named(name, None):
            return None
        arguments = fields.get("args", ())
        if any("NamedArgExpr" in argument for argument in arguments):
            return None
        types = [self.of(argument) for argument in arguments]
        candidates = [o for o in functions.builtin(name) if o.takes(len(types)) and _fits(types, o.arguments)]
        if len(candidates) != 1 or (only := candidates[0]).output_names:
            return None
        if only.returns not in POLYMORPHIC:
            return f"pg_catalog.{only.returns}"
        for type_, declared in zip(types, only.arguments, strict=False):
            if declared in _SAME | _ELEMENT and only.returns in _SAME:
                if type_ is None or type_ == UNKNOWN or (declared in _ELEMENT and not type_.endswith("[]")):
                    return None
                return type_.removesuffix("[]") if declared in _ELEMENT else type_
        return None


def _fits(types: Sequence[str | None], declared: Sequence[str]) -> bool:
    """Whether a function may be meant: an array goes where an array is asked for, or anything."""
    return all(
        type_ is None
        or not type_.endswith("[]")
        or wanted in _SAME | _ELEMENT
        or wanted[0] == "_"
        or wanted == "any"
        for type_, wanted in zip(types, declared, strict=False)
    )


def _is_built_in_scalar(type_: str) -> bool:
    schema, _, name = type_.partition(".")
    return schema == "pg_catalog" and name not in POLYMORPHIC
