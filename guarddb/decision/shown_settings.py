"""What PostgreSQL shows to superusers only stays out of every list of settings while the policy restricts data.

`SHOW data_directory` is refused then; `SHOW ALL`, `pg_settings`, `FROM pg_show_all_settings()` and current_setting() of a name
that only comes with the statement would show the same to a role that may see it. So the lists leave those settings out, with the
file that a value stands in, and a name that is one of them becomes the name of no setting.

Under a policy that hides nothing the same is done with settings that may hold a password, and only while they hold something.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from guarddb.facts.settings import SECRET, SHOWN_TO_SUPERUSERS
from guarddb.sql.rewriting.trees import HOLE
from guarddb.tree import nodes

if TYPE_CHECKING:
    from guarddb.decision.case import Case
    from guarddb.decision.draft import Draft
    from guarddb.decision.refusal import Refusal
    from guarddb.sql.statement import Statement
    from guarddb.tree import Node


def _listed(names: frozenset[str]) -> str:
    quoted = ", ".join(f"'{name}'" for name in sorted(names))
    return f"ARRAY[{quoted}]::pg_catalog.text[]"


_OPEN = f"s.name OPERATOR(pg_catalog.<>) ALL ({_listed(SHOWN_TO_SUPERUSERS)})"
_NO_SECRET = (
    f"(s.name OPERATOR(pg_catalog.<>) ALL ({_listed(SECRET)}) OR s.setting OPERATOR(pg_catalog.=) '')"
)
#: (With units, as SHOW has them: the view has the bare number.)
_SHOW_ALL = (
    "SELECT s.name, pg_catalog.current_setting(s.name) AS setting, s.short_desc AS description "
    "FROM pg_catalog.pg_show_all_settings() AS s WHERE {} ORDER BY s.name"
)
#: The columns are the same in all versions.
_PG_SETTINGS = (
    "SELECT s.name, s.setting, s.unit, s.category, s.short_desc, s.extra_desc, s.context, s.vartype, s.source, s.min_val, "
    "s.max_val, s.enumvals, s.boot_val, s.reset_val, NULL::pg_catalog.text AS sourcefile, NULL::pg_catalog.int4 AS sourceline, "
    f"s.pending_restart FROM pg_catalog.pg_settings AS s WHERE {_OPEN}"
)
_ALL_BUT_SECRETS = f"SELECT s.* FROM pg_catalog.pg_settings AS s WHERE {_NO_SECRET}"
_FUNCTION = "pg_show_all_settings"


def _renamed(names: frozenset[str], to: str) -> str:
    return f"pg_catalog.regexp_replace({HOLE}, '^({'|'.join(sorted(names))})$', {to}, 'i')"


_NO_SETTING = _renamed(SHOWN_TO_SUPERUSERS, "'guarddb.closed'")
#: The name stays as it is while there is no secret. (Where no sub-select may stand, it never does.)
_EMPTY = (
    f"CASE WHEN EXISTS (SELECT 1 FROM pg_catalog.pg_settings AS s WHERE NOT {_NO_SECRET}) "
    "THEN 'guarddb.closed' ELSE E'\\\\&' END"
)
_NO_SECRET_SETTING = _renamed(SECRET, _EMPTY)
_NO_SECRET_SETTING_ANYWHERE = _renamed(SECRET, "'guarddb.closed'")


def closed_names(case: Case) -> frozenset[str]:
    """The settings that the policy shows to nobody, by their names."""
    return SHOWN_TO_SUPERUSERS if case.policy.restricts_data else SECRET


def lists_settings(statement: Statement) -> bool:
    """Whether a statement may show settings that it does not name."""
    for reference in statement.references:
        if reference.name == "pg_settings" and reference.mode == "read":
            return True
    if not statement.calls:
        return _is_show_all(statement)
    return any(True for _ in _listed_in_from(statement)) or any(True for _ in _computed(statement))


def shown_settings(case: Case, draft: Draft) -> Refusal | None:
    """Leave them out.

    >>> import guarddb
    >>> guarddb.evaluate("SHOW ALL", {"max_rows": 5}).rewritten_sql[:53]
    'SELECT s.name, pg_catalog.current_setting(s.name) AS '
    """
    statement, rewriter = case.statement, draft.rewriter
    if case.policy.profile.forbids_nothing or not draft.lists:
        return None
    restricted = case.policy.restricts_data
    if _is_show_all(statement):
        shown = _SHOW_ALL.format(_OPEN if restricted else _NO_SECRET)
        rewriter.replace_show(statement.wrapper, statement.location, shown)
        return None
    settings = _PG_SETTINGS if restricted else _ALL_BUT_SECRETS
    for reference in statement.references:
        if reference.name == "pg_settings" and reference.schema == "pg_catalog" and reference.mode == "read":
            if reference.wrapper is not None and "RangeVar" in reference.wrapper and reference.sample is None:
                rewriter.replace_relation(reference, settings)
    for wrapper in list(_listed_in_from(statement)):
        rewriter.replace_from_call(wrapper, settings)
    for call in _computed(statement):
        rewriter.wrap_first_argument(call, _NO_SETTING if restricted else _no_secret(statement))
    return None


def _no_secret(statement: Statement) -> str:
    if statement.ddl is None and statement.command in (
        "SelectStmt",
        "InsertStmt",
        "UpdateStmt",
        "DeleteStmt",
    ):
        return _NO_SECRET_SETTING
    return _NO_SECRET_SETTING_ANYWHERE


def shows_all_elsewhere(statement: Statement) -> bool:
    """Whether pg_show_all_settings() is called where it cannot be replaced: it has to stand in FROM by itself."""
    called = sum(call.name == _FUNCTION for call in statement.calls)
    return called > 0 and called != sum(True for _ in _listed_in_from(statement))


def _listed_in_from(statement: Statement) -> Iterator[Node]:
    """The wrappers of `FROM pg_show_all_settings()`."""
    if not any(call.name == _FUNCTION for call in statement.calls):
        return
    for _, wrapper in nodes(statement.wrapper):
        node = wrapper.get("RangeFunction")
        if not isinstance(node, dict) or node.keys() & {"ordinality", "is_rowsfrom", "coldeflist"}:
            continue
        call = node["functions"][0]["List"]["items"][0].get("FuncCall", {})
        name = [part["String"]["sval"] for part in call.get("funcname", ())]
        if name[-1:] == [_FUNCTION] and name[:-1] in ([], ["pg_catalog"]) and "args" not in call:
            yield wrapper


def _is_show_all(statement: Statement) -> bool:
    return statement.command == "VariableShowStmt" and statement.fields.get("name") == "all"


def _computed(statement: Statement) -> Iterator[Node]:
    """The calls of current_setting() whose argument is no constant."""
    for call in statement.calls:
        if call.name == "current_setting" and call.schema in (None, "pg_catalog") and call.node is not None:
            arguments = call.node.get("args", ())
            # (VARIADIC: PostgreSQL has no such function.)
            if (
                arguments
                and "sval" not in arguments[0].get("A_Const", {})
                and "func_variadic" not in call.node
            ):
                yield call.node
