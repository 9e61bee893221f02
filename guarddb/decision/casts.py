"""Casts, judged by the types on both sides, and the CHECKs of the domains that a value is cast to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from guarddb.decision.admitted import not_allowed, qualified_admitted
from guarddb.decision.case import Case
from guarddb.decision.operators import types_present
from guarddb.decision.refusal import Refusal
from guarddb.facts import functions as facts
from guarddb.sql.catalog import Cast, Catalog
from guarddb.sql.leakproof.judge import Judge
from guarddb.sql.leakproof.types import UNKNOWN, Type
from guarddb.sql.names import string_list
from guarddb.sql.statement import Call, Statement
from guarddb.tree import Node, nodes


def casts(case: Case) -> Refusal | None:
    """The first cast that calls a function the profile does not admit, or that nobody can judge.

    With `CREATE CAST (int AS wrapped) WITH FUNCTION f(int)`: `1::wrapped` -> refused; `'(1)'::wrapped` -> passes
    """
    catalog = case.catalog
    if catalog is None:
        return _unknown_types(case.statement)
    checks, refused = _not_admitted(case, catalog)
    found: str | None = None
    if checks:
        found = _checks(case.statement, catalog, checks)
    if found is None and refused:
        found = _by_name(case.statement, catalog, refused) or _unsaid(case.statement, catalog, refused)
    return (
        not_allowed(Call(None, found, 1, None, how="cast"), found, case.policy) if found is not None else None
    )


def _unknown_types(statement: Statement) -> Refusal | None:
    for use in statement.types:
        if use.schema in (None, "pg_catalog") and (
            facts.builtin_type(use.name) is not None or use.name in facts.SERIAL
        ):
            continue
        shown = f"{use.schema}.{use.name}" if use.schema else use.name
        return Refusal(
            "function_not_allowed",
            f'type "{shown}" is not a built-in one, and without a catalog nobody can say what a cast to it runs',
            "Cast to a built-in type, or evaluate with the database's catalog.",
        )
    return None


def _not_admitted(case: Case, catalog: Catalog) -> tuple[list[str], list[Cast]]:
    """The functions of domains' CHECKs and the casts that the agent may not call; worked out once a catalog."""
    governance, policy = case.governance, case.policy
    if governance.type_hazards is None:
        checks = [
            c for t in catalog.types for c in t.check_functions if not qualified_admitted(c, policy, catalog)
        ]
        refused = [
            cast
            for cast in catalog.casts
            if cast.function is not None and not qualified_admitted(cast.function, policy, catalog)
        ]
        governance.type_hazards = (checks, refused)
    return governance.type_hazards


def _checks(statement: Statement, catalog: Catalog, checks: list[str]) -> str | None:
    """The function behind the CHECK of a domain that is cast to, or is inside of what is: a row, an array, a range."""
    for use in statement.types:
        found = catalog.type_named(use.schema, use.name)
        if found is None and use.schema in (None, "pg_catalog") and facts.builtin_type(use.name) is not None:
            continue
        qualified = (
            f"{found.schema}.{found.name}" if found is not None else f"{use.schema or 'public'}.{use.name}"
        )
        guilty = _guilty((qualified,), catalog, checks)
        if guilty is not None:
            return guilty
    if any(call.name in _POPULATES for call in statement.calls):
        return _guilty(types_present(statement, catalog), catalog, checks)
    return None


def _guilty(types: Iterable[Type], catalog: Catalog, checks: list[str]) -> str | None:
    for type_ in types:
        for inside in catalog.types_inside(type_):
            known = catalog.type_named(*inside.split(".", 1))
            for check in known.check_functions if known is not None else ():
                if check in checks:
                    return check
    return None


#: They make rows of a type that comes with a value: its domains' CHECKs run.
_POPULATES = frozenset(
    (
        "json_populate_record",
        "jsonb_populate_record",
        "json_populate_recordset",
        "jsonb_populate_recordset",
        "jsonb_populate_record_valid",
    )
)


def _by_name(statement: Statement, catalog: Catalog, refused: list[Cast]) -> str | None:
    """The function of a cast that the text asks for: `x::t`, `CAST (x AS t)`, `t(x)`."""
    judge: Judge | None = None
    for target, argument in _named(statement, catalog):
        wanted = [cast for cast in refused if cast.target == target]
        if not wanted:
            continue
        judge = judge or Judge(statement, catalog, undeclared=None)
        given = judge.condition(argument).type if argument is not None else None
        if given == UNKNOWN:
            if argument is not None and "A_Const" in argument:
                continue  # a constant is read by the type's own input function
            given = None
        for cast in wanted:
            if given is None or cast.source in (given, judge.types.element_of(given)):
                return cast.function
    return None


def _named(statement: Statement, catalog: Catalog) -> Iterator[tuple[Type, Node | None]]:
    """Each type that something is cast to, and what is."""
    for kind, node in nodes(statement.fields):
        if kind == "TypeCast":
            parts = string_list(node.get("typeName", {}).get("names", ()))
            argument: Node | None = node.get("arg")
        elif kind == "FuncCall" and len(node.get("args", ())) == 1:
            parts, argument = string_list(node.get("funcname", ())), node["args"][0]
        else:
            continue
        if not parts:
            continue
        schema, name = (parts[-2] if len(parts) > 1 else None), parts[-1]
        known = catalog.type_named(schema, name)
        if known is not None:
            yield f"{known.schema}.{known.name}", argument
            if known.kind == "d":
                yield known.base_type, argument
        elif schema in (None, "pg_catalog") and facts.builtin_type(name) is not None:
            yield f"pg_catalog.{name}", argument


def _unsaid(statement: Statement, catalog: Catalog, refused: list[Cast]) -> str | None:
    """The function of a cast that is called where nothing in the text shows it: implicit ones, those of an assignment, and
    those to JSON."""
    named = {
        f"{known.schema}.{known.name}" if known is not None else f"{use.schema or 'pg_catalog'}.{use.name}"
        for use in statement.types
        for known in (catalog.type_named(use.schema, use.name),)
    }
    json = any(call.name in facts.RUNS_JSON_CAST for call in statement.calls) or any(
        use.schema == "pg_catalog" and use.name == "json" for use in statement.types
    )
    touched = named | set(_column_types(statement)) | set(_operand_types(statement, catalog))
    for cast in refused:
        if cast.context == "e":
            if json and cast.target in ("pg_catalog.json", "pg_catalog.jsonb") and cast.source in touched:
                return cast.function
            continue
        # A built-in type is in reach of every expression; a user's by a column, by name, or where a user's function asks for it.
        source = cast.source in touched or cast.source.startswith("pg_catalog.")
        target = cast.target in touched or cast.target.startswith("pg_catalog.")
        if source and target:
            return cast.function
    return None


def _operand_types(statement: Statement, catalog: Catalog) -> Iterator[str]:
    """What users' functions and operators that the statement could mean take."""
    for call in statement.calls:
        for function in catalog.functions_named(call.name, call.schema):
            yield from function.arguments
    for schema, name in statement.operators:
        if schema != "pg_catalog":
            for operator in catalog.operators_named(name, schema):
                yield from (type_ for type_ in (operator.left, operator.right) if type_ is not None)


def _column_types(statement: Statement) -> Iterable[str]:
    for reference in statement.references:
        if reference.relation is not None:
            for attribute in reference.relation.attributes:
                yield attribute.type
                yield attribute.base_type
