"""Triggers, rules, policies, types, code."""

from __future__ import annotations

from collections.abc import Iterator

from guarddb.lint.acts import Act, Lock, Remark, Said, Target, Work
from guarddb.lint.rules.hints import script_of
from guarddb.lint.script import Script
from guarddb.lint.text import StatementText, shown, shown_name
from guarddb.sql.names import string_list


def create_trigger(statement: StatementText, script: Script) -> Iterator[Said]:
    """CREATE TRIGGER keeps writers out for a moment."""
    target = script.target(statement.fields["relation"])
    for each in (target, *(script.children(target) if statement.fields.get("row") else ())):
        if each.key == target.key or (target.relation is not None and target.relation.kind == "p"):
            yield Act(each, Lock.SHARE_ROW_EXCLUSIVE, why="CREATE TRIGGER", implied=each.key != target.key)
    if (constrained := statement.fields.get("constrrel")) is not None:
        yield Act(script.target(constrained), Lock.ROW_SHARE, rule="")


def create_rule(statement: StatementText, script: Script) -> Iterator[Said]:
    """CREATE RULE and policies keep everybody out for a moment."""
    relation = statement.fields.get("relation") or statement.fields.get("table")
    if relation is not None:
        yield Act(script.target(relation), Lock.ACCESS_EXCLUSIVE, why=statement.text.split("(")[0].strip())


def alter_enum(statement: StatementText, script: Script) -> Iterator[Said]:
    """ALTER TYPE … ADD VALUE locks no table. (What uses the value in the same transaction is told by `migrations.py`.)"""
    yield from ()


def alter_domain(statement: StatementText, script: Script) -> Iterator[Said]:
    """A constraint on a domain is checked in every table that has a column of it, writers kept out."""
    fields = statement.fields
    verb = fields.get("subtype")
    names = string_list(fields.get("typeName", ()))
    domain = script.domain(names)
    constraint = fields.get("def", {}).get("Constraint", {})
    adds = verb == "C" and constraint.get("contype") in ("CONSTR_CHECK", "CONSTR_NOTNULL")
    validates, not_null = verb == "V", verb == "O"
    if not (adds or validates or not_null) or constraint.get("skip_validation"):
        return
    name = shown_name(*((names[-2], names[-1]) if len(names) > 1 else (None, names[-1])))
    lock = Lock.SHARE_UPDATE_EXCLUSIVE if validates and script.at_least(17) else Lock.SHARE
    what = (
        "VALIDATE CONSTRAINT"
        if validates
        else "SET NOT NULL"
        if not_null
        else "ADD CONSTRAINT without NOT VALID"
    )
    safe = None
    if adds and constraint.get("contype") == "CONSTR_CHECK":
        label = constraint.get("conname", f"{names[-1]}_check")
        at = statement.text.upper().find("CHECK")
        safe = script_of([
            f"ALTER DOMAIN {name} ADD CONSTRAINT {shown(label)} {statement.text[at:]} NOT VALID",
            f"ALTER DOMAIN {name} VALIDATE CONSTRAINT {shown(label)}",
        ])  # fmt: skip
    if domain is None:
        if script.catalog is None and not validates:
            yield Remark(
                "warning",
                "domain_constraint",
                f"ALTER DOMAIN {name} … {what}: a SHARE lock on each table with a column of it blocks writes while PostgreSQL "
                f"reads the "
                "whole table",
                safe,
                fixes=True,
            )
        return
    assert script.catalog is not None
    qualified = f"{domain.schema}.{domain.name}"
    for relation in script.catalog.relations.values():
        if relation.kind in ("r", "m", "p") and any(a.type == qualified for a in relation.attributes):
            yield Act(
                Target(relation.schema, relation.name, relation), lock,
                None if relation.kind == "p" else Work.SCAN, "domain_constraint", f"ALTER DOMAIN {name} … {what}", safe,
            )  # fmt: skip


def opaque(statement: StatementText, script: Script) -> Iterator[Said]:
    """DO and CALL run code that is not looked into."""
    yield Remark(
        "info",
        "opaque_code",
        "the code that this runs is not looked into: what it locks, and for how long, is not known",
    )
