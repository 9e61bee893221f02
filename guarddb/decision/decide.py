"""The decision: policy × statement, in the order of the rules.

`RULES`, `SCRIPT_RULES` and `WRITERS` are the whole policy: what is asked of each statement, of a text of several, and what is
written into a text that has passed. What is refused is reported by the first rule that refuses. `decide` is the one function
behind the dry evaluation and the live session; it does no I/O. Between the rules and the writers the text as a whole is judged
as a migration.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType

from msgspec import structs

from guarddb.content.visible import visible
from guarddb.decision import behind_wall, deciding, held_back, scripts, writing
from guarddb.decision.access import access
from guarddb.decision.advice.advise import Refused, advise
from guarddb.decision.affected import affected_rows
from guarddb.decision.caps import row_cap
from guarddb.decision.case import Case, case_of
from guarddb.decision.definitions import definitions
from guarddb.decision.filters.rule import row_filters
from guarddb.decision.floor import floor, late_floor
from guarddb.decision.frozen import stands_on
from guarddb.decision.functions import functions
from guarddb.decision.in_place import in_place
from guarddb.decision.masks.computed import computed_with
from guarddb.decision.masks.conflicts import conflicts
from guarddb.decision.masks.rule import comes_as_null, masking
from guarddb.decision.migrations import migration_safety
from guarddb.decision.on_a_branch import on_a_branch
from guarddb.decision.on_catalog import CompiledPolicy
from guarddb.decision.plan import NO_NAMES, Decision, Facts, Handling, Plan, SessionNames, StatementPlan
from guarddb.decision.referential import referential_actions
from guarddb.decision.refusal import Finding, Refusal
from guarddb.decision.relations import relations
from guarddb.decision.shapes import ScriptRule, StatementRule, Writers
from guarddb.decision.shown_settings import shown_settings
from guarddb.decision.system_columns import closed_as_null, own_rows, secret_as_null
from guarddb.decision.wall_in_force import Wall
from guarddb.decision.writing import SessionState, write_plan
from guarddb.policy.profile import PolicyProfile
from guarddb.sql.analysis.classify import NotJudged, UnknownName, UnknownNode, read_statement
from guarddb.sql.catalog import Catalog
from guarddb.sql.encodings import read_otherwise
from guarddb.sql.statement import Statement
from guarddb.tree import Node, SQLSyntaxError, parse
from guarddb.vocabulary import Kind, Rule

__all__ = ["RULES", "SCRIPT_RULES", "WRITERS", "CompiledPolicy", "compile_policy", "decide"]

logger = logging.getLogger("guarddb")

#: The rules about one statement, in the order of the policy. Budgets and approvals come after it, in the session.
RULES: tuple[StatementRule, ...] = (
    floor,
    access,
    on_a_branch,
    functions,
    relations,
    secret_as_null,
    in_place,
    masking,
    comes_as_null,
    conflicts,
    computed_with,
    late_floor,
    row_filters,
    stands_on,
    referential_actions,
    definitions,
    affected_rows,
)
#: The rules that have nothing to say of a statement that only reads. They are not asked of plain queries, which are most.
ABOUT_CHANGES: frozenset[StatementRule] = frozenset(
    (on_a_branch, conflicts, computed_with, stands_on, referential_actions, definitions, affected_rows)
)
_RULES_FOR_QUERIES = tuple(rule for rule in RULES if rule not in ABOUT_CHANGES)
#: The rules about how the statements of one text go together.
SCRIPT_RULES: tuple[ScriptRule, ...] = (
    scripts.transaction_control,
    scripts.reads_what_it_changed,
)
#: What puts the policy into a text that has passed, in the order in which it is written.
WRITERS = Writers(
    (writing.masks, writing.filters, writing.targets),
    (own_rows, closed_as_null, shown_settings, row_cap),
)

#: The same where a wall masks and filters: names of relations, and what has to wait for a filter.
WRITERS_BEHIND_A_WALL = Writers((held_back.hold_back, behind_wall.names), WRITERS.announced)

#: What a profile that forbids nothing lets through although the engine would refuse it: there is nothing that a
#: text could get around. What guarddb itself cannot carry out, and the server's own files, stay refused.
_PASSED_ON: frozenset[Rule] = frozenset(("parse_error", "statement_not_allowed", "table_not_allowed"))
_PLAIN: frozenset[Kind] = frozenset(("select",))
#: Nothing is known about such a text, so afterwards everything is looked at again.
_UNREAD = StatementPlan(
    Facts(
        kind="other",
        kinds=frozenset(("other",)),
        operation="",
        relations=(),
        returns_rows=True,
        transaction=None,
        session_verb=None,
        session_name=None,
        holds=False,
        chains=False,
    ),
    Handling(
        row_cap=None,
        hidden_returning=False,
        keyed_hashes=(),
        output_kinds=MappingProxyType({}),
        sensitive=False,
        changes_catalog=True,
        changes_settings=True,
        checks_rows=False,
        affected_cap=None,
        waits=False,
        countable=False,
        masked=(),
        predicates=(),
    ),
)


def compile_policy(
    profile: PolicyProfile, settings: Mapping[str, str] | None = None, version: str | None = None
) -> CompiledPolicy:
    """Prepare a profile for judging. `settings` (the caller's) go over the profile's own `guarddb.settings`."""
    return CompiledPolicy(profile, version or profile.version, settings or {})


def decide(
    sql: str,
    policy: CompiledPolicy,
    catalog: Catalog | None,
    names: SessionNames = NO_NAMES,
    wall: Wall | None = None,
) -> Plan:
    """Judge a text and say how to carry it out. Pure: no I/O, no clock. Never raises.

    Args:
        names: what the session has prepared and declared under a name.
        wall: the views through which PostgreSQL itself masks and filters, or None where guarddb does.
    """
    session = SessionState(names)
    judging: list[Case] = []
    answer = _answer(sql, policy, catalog, session, judging, wall)
    if isinstance(answer, Plan):
        return answer
    # A NUL byte would end the text for the server, but not for the log.
    if policy.profile.forbids_nothing and answer.rule in _PASSED_ON and "\0" not in sql:
        return _passed_on(sql, answer, policy, session)

    def judge(text: str) -> Plan | Refused:
        seen: list[Case] = []
        found = _answer(text, policy, catalog, SessionState(names), seen, wall)
        return found if isinstance(found, Plan) else Refused(text, found, _only(seen))

    advised = advise(Refused(sql, answer, _only(judging)), policy, catalog, judge)
    decision = Decision(
        "block",
        advised.rule,
        visible(advised.reason, lines=False),
        None if advised.hint is None else visible(advised.hint),
        try_sql=advised.try_sql,
        policy_name=policy.profile.name,
        policy_version=policy.version,
        policy_id=policy.profile.id,
        deciding=deciding.of_refusal(answer, judging[-1] if judging else None),
    )
    return Plan(decision, uses_session=session.used)


def _answer(
    sql: str,
    policy: CompiledPolicy,
    catalog: Catalog | None,
    session: SessionState,
    judging: list[Case],
    wall: Wall | None,
) -> Plan | Refusal:
    """The plan or the refusal, whatever happens."""
    try:
        return _decide(sql, policy, catalog, session, judging, wall)
    except RecursionError:
        return Refusal("parse_error", "the text nests too deeply to be judged", "Write it with fewer levels.")
    except Exception:
        logger.exception("the decision failed; the statement is refused")
        return Refusal(
            "internal_error",
            "guarddb could not judge this statement and refuses it; the log has the details",
            "Write the statement in a simpler way.",
        )


def is_plain(statement: Statement) -> bool:
    """Whether it reads and does nothing else, in no part of it."""
    return statement.kinds == _PLAIN and statement.ddl is None and not statement.definitions


def _only(cases: list[Case]) -> Statement | None:
    """The facts of a text's one statement."""
    return cases[0].statement if len(cases) == 1 else None


def _passed_on(sql: str, refusal: Refusal, policy: CompiledPolicy, session: SessionState) -> Plan:
    decision = Decision(
        "allow",
        "ok",
        "this policy forbids nothing, so the text is passed on as it is",
        rewritten_sql=sql,
        notes=(f"any other policy refuses it ({refusal.rule}): {refusal.reason}", *policy.session_notes),
        policy_name=policy.profile.name,
        policy_version=policy.version,
        policy_id=policy.profile.id,
    )
    return Plan(decision, sql, (_UNREAD,), uses_session=session.used)


def _decide(
    sql: str,
    policy: CompiledPolicy,
    catalog: Catalog | None,
    session: SessionState,
    judged: list[Case],
    wall: Wall | None,
) -> Plan | Refusal:
    try:
        raws = parse(sql)
    except SQLSyntaxError as ex:
        where = f" at character {ex.position + 1}" if ex.position is not None else ""
        return Refusal("parse_error", f"the text is not a PostgreSQL statement: {ex}{where}", ex.hint)
    if not raws:
        return Refusal("empty", "the text holds no statement", "Send a statement.")
    if catalog is not None and (name := read_otherwise(sql, catalog.encoding)) is not None:
        return Refusal(
            "statement_not_allowed",
            f"the name {name} is refused: this database is in {catalog.encoding} and may read it as another name",
            "Write names with letters beyond ASCII in double quotes, and none longer than 63 bytes of UTF-8.",
        )
    findings: list[Finding] = []
    for raw in raws:
        refusal = _judge(raw, policy, catalog, session, judged, findings, wall)
        if refusal is not None:
            return refusal
    cases = tuple(judged)
    if len(cases) > 1:
        for rule in SCRIPT_RULES:
            answer = rule(cases)
            if isinstance(answer, Refusal):
                return answer
            if answer is not None:
                findings.append(answer)
    safety = migration_safety(sql, raws, cases)
    if isinstance(safety, Refusal):
        return safety
    noted, warnings = safety
    findings += noted
    writers = WRITERS if wall is None else WRITERS_BEHIND_A_WALL
    plan = write_plan(sql, raws, cases, writers, policy, catalog, session, tuple(findings))
    return structs.replace(plan, warnings=warnings) if warnings and isinstance(plan, Plan) else plan


def _judge(
    raw: Node,
    policy: CompiledPolicy,
    catalog: Catalog | None,
    session: SessionState,
    judged: list[Case],
    findings: list[Finding],
    wall: Wall | None,
) -> Refusal | None:
    """Ask the rules about one statement. Its case is added to `judged` before they are asked."""
    try:
        statement = read_statement(raw, catalog, session.as_mapping())
    except UnknownNode as ex:
        return Refusal(
            "internal_error",
            f"guarddb does not know this kind of statement or expression ({ex}) and refuses what it cannot judge",
            "Write the statement in another way.",
        )
    except NotJudged as ex:
        why, *instead = ex.args
        return Refusal(
            "statement_not_allowed", why, instead[0] if instead else "Send the statements one by one."
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
    case = case_of(statement, policy, catalog, wall)
    judged.append(case)
    for rule in _RULES_FOR_QUERIES if is_plain(statement) else RULES:
        answer = rule(case)
        if isinstance(answer, Refusal):
            return answer
        if answer is not None:
            findings.append(answer)
    session.announce(statement)
    return None
