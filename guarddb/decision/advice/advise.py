"""What to do instead: the hint of a refusal, and a statement that serves the same purpose and is known to pass.

A hint knows the access mode, the kind of the mask, the clause and the names of the catalog. A statement is proposed only
when the engine, asked about it like about any other, lets it through: no advice leads into the next refusal.

This runs for refused statements alone, which need not be fast.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from guarddb.decision.advice import edits, texts
from guarddb.decision.advice.edits import Concern
from guarddb.decision.advice.names import (
    alike_relations,
    column_alike,
    columns_of,
    identifier,
    nearest_relations,
    shown,
)
from guarddb.decision.on_catalog import CompiledPolicy, Governance, is_system
from guarddb.decision.plan import Plan
from guarddb.decision.refusal import Refusal
from guarddb.facts.functions import system_relation
from guarddb.facts.system_relations import closed_columns
from guarddb.sql.catalog import Catalog, Relation
from guarddb.sql.names import string_list
from guarddb.sql.statement import Statement
from guarddb.tree import Node, below
from guarddb.vocabulary import MaskKind, strictest

logger = logging.getLogger("guarddb")

#: A longer text, or a deeper one, gets a hint in words only: pglast's printer recurses.
_LONGEST, _DEEPEST = 8_000, 120
#: How many refusals in a row a proposal may run into before it is given up.
_STEPS = 4


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal with what is known of the statement: its facts where it could be read."""

    sql: str
    refusal: Refusal
    statement: Statement | None


#: Judges a text, as far as the rules go: the plan, or the refusal with its statement.
Judge = Callable[[str], "Plan | Refused"]


def advise(refused: Refused, policy: CompiledPolicy, catalog: Catalog | None, judge: Judge) -> Refusal:
    """The refusal with the best hint there is, and with `try_sql` where a statement is known to pass. Never raises."""
    refusal = refused.refusal
    try:
        hint = _words(refused, policy, catalog, judge) or refusal.hint
        proposal = _proposal(refused, policy, catalog, judge)
    except Exception:
        # Advice is no part of the decision: without it the statement is refused just the same.
        logger.exception("no advice could be made for a refused statement")
        return refusal
    if proposal is not None:
        hint = f"{hint} Try: {proposal}" if hint else f"Try: {proposal}"
    return replace(refusal, hint=hint, try_sql=proposal)


# ---------------------------------------------------------------------- in words


def _words(refused: Refused, policy: CompiledPolicy, catalog: Catalog | None, judge: Judge) -> str | None:
    """A hint that says more than the rule itself could; None where the rule's own will do."""
    rule, statement = refused.refusal.rule, refused.statement
    read_only = policy.profile.access_mode == "read_only"
    if read_only and rule in ("whereless_write", "anonymous_code", "destructive_ddl", "masked_column_write"):
        # Whatever the statement is made into, the access mode refuses it next.
        return (
            "This policy is read only, so no form of this statement passes: read with SELECT, and leave changes to "
            "somebody with write access."
        )
    if read_only and statement is not None and statement.command == "CopyStmt":
        return (
            "This policy is read only, and COPY is not among what it lets through: read the rows with SELECT."
        )
    if read_only and rule == "protected_setting" and statement is not None and statement.definitions:
        if "set" not in policy.profile.statement_rules.allow:
            return "Leave the settings as they are: this policy is read only and lets none be set or reset."
    if rule == "table_not_allowed" and statement is not None:
        for reference in statement.references:
            if (instead := _WITHOUT_SECRETS.get(reference.qualified_name)) is not None:
                return f"{instead} shows the same without what is secret."
    if rule == "whereless_write" and statement is not None:
        unknown = _unknown_column(statement, policy.governance(catalog))
        if unknown is not None:
            return unknown
    if rule in ("table_not_allowed", "table_denied") and catalog is not None and statement is not None:
        return _open_names(refused, policy, catalog, judge)
    if rule == "masked_column_expression" and statement is not None:
        return _about_masked_expression(refused, policy, catalog)
    if rule == "masked_column_predicate" and statement is not None:
        return _about_masked_predicate(refused, policy, catalog)
    if rule == "row_filter_unsafe" and catalog is not None and statement is not None:
        below = _below_stored_views(statement, policy, catalog)
        if below:
            return f"Read the tables that it was made from: {', '.join(below)}."
    if rule == "read_only" and statement is not None and statement.command == "VariableSetStmt":
        name = str(statement.fields.get("name", "")).lower()
        if name == "timezone":
            return "Write AT TIME ZONE in the query itself; the session's time zone stays as it is."
    if (
        rule == "parse_error"
        and len(refused.sql) <= _LONGEST
        and texts.of_another_dialect(refused.sql) is not None
    ):
        return "That is a command of another program or database; in PostgreSQL it is a SELECT."
    return None


#: The server's own views of what its restricted catalogs hold.
_WITHOUT_SECRETS = {
    "pg_catalog.pg_authid": "pg_catalog.pg_roles",
    "pg_catalog.pg_shadow": "pg_catalog.pg_user",
}


def _unknown_column(statement: Statement, governance: Governance) -> str | None:
    """Of a WHERE that names no column of the table because what it names is not there."""
    for query in statement.queries:
        target = query.target
        if target is None or target.relation is None or query.filters_rows:
            continue
        columns = {a.name for a in target.relation.attributes}
        for fields in below(query.fields.get("whereClause", {}), ("ColumnRef",)):
            names = string_list(fields["fields"])
            if len(names) == len(fields["fields"]) and names[-1] not in columns:
                meant = column_alike(names[-1], [target.relation]) or columns_of(target.relation, governance)
                return f'"{names[-1]}" is no column of "{target.qualified_name}". {meant}'
    return None


def _open_names(refused: Refused, policy: CompiledPolicy, catalog: Catalog, judge: Judge) -> str | None:
    """The relations there really are, nearest to the one that was asked for first."""
    asked = _refused_name(refused)
    if asked is None:
        return None
    near = [each for each in nearest_relations(*asked, policy, catalog) if _can_be_read(each, judge)]
    if not near:
        return "This policy opens no table of this database."
    alike = [each for each in alike_relations(*asked, policy, catalog) if each in near]
    meant = f"Did you mean {shown(alike[0])}? " if alike else ""
    return f"{meant}Tables that are open here: {', '.join(shown(r) for r in near)}."


def _can_be_read(relation: Relation, judge: Judge) -> bool:
    """Whether no rule but one about kinds closes what the lists open: a materialised view over a filtered table, say."""
    answer = judge(f"SELECT FROM {shown(relation)}")
    return isinstance(answer, Plan) or answer.refusal.rule in ("statement_not_allowed", "statement_denied")


def _refused_name(refused: Refused) -> tuple[str | None, str] | None:
    assert refused.statement is not None
    for reference in refused.statement.references:
        if is_system(reference.schema):
            continue
        if f'"{reference.qualified_name}"' in refused.refusal.reason:
            return reference.schema, reference.name
    return None


def _about_masked_expression(refused: Refused, policy: CompiledPolicy, catalog: Catalog | None) -> str:
    concern = _concern(refused.statement, policy, catalog)
    column = refused.refusal.reason.partition('"')[2].partition('"')[0].rpartition(".")[2]
    kinds = {concern.masks[column]} if column in concern.masks else set(concern.masks.values())
    plain = "Leave it out of the expression and use columns that are not masked"
    if kinds == {"null"}:
        return (
            f"{plain}: selected by itself it is always NULL, and no statement can compute on its values. "
            "count(*) counts rows."
        )
    return (
        f"{plain}, or select it by itself, where it comes {_comes(kinds)}. No statement can compute on its values; "
        "count(*) counts rows."
    )


def _comes(kinds: set[Any]) -> str:
    words = {"hash": "as a hash", "redact": "as [redacted]", "null": "as NULL"}
    return " or ".join(words[kind] for kind in ("hash", "redact", "null") if kind in kinds) or "masked"


def _about_masked_predicate(refused: Refused, policy: CompiledPolicy, catalog: Catalog | None) -> str:
    statement = refused.statement
    assert statement is not None
    open_columns: list[str] = []
    governance = policy.governance(catalog)
    for reference in statement.references:
        if reference.relation is None:
            continue
        masks = governance.rules(reference).masks
        if masks:
            open_columns += [a.name for a in reference.relation.attributes if a.name not in masks]
    by = f": {', '.join(dict.fromkeys(open_columns))}" if open_columns else ""
    return f"Filter, join, group and sort by columns that are not masked{by}."[:600]


# ---------------------------------------------------------------------- as a statement


def _proposal(refused: Refused, policy: CompiledPolicy, catalog: Catalog | None, judge: Judge) -> str | None:
    """A statement that passes, made from the refused one step by step; None where no way is known."""
    if len(refused.sql) > _LONGEST:
        return None
    if refused.refusal.rule in ("parse_error", "statement_not_allowed", "empty") or refused.statement is None:
        for text in texts.corrections(refused.sql):
            if refused.statement is not None and text.lower().startswith("table "):
                continue  # (LOCK TABLE t, VACUUM … TABLE t: what is left would be another question)
            answer = judge(text)
            if isinstance(answer, Plan):
                return text
            if answer.statement is not None:
                further = _made_to_pass(answer, policy, catalog, judge)
                if further is not None:
                    return further
        return None
    if refused.statement.command == "DoStmt":
        inner = _of_block(refused.statement)
        if inner is None:
            return None
        answer = judge(inner)
        return inner if isinstance(answer, Plan) else _made_to_pass(answer, policy, catalog, judge)
    return _made_to_pass(refused, policy, catalog, judge)


def _of_block(statement: Statement) -> str | None:
    """The statement inside of a DO block that has only one."""
    for option in statement.fields.get("args", ()):
        element = option.get("DefElem", {})
        if element.get("defname") == "as":
            return texts.of_block(element["arg"]["String"]["sval"])
    return None


def _made_to_pass(
    refused: Refused, policy: CompiledPolicy, catalog: Catalog | None, judge: Judge
) -> str | None:
    seen = {refused.sql}
    waiting = [(refused, 0)]
    while waiting:
        current, steps = waiting.pop(0)
        for text in _changed(current, policy, catalog):
            if text in seen or len(seen) > 12:
                continue
            seen.add(text)
            answer = judge(text)
            if isinstance(answer, Plan):
                return text
            if steps + 1 < _STEPS:
                waiting.append((answer, steps + 1))
    return None


def _changed(refused: Refused, policy: CompiledPolicy, catalog: Catalog | None) -> Iterator[str]:
    """The texts that each edit for this kind of refusal makes."""
    if (
        refused.statement is None
        or len(refused.sql) > _LONGEST
        or _depth(refused.statement.wrapper) > _DEEPEST
    ):
        return
    concern = _concern(refused.statement, policy, catalog)
    for edit in _edits(refused, policy, catalog, concern):
        text = _printed(refused.sql, edit, concern)
        if text is not None:
            yield text


def _edits(
    refused: Refused, policy: CompiledPolicy, catalog: Catalog | None, concern: Concern
) -> Iterator[Callable[[Any, Concern], Any]]:
    rule, statement = refused.refusal.rule, refused.statement
    assert statement is not None
    if rule == "masked_column_expression":
        yield edits.unmask_targets
        yield edits.drop_conditions
    elif rule == "masked_column_predicate":
        yield edits.drop_conflict
        yield edits.drop_conditions
        yield edits.unmask_targets
    elif rule == "masked_column_write":
        yield from _without_masked(statement, policy, catalog)
    elif rule == "masked_column_rename":
        yield edits.drop_alias_columns
    elif rule == "locking_select":
        yield edits.drop_locking
    elif (rule in ("read_only", "whereless_write") or statement.command == "CopyStmt") and concern.read_only:
        yield edits.read_instead
    elif rule in ("row_filter_unsafe", "row_filter_violation"):
        yield edits.drop_conflict
        yield from _open_columns(statement, policy.governance(catalog))
        yield from _base_tables(refused, policy, catalog)
    elif rule in ("table_not_allowed", "table_denied") and catalog is not None:
        asked = _refused_name(refused)
        if asked is None:
            yield from _open_columns(statement, policy.governance(catalog))
            for reference in statement.references:
                if (instead := _WITHOUT_SECRETS.get(reference.qualified_name)) is not None:
                    yield edits.rename_relation(reference.schema, reference.name, *instead.split("."))
        else:
            for relation in alike_relations(*asked, policy, catalog)[:3]:
                yield edits.rename_relation(*asked, relation.schema, relation.name)
    elif rule == "forbidden_function":
        names = {call.name for call in statement.calls if f'"{call.shown}"' in refused.refusal.reason}
        yield edits.drop_calls(names)


def _without_masked(
    statement: Statement, policy: CompiledPolicy, catalog: Catalog | None
) -> Iterator[Callable[[Any, Concern], Any]]:
    """A view or a table made of one table: of its other columns."""
    if statement.command not in ("CreateTableAsStmt", "ViewStmt", "SelectStmt"):
        return
    read = [r for r in statement.references if r.mode == "read" and r.relation is not None]
    if len(read) == 1 and read[0].relation is not None:
        masks = policy.governance(catalog).rules(read[0]).masks
        others = [a.name for a in read[0].relation.attributes if a.name not in masks]
        yield edits.open_columns(frozenset(masks), tuple(others))


def _open_columns(statement: Statement, governance: Governance) -> Iterator[Callable[[Any, Concern], Any]]:
    for reference in statement.references:
        system = system_relation(reference.schema, reference.name)
        closed = frozenset(
            column
            for each in closed_columns(reference.schema, reference.name)
            if not each.tells or each.tells & governance.hides
            for column in each.columns or ()
        )
        if system is not None and closed:
            yield edits.open_columns(closed, tuple(c for c in system.columns if c not in closed))


def _below_stored_views(statement: Statement, policy: CompiledPolicy, catalog: Catalog) -> list[str]:
    governance = policy.governance(catalog)
    below: set[tuple[str, str]] = set()
    for reference in statement.references:
        if reference.relation is not None and reference.relation.kind == "m":
            below |= governance.rules(reference).seen_through
    return [f"{identifier(schema)}.{identifier(name)}" for schema, name in sorted(below)]


def _base_tables(
    refused: Refused, policy: CompiledPolicy, catalog: Catalog | None
) -> Iterator[Callable[[Any, Concern], Any]]:
    """A materialised view stores rows that no filter reaches: what it was made from, instead."""
    assert refused.statement is not None
    if catalog is None:
        return
    governance = policy.governance(catalog)
    for reference in refused.statement.references:
        if reference.relation is not None and reference.relation.kind == "m":
            for schema, name in sorted(governance.rules(reference).seen_through):
                yield edits.rename_relation(reference.schema, reference.name, schema, name)


def _concern(statement: Statement | None, policy: CompiledPolicy, catalog: Catalog | None) -> Concern:
    masks: dict[str, MaskKind] = {}
    aliases: set[str] = set()
    governance = policy.governance(catalog)
    for reference in statement.references if statement is not None else ():
        found = governance.rules(reference).masks
        for column, kind in found.items():
            masks[column] = strictest(masks.get(column), kind) or kind
        if found:
            aliases.add(reference.alias)
    return Concern(masks, frozenset(aliases), policy.profile.access_mode == "read_only")


def _depth(tree: Node) -> int:
    deepest = 0
    stack: list[tuple[Any, int]] = [(tree, 1)]
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        stack.extend((child, depth + 1) for child in children if isinstance(child, dict | list))
    return deepest


def _printed(sql: str, edit: Callable[[Any, Concern], Any], concern: Concern) -> str | None:
    """The text after an edit; None where it changed nothing or cannot be printed."""
    from pglast import parse_sql
    from pglast.stream import RawStream

    parsed = parse_sql(sql)
    if len(parsed) != 1:
        return None
    statement: Any = parsed[0].stmt
    answer = edit(statement, concern)
    if not answer:
        return None
    return RawStream()(statement if answer is True else answer)
