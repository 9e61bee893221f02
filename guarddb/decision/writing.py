"""From judged statements to a plan: masks, filters and caps written into the text, and what the driver needs to act on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeVar, cast

from msgspec import structs

from guarddb.content.visible import visible
from guarddb.decision.affected import affected_cap, countable, waits
from guarddb.decision.caps import is_copy_of_table, is_exact, wants_limit
from guarddb.decision.case import Case, case_of, filters_of, is_governed, stores_text
from guarddb.decision.deciding import of_filters, of_masks
from guarddb.decision.draft import Draft
from guarddb.decision.filters.writes import FilterWriter
from guarddb.decision.masks.rule import reported
from guarddb.decision.masks.writing import MaskWriter, Unmappable, Unwritable
from guarddb.decision.on_catalog import CompiledPolicy
from guarddb.decision.plan import (
    Decision,
    Facts,
    Handling,
    MaskedColumn,
    Plan,
    SessionNames,
    SessionVerb,
    StatementPlan,
    TransactionVerb,
)
from guarddb.decision.refusal import Finding, Refusal
from guarddb.decision.setting_functions import may_change_settings, may_define
from guarddb.decision.shapes import Writers
from guarddb.decision.shown_settings import lists_settings
from guarddb.decision.system_columns import shown_as_null, shown_by_row
from guarddb.sql.analysis.classify import read_statement
from guarddb.sql.catalog import Catalog
from guarddb.sql.names import quote, string_list
from guarddb.sql.rewriting.edits import RewriteError
from guarddb.sql.rewriting.wording import Wording
from guarddb.sql.statement import WRITE_MODES, Statement
from guarddb.tree import Node, parse
from guarddb.vocabulary import Kind, MaskKind, Verdict

_WITHOUT_CATALOG = (
    "decided without a catalog: names were taken as written, a bare one as public; "
    "views, partitions and functions of a row (t.f) could not be looked through"
)
T = TypeVar("T")
_NOTHING_MASKED: tuple[tuple[MaskedColumn, ...], Mapping[int, MaskKind]] = (), MappingProxyType({})


class SessionState:
    """The session's prepared statements and portals, as they change from statement to statement of one text."""

    def __init__(self, names: SessionNames) -> None:
        #: what each is, for reading a statement that uses it
        self._facts: dict[str, dict[str, Facts]] = {
            "prepared": {name: plan.facts for name, plan in names.prepared.items()},
            "portals": {name: plan.facts for name, plan in names.portals.items()},
        }
        #: and how it is carried out, for writing one
        self._plans: dict[str, dict[str, StatementPlan]] = {
            "prepared": {**names.prepared},
            "portals": {**names.portals},
        }
        #: the answer depends on these names
        self.used = False

    def as_mapping(self) -> Mapping[str, Mapping[str, Any]]:
        """`prepared` and `portals`: the facts of what stands behind each name."""
        return self._facts

    def announce(self, statement: Statement) -> None:
        """Let a later statement of the text refer to what this one makes. How that is carried out is known when it is written."""
        if (group := _MAKES.get(statement.session_verb or "")) is not None:
            self._facts[group][statement.session_name or ""] = _facts(statement)

    def take(self, plan: StatementPlan) -> None:
        """Remember the plan of what a statement prepares or declares."""
        if (group := _MAKES.get(plan.facts.session_verb or "")) is not None:
            self._plans[group][plan.facts.session_name or ""] = plan

    def plan_of(self, statement: Statement) -> StatementPlan | None:
        """The plan of what EXECUTE, FETCH or MOVE runs."""
        group = _RUNS.get(statement.session_verb or "")
        if group is None:
            return None
        self.used = True
        return self._plans[group].get(statement.session_name or "")


def write_plan(
    sql: str,
    raws: list[Node],
    cases: tuple[Case, ...],
    writers: Writers,
    policy: CompiledPolicy,
    catalog: Catalog | None,
    session: SessionState,
    findings: tuple[Finding, ...],
) -> Plan | Refusal:
    """The plan of a text whose every statement passed the rules. A filter that finds no safe place is still a refusal.

    Raises:
        RewriteError: the written text does not mean what was meant.
    """
    governance = policy.governance(catalog)
    notes: list[str] = list(dict.fromkeys(finding.note for finding in findings))
    columns: tuple[MaskedColumn, ...] = ()
    predicates: tuple[str, ...] = ()
    plans: list[StatementPlan] = []
    wording: Wording | None = None
    text: str | None = sql
    edits: tuple[tuple[int, int, int], ...] = ()
    for case in cases:
        statement = case.statement
        governed = governance.restricts and is_governed(case)
        masked, kinds = reported(case) if governed else _NOTHING_MASKED
        draft: Draft | None = None
        limited = wants_limit(statement, policy)
        lists = lists_settings(statement) or bool(shown_by_row(case) or shown_as_null(case))
        if governed or case.wall is not None or limited or lists:
            wording = wording or Wording(sql, raws)
            draft = Draft(wording, governed=governed, limited=limited, lists=lists)
            try:
                refusal = _write(case, draft, writers)
            except Unwritable as ex:
                return Refusal("masked_column_expression", *ex.args)
            except Unmappable as ex:
                if catalog is not None:
                    return Refusal(
                        "masked_column_expression",
                        f"the masked columns behind * cannot be written out: {ex}",
                        "List the columns by name instead of *.",
                    )
                text = None
                draft = Draft(wording, governed=governed, limited=limited)
                draft.shown = filters_of(case)
                refusal = None
            if refusal is not None:
                return refusal
            predicates = _with(predicates, draft.shown)
        of_name = session.plan_of(statement)
        if of_name is not None:
            masked = of_name.handling.masked
            predicates = _with(predicates, of_name.handling.predicates)
        columns = _with(columns, masked)
        plan = _plan(case, of_name, draft, kinds, masked, governed=governed)
        session.take(plan)
        plans.append(plan)
    if text is None:
        notes.append(
            "the columns behind * are not known without a catalog, so the text that would be sent is not shown"
        )
    elif wording is not None:
        text, edits = wording.finish()
    if catalog is None:
        notes.append(_WITHOUT_CATALOG)
    if policy.profile.guarddb.wall is not None and cases[0].wall is None:
        notes.append(
            f'decided without the wall "{policy.profile.guarddb.wall}": guarddb itself masks and filters'
        )
    notes += policy.session_notes
    verdict: Verdict = "row-filter" if predicates else "mask" if columns else "allow"
    decision = Decision(
        verdict,
        "ok",
        _reason(verdict, columns, filtered=bool(predicates), changed=bool(edits)),
        None,
        columns,
        " AND ".join(f"({p})" for p in predicates)
        if len(predicates) > 1
        else (predicates[0] if predicates else None),
        text,
        tuple(notes),
        policy.profile.name,
        policy.version,
        deciding=_deciding(verdict, cases),
        needs_catalog=catalog is None and any(_could_differ(case) for case in cases),
        policy_id=policy.profile.id,
    )
    return Plan(decision, text or "", tuple(plans), uses_session=session.used, edits=edits)


def _with(found: tuple[T, ...], more: Sequence[T]) -> tuple[T, ...]:
    """What was found before and what a statement adds, each once."""
    return tuple(dict.fromkeys((*found, *more))) if found else tuple(more)


def _write(case: Case, draft: Draft, writers: Writers) -> Refusal | None:
    """Let each writer have its turn, in order."""
    if is_copy_of_table(case.statement):
        return _copy_of_table(case, draft, writers)
    always, announced = writers
    for writer in (*always, *announced) if draft.limited or draft.lists else always:
        refusal = writer(case, draft)
        if refusal is not None:
            return refusal
    return None


def filters(case: Case, draft: Draft) -> Refusal | None:
    """Filters of every mention of a filtered relation.

    >>> import guarddb
    >>> policy = {"row_filters": [{"table": "notes", "predicate": "tenant = 1"}]}
    >>> guarddb.evaluate("SELECT id FROM notes n WHERE open", policy).rewritten_sql
    'SELECT id FROM notes n WHERE ("n"."tenant" = 1) AND (open)'
    """
    if not draft.governed or stores_text(case.statement):
        return None
    writer = FilterWriter(
        case.statement, case.policy, case.governance, draft.rewriter, draft.targets, case.catalog
    )
    try:
        refusal = writer.write()
    except RewriteError as ex:
        refusal = Refusal(
            "row_filter_unsafe",
            f"the row filter found no place in this statement: {ex}",
            "Write the statement in a simpler way.",
        )
    draft.hidden_returning, draft.checks_rows = writer.hidden_returning, writer.checks_rows
    draft.shown = writer.shown
    return refusal


def masks(case: Case, draft: Draft) -> Refusal | None:
    """What stands in place of each target that carries a masked column.

    >>> import guarddb
    >>> policy = {"masking_rules": [{"table": "people", "column": "ssn", "kind": "null"}]}
    >>> guarddb.evaluate("SELECT id, ssn FROM people", policy).rewritten_sql
    'SELECT id, NULL::pg_catalog.text AS "ssn" FROM people'
    """
    if draft.governed and not stores_text(case.statement):
        draft.keyed = MaskWriter(case, draft.targets).write()
        if "explain" in case.statement.kinds and (
            _carries_masked(case) or _writes_masked(case) or _reads_partitions(case)
        ):
            # Below the mask a plan carries the value itself, and its width is the average length of the values. Pages that
            # are read for long values, and the log of an UPDATE, which is as long as the new value differs, tell as well.
            draft.rewriter.explain_quietly(case.statement.fields, case.statement.location)
    return None


def _carries_masked(case: Case) -> bool:
    """Whether a masked column comes out of any query of the statement."""
    outputs = (output for query in case.statement.queries for output in query.outputs)
    return any(case.governance.mask_of(output, case.marks) is not None for output in outputs)


def _reads_partitions(case: Case) -> bool:
    """Whether a plan would show how many rows each partition has, and with them how often a masked key has its values."""
    if "place" not in case.governance.hides or case.catalog is None:
        return False
    seen = {identity for _, rules in case.ruled for identity in (*rules.identities, *rules.seen_through)}
    relations = (case.catalog.relation(*identity) for identity in seen)
    return any(
        each is not None and case.governance.rules_for(each).masked_key is not None for each in relations
    )


def _writes_masked(case: Case) -> bool:
    """Whether a statement writes a table that has masked columns."""
    return any(reference.mode in WRITE_MODES and rules.masks for reference, rules in case.ruled)


def targets(case: Case, draft: Draft) -> Refusal | None:
    """The targets, once masks and filters have had their say about them.

    >>> import guarddb
    >>> rules = [{"table": "people", "column": "ssn", "kind": "null"}]
    >>> filters = [{"table": "people", "predicate": "tenant = 1"}]
    >>> policy = {"masking_rules": rules, "row_filters": filters}
    >>> guarddb.evaluate("SELECT ssn AS s FROM people", policy).rewritten_sql
    'SELECT NULL::pg_catalog.text AS s FROM people WHERE ("people"."tenant" = 1)'
    """
    try:
        draft.targets.write()
    except RewriteError as ex:
        raise Unwritable(
            f"the mask found no place in this statement: {ex}",
            "Write SELECT with the columns by name, in place of TABLE or *.",
        ) from None
    return None


def _copy_of_table(case: Case, draft: Draft, writers: Writers) -> Refusal | None:
    """COPY table TO: the same rows by COPY (SELECT …) TO, masked and filtered like any SELECT."""
    statement, catalog, rewriter = case.statement, case.catalog, draft.rewriter
    fields = statement.fields
    reference = next(r for r in statement.references if r.mode == "copy")
    columns = [quote(column) for column in string_list(fields.get("attlist", ()))]
    if not columns and reference.relation is not None:
        # COPY leaves generated columns out (CopyGetAttnums).
        columns = [quote(a.name) for a in reference.relation.attributes if not a.generated]
    elif not columns:
        if catalog is None:
            raise Unmappable("the columns of the table are not known")
        columns = ["*"]  # a system relation
    name = rewriter.relation_text(reference)
    name = name if not name.startswith("ONLY ") else name.removeprefix("ONLY ")
    relation = reference.relation
    only = "ONLY " if relation is not None and relation.kind == "r" and relation.descendants else ""
    query = f"SELECT {', '.join(columns)} FROM {only}{name}"
    raws = parse(query, checked=False)
    inner = read_statement(raws[0], catalog, {"prepared": {}, "portals": {}})
    limited = wants_limit(inner, case.policy)
    copied = Draft(Wording(query, raws), governed=True, limited=limited, exact=True)
    refusal = _write(case_of(inner, case.policy, catalog, case.wall), copied, writers)
    if refusal is not None:
        return refusal
    rewriter.copy_of_query(fields, copied.wording.finish()[0])
    draft.shown = copied.shown
    return None


def _deciding(verdict: Verdict, cases: tuple[Case, ...]) -> str | None:
    """The entry of the profile behind the headline of a statement that passes."""
    if verdict == "allow":
        return None
    found = of_filters if verdict == "row-filter" else of_masks
    for case in cases:
        if (entry := found(case)) is not None:
            return entry
    return None


def _could_differ(case: Case) -> bool:
    """Whether a database may hold what makes a connection refuse or mask more than is known here: relations that are views or
    partitions, functions, operators and types of users' own that go by a built-in's name."""
    statement = case.statement
    return case.policy.restricts_data and bool(
        statement.references
        or statement.calls
        or statement.operators
        or statement.types
        or (statement.definitions and statement.kind in ("ddl", "other", "copy"))
    )


_CATALOG_KINDS = frozenset(("ddl", "other"))
_SET: frozenset[Kind] = frozenset(("set",))
#: Statements that give a name to something, and those that run what a name stands for.
_MAKES = {"prepare": "prepared", "declare": "portals"}
_RUNS = {"execute": "prepared", "fetch": "portals", "move": "portals"}
#: parsenodes.h, CURSOR_OPT_HOLD
_HOLD = 0x0020


def _sets(statement: Statement) -> frozenset[Kind]:
    """A set_config() that was let through is a SET to the session."""
    return _SET if any(call.name == "set_config" for call in statement.calls) else frozenset()


def _facts(statement: Statement) -> Facts:
    return Facts(
        kind=statement.kind,
        kinds=frozenset(statement.kinds) | _sets(statement),
        operation=statement.operation,
        relations=tuple(dict.fromkeys(r.qualified_name for r in statement.references)),
        returns_rows=statement.returns_rows,
        transaction=cast("TransactionVerb | None", statement.transaction),
        session_verb=cast("SessionVerb | None", statement.session_verb),
        session_name=statement.session_name,
        holds=statement.command == "DeclareCursorStmt" and bool(statement.fields.get("options", 0) & _HOLD),
        chains=statement.command == "TransactionStmt" and statement.fields.get("chain", False),
    )


def _plan(
    case: Case,
    of_name: StatementPlan | None,
    draft: Draft | None,
    kinds: Mapping[int, MaskKind],
    masked: tuple[MaskedColumn, ...],
    *,
    governed: bool,
) -> StatementPlan:
    statement = case.statement
    facts = _facts(statement)
    if of_name is not None:
        facts = structs.replace(
            facts,
            relations=of_name.facts.relations,
            returns_rows=of_name.facts.returns_rows or facts.returns_rows,
        )
        return StatementPlan(facts, of_name.handling)
    cap = case.policy.profile.max_rows or None
    handling = Handling(
        row_cap=None if is_exact(statement) and facts.session_verb == "declare" else cap,
        hidden_returning=draft is not None and draft.hidden_returning,
        keyed_hashes=draft.keyed if draft is not None else (),
        output_kinds=kinds,
        sensitive=governed,
        changes_catalog=bool(statement.kinds & _CATALOG_KINDS) or may_define(case),
        changes_settings=may_change_settings(case),
        checks_rows=draft is not None and draft.checks_rows,
        affected_cap=affected_cap(case),
        waits=waits(case),
        countable=countable(statement),
        masked=masked,
        predicates=tuple(draft.shown) if draft is not None else (),
    )
    return StatementPlan(facts, handling)


@lru_cache(maxsize=256)
def _reason(verdict: Verdict, columns: tuple[MaskedColumn, ...], *, filtered: bool, changed: bool) -> str:
    if verdict == "allow":
        if changed:
            return "the statement is allowed; the text that is sent is in rewritten_sql"
        return "the statement is allowed as it is"
    parts = []
    if filtered:
        parts.append("only the rows that the row filter shows are visible")
    if columns:
        shown = ", ".join(dict.fromkeys(c.column for c in columns))
        parts.append(visible(f"masked columns: {shown}", lines=False))
    return "; ".join(parts)
