"""The decision: policy × statement, in the order of the rules.

`RULES` is the policy's order; what is refused is reported by the first rule that refuses. `decide` is the one function behind
the dry evaluation and the live session.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, cast

from guarddb.decision.access import access
from guarddb.decision.caps import limit_rows, wants_limit
from guarddb.decision.compiled import CompiledPolicy, Governance
from guarddb.decision.decision import (
    NO_NAMES,
    Decision,
    MaskedColumn,
    Plan,
    SessionNames,
    SessionVerb,
    StatementPlan,
    TransactionVerb,
)
from guarddb.decision.floor import floor
from guarddb.decision.functions import functions
from guarddb.decision.mask_writing import MaskWriter, Targets, Unmappable
from guarddb.decision.masking import masked_columns, masking, output_kinds
from guarddb.decision.refusal import Refusal
from guarddb.decision.relations import relations
from guarddb.decision.row_filters import FilterWriter, row_filters
from guarddb.policy.load import load_policy
from guarddb.policy.profile import PolicyProfile
from guarddb.sql.catalog import Catalog
from guarddb.sql.classify import UnknownName, UnknownNode, read_statement
from guarddb.sql.names import quote, string_list
from guarddb.sql.rewrite import RewriteError, Rewriter
from guarddb.sql.statement import Statement
from guarddb.tree import Node, SQLSyntaxError, parse
from guarddb.vocabulary import Verdict

logger = logging.getLogger("guarddb")

#: Every rule of this engine, in the order of the policy. Budgets and approvals come after it, in the session.
RULES: tuple[Callable[[Statement, CompiledPolicy, Catalog | None], Refusal | None], ...] = (
    floor,
    access,
    functions,
    relations,
    masking,
    row_filters,
)
_WITHOUT_CATALOG = "decided without a catalog: names were taken as written, a bare one as public"


def evaluate(
    sql: str,
    policy: PolicyProfile | Mapping[str, Any] | str | os.PathLike[str],
    catalog: Catalog | None = None,
) -> Decision:
    """What would happen to a statement under a policy. Nothing is sent anywhere.

    The live session asks the very same engine, so that with the same catalog this is the live answer. Without a catalog
    it may only be stricter. One difference: a session lets a truly empty text through as the no-op that it is.

    Args:
        sql: one or more statements.
        policy: a profile, the document of one (its `name` may be missing), or a path to one.
        catalog: what the database holds, see `Catalog.from_connection`.

    Raises:
        PolicyError: the policy cannot be read.
    """
    if isinstance(policy, Mapping):
        policy = PolicyProfile.draft(policy)
    profile = load_policy(policy)
    return decide(sql, _compiled(profile), catalog).decision


@lru_cache(maxsize=64)
def _compiled(profile: PolicyProfile) -> CompiledPolicy:
    return compile_policy(profile)


def compile_policy(
    profile: PolicyProfile, settings: Mapping[str, str] | None = None, version: str | None = None
) -> CompiledPolicy:
    """Prepare a profile for judging. `settings` (the caller's) go over the profile's own `guarddb.settings`."""
    return CompiledPolicy(profile, version or profile.version, settings or {})


def decide(sql: str, policy: CompiledPolicy, catalog: Catalog | None, names: SessionNames = NO_NAMES) -> Plan:
    """Judge a text and say how to carry it out. Pure: no I/O, no clock. Never raises.

    Args:
        names: what the session has prepared and declared under a name.
    """
    try:
        plan = _decide(sql, policy, catalog, names)
    except RecursionError:
        plan = _blocked(
            Refusal("parse_error", "the text nests too deeply to be judged", "Write it with fewer levels.")
        )
    except Exception:
        logger.exception("the decision failed; the statement is refused")
        plan = _blocked(
            Refusal(
                "internal_error",
                "guarddb could not judge this statement and refuses it; the log has the details",
                "Write the statement in a simpler way.",
            )
        )
    decision = replace(plan.decision, policy_name=policy.profile.name, policy_version=policy.version)
    return replace(plan, decision=decision)


def _blocked(refusal: Refusal) -> Plan:
    return Plan(Decision("block", refusal.rule, refusal.reason, refusal.hint))


def _decide(sql: str, policy: CompiledPolicy, catalog: Catalog | None, names: SessionNames) -> Plan:
    try:
        raws = parse(sql)
    except SQLSyntaxError as ex:
        where = f" at character {ex.position + 1}" if ex.position is not None else ""
        return _blocked(
            Refusal(
                "parse_error", f"the text is not a PostgreSQL statement: {ex}{where}", "Correct the syntax."
            )
        )
    if not raws:
        return _blocked(Refusal("empty", "the text holds no statement", "Send a statement."))
    session = _Session(names)
    judged: list[_Judged] = []
    for raw in raws:
        found = _judge(raw, policy, catalog, session)
        if isinstance(found, Refusal):
            return replace(_blocked(found), uses_session=session.used)
        judged.append(found)
    if len(judged) > 1 and len({j.statement.kind == "transaction" for j in judged}) > 1:
        return _blocked(
            Refusal(
                "statement_not_allowed",
                "a text that mixes transaction control with other statements is refused",
                "Send BEGIN, COMMIT and the like by themselves.",
            )
        )
    return _write(sql, raws, judged, policy, catalog, session)


class _Session:
    """The session's names as they change from statement to statement of one text."""

    def __init__(self, names: SessionNames) -> None:
        self.prepared: dict[str, StatementPlan] = dict(names.prepared)
        self.portals: dict[str, StatementPlan] = dict(names.portals)
        self.used = False

    def as_mapping(self) -> Mapping[str, Mapping[str, Any]]:
        return {"prepared": self.prepared, "portals": self.portals}

    def take(self, statement: Statement, plan: StatementPlan) -> None:
        if statement.session_verb == "prepare" and statement.session_name is not None:
            self.prepared[statement.session_name] = plan
        elif statement.session_verb == "declare" and statement.session_name is not None:
            self.portals[statement.session_name] = plan


class _Judged:
    """A statement that no rule refuses, and the plan of what it runs by name, if it does."""

    __slots__ = ("of_name", "statement")

    def __init__(self, statement: Statement, of_name: StatementPlan | None) -> None:
        self.statement = statement
        self.of_name = of_name


def _judge(
    raw: Node, policy: CompiledPolicy, catalog: Catalog | None, session: _Session
) -> _Judged | Refusal:
    try:
        statement = read_statement(raw, catalog, session.as_mapping())
    except UnknownNode as ex:
        return Refusal(
            "internal_error",
            f"guarddb does not know this kind of statement or expression ({ex}) and refuses what it cannot judge",
            "Write the statement in another way.",
        )
    except UnknownName as ex:
        what, name = ex.args
        session.used = True
        verb = "PREPARE" if what == "prepared statement" else "DECLARE"
        return Refusal(
            "statement_not_allowed",
            f'{what} "{name}" is not one that this session has made, so what it does cannot be judged',
            f"{verb} it first, in this session.",
        )
    for rule in RULES:
        refusal = rule(statement, policy, catalog)
        if refusal is not None:
            return refusal
    of_name: StatementPlan | None = None
    if statement.session_verb == "execute":
        of_name = session.prepared.get(statement.session_name or "")
        session.used = True
    elif statement.session_verb in ("fetch", "move"):
        of_name = session.portals.get(statement.session_name or "")
        session.used = True
    if statement.session_verb in ("prepare", "declare"):
        # A later statement of this text may run it; the final plan is made when the text is written.
        session.take(statement, _plan(statement, policy, None, None, (), {}, hidden_returning=False))
    return _Judged(statement, of_name)


def _write(
    sql: str,
    raws: list[Node],
    judged: list[_Judged],
    policy: CompiledPolicy,
    catalog: Catalog | None,
    session: _Session,
) -> Plan:
    governance = policy.governance(catalog)
    notes: list[str] = []
    columns: dict[MaskedColumn, None] = {}
    predicates: list[str] = []
    plans: list[StatementPlan] = []
    rewriter: Rewriter | None = None
    text: str | None = sql
    for each in judged:
        statement = each.statement
        governed = governance.restricts and any(governance.rules(r).governed for r in statement.references)
        masked = masked_columns(statement, governance) if governed else ()
        kinds = output_kinds(statement, governance) if masked else {}
        keyed: tuple[int, ...] = ()
        hidden = False
        if governed or wants_limit(statement, policy):
            rewriter = rewriter or Rewriter(sql, raws)
            try:
                written = _rewrite(statement, policy, governance, catalog, rewriter, governed=governed)
            except Unmappable:
                if catalog is not None:
                    raise
                text = None
                written = ((), False, _filters_of(statement, governance))
            if isinstance(written, Refusal):
                return replace(_blocked(written), uses_session=session.used)
            keyed, hidden, shown = written
            predicates += [p for p in shown if p not in predicates]
        columns.update(dict.fromkeys(masked))
        plans.append(
            _plan(statement, policy, governance, each.of_name, keyed, kinds, hidden_returning=hidden)
        )
    if text is None:
        notes.append(
            "the columns behind * are not known without a catalog, so the text that would be sent is not shown"
        )
    elif rewriter is not None and rewriter.edited:
        text = rewriter.finish()
    if catalog is None:
        notes.append(_WITHOUT_CATALOG)
    notes += _session_notes(policy)
    verdict: Verdict = "row-filter" if predicates else "mask" if columns else "allow"
    decision = Decision(
        verdict,
        "ok",
        _reason(verdict, tuple(columns), predicates),
        None,
        tuple(columns),
        " AND ".join(f"({p})" for p in predicates)
        if len(predicates) > 1
        else (predicates[0] if predicates else None),
        text,
        tuple(notes),
    )
    return Plan(decision, text or "", tuple(plans), uses_session=session.used)


def _rewrite(
    statement: Statement,
    policy: CompiledPolicy,
    governance: Governance,
    catalog: Catalog | None,
    rewriter: Rewriter,
    *,
    governed: bool,
) -> tuple[tuple[int, ...], bool, list[str]] | Refusal:
    """Write masks, filters and caps of one statement; (keyed outputs, RETURNING was added, predicates)."""
    keyed: tuple[int, ...] = ()
    hidden = False
    shown: list[str] = []
    if governed and statement.command != "ViewStmt":
        if statement.command == "CopyStmt" and "relation" in statement.fields:
            return _copy_of_table(statement, policy, governance, catalog, rewriter)
        targets = Targets(rewriter)
        keyed = MaskWriter(statement, policy, governance, targets).write()
        writer = FilterWriter(statement, policy, governance, rewriter, targets, catalog)
        try:
            refusal = writer.write()
        except RewriteError as ex:
            refusal = Refusal(
                "row_filter_unsafe",
                f"the row filter found no place in this statement: {ex}",
                "Write the statement in a simpler way.",
            )
        if refusal is not None:
            return refusal
        targets.write()
        hidden, shown = writer.hidden_returning, writer.shown
    if wants_limit(statement, policy):
        limit_rows(statement, policy, rewriter)
    return keyed, hidden, shown


def _copy_of_table(
    statement: Statement,
    policy: CompiledPolicy,
    governance: Governance,
    catalog: Catalog | None,
    rewriter: Rewriter,
) -> tuple[tuple[int, ...], bool, list[str]] | Refusal:
    """COPY table TO: the same rows by COPY (SELECT …) TO, masked and filtered like any SELECT."""
    fields = statement.fields
    if fields.get("is_from"):
        return (), False, []
    reference = next(r for r in statement.references if r.mode == "copy")
    columns = string_list(fields.get("attlist", ()))
    if not columns:
        if reference.relation is None:
            raise Unmappable
        # COPY leaves generated columns out (CopyGetAttnums).
        columns = [a.name for a in reference.relation.attributes if not a.generated]
    name = rewriter.relation_text(reference)
    name = name if not name.startswith("ONLY ") else name.removeprefix("ONLY ")
    relation = reference.relation
    only = "ONLY " if relation is not None and relation.kind == "r" and relation.descendants else ""
    query = f"SELECT {', '.join(quote(c) for c in columns)} FROM {only}{name}"
    raws = parse(query, checked=False)
    inner = read_statement(raws[0], catalog, {"prepared": {}, "portals": {}})
    inner_rewriter = Rewriter(query, raws)
    written = _rewrite(inner, policy, governance, catalog, inner_rewriter, governed=True)
    if isinstance(written, Refusal):
        return written
    rewriter.copy_of_query(fields, inner_rewriter.finish() if inner_rewriter.edited else query)
    return (), False, written[2]


def _filters_of(statement: Statement, governance: Governance) -> list[str]:
    return [p.shown for r in statement.references if r.mode != "ddl" for p in governance.rules(r).filters]


_CATALOG_KINDS = frozenset(("ddl", "other"))


def _plan(
    statement: Statement,
    policy: CompiledPolicy,
    governance: Governance | None,
    of_name: StatementPlan | None,
    keyed: tuple[int, ...],
    kinds: Mapping[int, Any],
    *,
    hidden_returning: bool,
) -> StatementPlan:
    references = statement.references
    cap = policy.profile.max_rows or None
    plan = StatementPlan(
        kind=statement.kind,
        kinds=frozenset(statement.kinds),
        operation=statement.operation,
        relations=tuple(dict.fromkeys(r.qualified_name for r in references)),
        returns_rows=statement.returns_rows or (statement.top is not None and statement.session_verb is None),
        row_cap=cap,
        hidden_returning=hidden_returning,
        keyed_hashes=keyed,
        output_kinds=MappingProxyType(dict(kinds)),
        sensitive=governance is not None
        and governance.restricts
        and any(governance.rules(r).governed for r in references),
        changes_catalog=bool(statement.kinds & _CATALOG_KINDS),
        transaction=cast("TransactionVerb | None", statement.transaction),
        session_verb=cast("SessionVerb | None", statement.session_verb),
        session_name=statement.session_name,
    )
    if of_name is None:
        return plan
    return replace(
        plan,
        relations=of_name.relations,
        returns_rows=of_name.returns_rows or statement.returns_rows,
        hidden_returning=of_name.hidden_returning,
        keyed_hashes=of_name.keyed_hashes,
        output_kinds=of_name.output_kinds,
        sensitive=of_name.sensitive,
        changes_catalog=of_name.changes_catalog,
    )


def _session_notes(policy: CompiledPolicy) -> list[str]:
    profile = policy.profile
    notes = []
    if profile.budget_queries_per_hour or profile.budget_queries_per_day:
        notes.append("counts against the query budget of the session")
    if profile.egress_bytes_per_day:
        notes.append("the result counts against the egress budget of the session")
    if profile.max_rows:
        notes.append(f"a result is cut after {profile.max_rows} rows")
    return notes


def _reason(verdict: Verdict, columns: tuple[MaskedColumn, ...], predicates: list[str]) -> str:
    if verdict == "allow":
        return "the statement is allowed as it is"
    parts = []
    if predicates:
        parts.append("only the rows that the row filter shows are visible")
    if columns:
        shown = ", ".join(dict.fromkeys(c.column for c in columns))
        parts.append(f"masked columns: {shown}")
    return "; ".join(parts)
