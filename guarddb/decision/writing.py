"""From judged statements to a plan: masks, filters and caps written into the text, and what the driver needs to act on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

from guarddb.decision.caps import is_copy_of_table, is_exact, limit_rows, wants_limit
from guarddb.decision.filters.writing import FilterWriter
from guarddb.decision.masks.rule import masked_columns, output_kinds
from guarddb.decision.masks.writing import MaskWriter, Targets, Unmappable, Unwritable
from guarddb.decision.on_catalog import CompiledPolicy, Governance
from guarddb.decision.plan import (
    Decision,
    MaskedColumn,
    Plan,
    SessionNames,
    SessionVerb,
    StatementPlan,
    TransactionVerb,
)
from guarddb.decision.refusal import Refusal
from guarddb.sql.analysis.classify import read_statement
from guarddb.sql.catalog import Catalog
from guarddb.sql.names import quote, string_list
from guarddb.sql.rewriting.rewriter import RewriteError, Rewriter
from guarddb.sql.statement import Statement
from guarddb.tree import Node, parse
from guarddb.vocabulary import Kind, MaskKind, Verdict

_WITHOUT_CATALOG = (
    "decided without a catalog: names were taken as written, a bare one as public; "
    "views, partitions and functions of a row (t.f) could not be looked through"
)
_NO_KINDS: Mapping[int, MaskKind] = MappingProxyType({})


class SessionState:
    """The session's prepared statements and portals, as they change from statement to statement of one text."""

    def __init__(self, names: SessionNames) -> None:
        self._names = names
        self._prepared: dict[str, StatementPlan] | None = None
        self._portals: dict[str, StatementPlan] | None = None
        #: the answer depends on these names
        self.used = False

    def as_mapping(self) -> Mapping[str, Mapping[str, Any]]:
        return {
            "prepared": self._names.prepared if self._prepared is None else self._prepared,
            "portals": self._names.portals if self._portals is None else self._portals,
        }

    def announce(self, statement: Statement) -> None:
        """Let a later statement of the text refer to what this one makes."""
        if statement.session_verb in ("prepare", "declare"):
            # What it hands out is known only when the text is written; its kinds are known now.
            self.take(
                statement, StatementPlan(statement.kind, frozenset(statement.kinds), statement.operation)
            )

    def take(self, statement: Statement, plan: StatementPlan) -> None:
        """Remember the plan of what a statement prepares or declares."""
        name = statement.session_name or ""
        if statement.session_verb == "prepare":
            self._prepared = {**(self._prepared or self._names.prepared), name: plan}
        elif statement.session_verb == "declare":
            self._portals = {**(self._portals or self._names.portals), name: plan}

    def plan_of(self, statement: Statement) -> StatementPlan | None:
        """The plan of what EXECUTE, FETCH or MOVE runs."""
        group = {"execute": "prepared", "fetch": "portals", "move": "portals"}.get(
            statement.session_verb or ""
        )
        if group is None:
            return None
        self.used = True
        found: StatementPlan | None = self.as_mapping()[group].get(statement.session_name or "")
        return found


def write_plan(
    sql: str,
    raws: list[Node],
    statements: list[Statement],
    policy: CompiledPolicy,
    catalog: Catalog | None,
    session: SessionState,
) -> Plan | Refusal:
    """The plan of a text whose every statement passed the rules. A filter that finds no safe place is still a refusal.

    Raises:
        RewriteError: the written text does not mean what was meant.
    """
    governance = policy.governance(catalog)
    notes: list[str] = []
    columns: dict[MaskedColumn, None] = {}
    predicates: list[str] = []
    plans: list[StatementPlan] = []
    rewriter: Rewriter | None = None
    text: str | None = sql
    for statement in statements:
        governed = governance.restricts and any(governance.rules(r).governed for r in statement.references)
        masked = masked_columns(statement, governance) if governed else ()
        kinds = output_kinds(statement, governance) if masked else _NO_KINDS
        keyed: tuple[int, ...] = ()
        hidden = False
        shown: list[str] = []
        if governed or wants_limit(statement, policy):
            rewriter = rewriter or Rewriter(sql, raws)
            try:
                written = _rewrite(statement, policy, governance, catalog, rewriter, governed=governed)
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
                written = ((), False, _filters_of(statement, governance))
            if isinstance(written, Refusal):
                return written
            keyed, hidden, shown = written
            predicates += [p for p in shown if p not in predicates]
        of_name = session.plan_of(statement)
        if of_name is not None:
            masked = of_name.masked
            predicates += [p for p in of_name.predicates if p not in predicates]
        columns.update(dict.fromkeys(masked))
        plan = _plan(
            statement,
            policy,
            governance,
            of_name,
            keyed,
            kinds,
            tuple(masked),
            tuple(shown),
            hidden_returning=hidden,
            governed=governed,
        )
        session.take(statement, plan)
        plans.append(plan)
    if text is None:
        notes.append(
            "the columns behind * are not known without a catalog, so the text that would be sent is not shown"
        )
    elif rewriter is not None and rewriter.edited:
        text = rewriter.finish()
    if catalog is None:
        notes.append(_WITHOUT_CATALOG)
    notes += policy.session_notes
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
        policy.profile.name,
        policy.version,
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
    exact: bool = False,
) -> tuple[tuple[int, ...], bool, list[str]] | Refusal:
    """Write masks, filters and caps of one statement; (keyed outputs, RETURNING was added, predicates)."""
    keyed: tuple[int, ...] = ()
    hidden = False
    shown: list[str] = []
    if is_copy_of_table(statement):
        return _copy_of_table(statement, policy, governance, catalog, rewriter)
    if governed and not _stores_text(statement):
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
        try:
            targets.write()
        except RewriteError as ex:
            raise Unwritable(
                f"the mask found no place in this statement: {ex}",
                "Write SELECT with the columns by name, in place of TABLE or *.",
            ) from None
        hidden, shown = writer.hidden_returning, writer.shown
    if wants_limit(statement, policy):
        lowered = limit_rows(statement, policy, rewriter, exact=exact)
        if not lowered and statement.command == "CopyStmt":
            return Refusal(
                "statement_not_allowed",
                "COPY of a query that FETCHes WITH TIES has no bound on its rows, and this policy sets max_rows",
                "Use LIMIT, or leave out WITH TIES.",
            )
    return keyed, hidden, shown


def _stores_text(statement: Statement) -> bool:
    """A definition that keeps its queries as they are written: a view, a policy. Whoever reads it later is judged then."""
    return statement.ddl is not None and statement.ddl[0] not in ("CreateTableAsStmt", "CopyStmt")


def _copy_of_table(
    statement: Statement,
    policy: CompiledPolicy,
    governance: Governance,
    catalog: Catalog | None,
    rewriter: Rewriter,
) -> tuple[tuple[int, ...], bool, list[str]] | Refusal:
    """COPY table TO: the same rows by COPY (SELECT …) TO, masked and filtered like any SELECT."""
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
    inner_rewriter = Rewriter(query, raws)
    written = _rewrite(inner, policy, governance, catalog, inner_rewriter, governed=True, exact=True)
    if isinstance(written, Refusal):
        return written
    rewriter.copy_of_query(fields, inner_rewriter.finish() if inner_rewriter.edited else query)
    return (), False, written[2]


def _filters_of(statement: Statement, governance: Governance) -> list[str]:
    return [p.shown for r in statement.references if r.mode != "ddl" for p in governance.rules(r).filters]


_CATALOG_KINDS = frozenset(("ddl", "other"))
_SET: frozenset[Kind] = frozenset(("set",))


def _sets(statement: Statement) -> frozenset[Kind]:
    """A set_config() that was let through is a SET to the session."""
    return _SET if any(call.name == "set_config" for call in statement.calls) else frozenset()


def _plan(
    statement: Statement,
    policy: CompiledPolicy,
    governance: Governance,
    of_name: StatementPlan | None,
    keyed: tuple[int, ...],
    kinds: Mapping[int, MaskKind],
    masked: tuple[MaskedColumn, ...],
    predicates: tuple[str, ...],
    *,
    hidden_returning: bool,
    governed: bool,
) -> StatementPlan:
    references = statement.references
    cap = policy.profile.max_rows or None
    plan = StatementPlan(
        kind=statement.kind,
        kinds=frozenset(statement.kinds) | _sets(statement),
        operation=statement.operation,
        relations=tuple(dict.fromkeys(r.qualified_name for r in references)),
        returns_rows=statement.returns_rows,
        row_cap=None if is_exact(statement) and statement.session_verb == "declare" else cap,
        hidden_returning=hidden_returning,
        keyed_hashes=keyed,
        output_kinds=kinds,
        sensitive=governed,
        changes_catalog=bool(statement.kinds & _CATALOG_KINDS),
        masked=masked,
        predicates=predicates,
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
        row_cap=of_name.row_cap,
        hidden_returning=of_name.hidden_returning,
        keyed_hashes=of_name.keyed_hashes,
        output_kinds=of_name.output_kinds,
        sensitive=of_name.sensitive,
        changes_catalog=of_name.changes_catalog,
        masked=of_name.masked,
        predicates=of_name.predicates,
    )


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
