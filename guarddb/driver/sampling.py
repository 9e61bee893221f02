"""A sample of what a held statement changes, for the person who is asked: a trial run of its own, which is rolled back."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import Error, OperationalError, errors as e, pq
from psycopg._queries import PostgresClientQuery
from psycopg.generators import execute, fetch_many, send

from guarddb.decision import sample
from guarddb.driver import undo
from guarddb.driver.asking import ask_gen, explain_gen
from guarddb.driver.scoring import PLANNED, planned_rows
from guarddb.runtime.approvals import ChangedRow
from guarddb.sql.rewriting.edits import RewriteError
from guarddb.tree import SQLSyntaxError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.abc import Params, PQGen
    from psycopg.pq.abc import PGresult

    from guarddb.decision.sample import SampledStatement
    from guarddb.driver.plans import JudgedText
    from guarddb.driver.session import Session

logger = logging.getLogger("guarddb")

FATAL_ERROR = pq.ExecStatus.FATAL_ERROR
_GOES_ON = (pq.TransactionStatus.IDLE, pq.TransactionStatus.INTRANS)
#: What stands for a new value that differs from the old one, where the mask of both is the same.
_CHANGED = "(changed, masked)"


@dataclass(frozen=True, slots=True)
class Sample:
    """What a trial run has told. `counted`: rows it has touched, None where it does not tell."""

    counted: int | None = None
    rows: tuple[ChangedRow, ...] = ()


NOTHING = Sample()


def sample_gen(
    session: Session, conn: Any, pgq: Any, sets: Sequence[Params], *, lifted: bool
) -> PQGen[Sample]:
    """Run a statement that was taken back once more, in the form that tells what it changes, and take that back.

    Without an open transaction the trial has one of its own, so that no lock is left when a person is asked. Where there is no
    such form, or it fails, there is no sample: the request then goes out without.

    Args:
        sets: of executemany(); the first few are tried.
        lifted: without the profile's masks.
    """
    judged: JudgedText = pgq.judged
    if conn.pgconn.status != pq.ConnStatus.OK or conn.pgconn.transaction_status not in _GOES_ON:
        return NOTHING
    try:
        prepare, statements = _texts(session, conn, judged, lifted=lifted)
    except (SQLSyntaxError, RewriteError, ValueError, LookupError, TypeError) as ex:
        logger.debug("a statement has no form that samples: %s", type(ex).__name__)
        return NOTHING
    if not any(each.columns for each in statements):
        return NOTHING
    opened = yield from undo.open_gen(session, conn, first=False)
    is_prepared = False
    found = NOTHING
    try:
        if prepare is not None:
            yield from ask_gen(conn, prepare.encode(session.encoding))
            is_prepared = True
        if sets:
            rows = yield from _many_gen(session, conn, pgq, statements, sets)
            found = Sample(None, rows)
        else:
            results = yield from _run_gen(conn, _joined(statements, session), pgq)
            found = _read(session, statements, results)
    except (Error, UnicodeError) as ex:
        logger.debug("a sample could not be taken: %s", type(ex).__name__)
    finally:
        if opened is not None:
            yield from undo.back_gen(session, conn, opened)
        if is_prepared and conn.pgconn.status == pq.ConnStatus.OK:
            yield from ask_gen(conn, sample.FORGET_PREPARED.encode())
    return found


def estimated_gen(session: Session, conn: Any, pgq: Any) -> PQGen[int | None]:
    """The planner's guess of the rows of a write that cannot be counted, by EXPLAIN; None where there is none."""
    judged: JudgedText = pgq.judged
    inside = conn.pgconn.transaction_status == pq.TransactionStatus.INTRANS
    if len(judged.statements) != 1 or conn._pipeline is not None or conn.pgconn.status != pq.ConnStatus.OK:
        return None
    facts = judged.statements[0].facts
    if not (inside or conn.pgconn.transaction_status == pq.TransactionStatus.IDLE):
        return None
    if facts.kind not in PLANNED or not facts.kinds <= PLANNED or facts.session_verb is not None:
        return None
    opened = None
    if inside:
        opened = yield from undo.open_gen(session, conn, first=False)
    try:
        return planned_rows((yield from explain_gen(conn, judged.sent, pgq, generic=False)))
    except (Error, ValueError, LookupError, TypeError) as ex:
        logger.debug("the rows of a statement could not be estimated: %s", type(ex).__name__)
        return None
    finally:
        if opened is not None:
            yield from undo.back_gen(session, conn, opened)


def _texts(
    session: Session, conn: Any, judged: JudgedText, *, lifted: bool
) -> tuple[str | None, tuple[SampledStatement, ...]]:
    """What to PREPARE first, if anything, and what to run."""
    policy, catalog = session.in_force, session.catalog
    if policy is None or catalog is None:
        return None, ()
    text = judged.sent.decode(session.encoding)
    compiled, major = policy.compiled.policy, conn.pgconn.server_version // 10_000
    openings = prepared_texts(session, judged)
    if not openings or len(judged.statements) > 1:
        return None, sample.sampled(text, compiled, catalog, major, lifted=lifted)
    both = sample.prepared(openings[0], text, compiled, catalog, major, lifted=lifted)
    return (None, ()) if both is None else (both[0], (both[1],))


def prepared_texts(session: Session, judged: JudgedText) -> list[str]:
    """What stands behind the EXECUTEs of a text, each once: the texts that prepared it."""
    found: dict[str, None] = {}
    for statement in judged.statements:
        remembered = session.names.prepared.get(statement.facts.session_name or "")
        if statement.facts.session_verb == "execute" and remembered is not None:
            found[remembered.judged.sent.decode(session.encoding)] = None
    return list(found)


def _joined(statements: Sequence[SampledStatement], session: Session) -> bytes:
    return "\n;".join(each.sql for each in statements).encode(session.encoding)


def _many_gen(
    session: Session,
    conn: Any,
    pgq: Any,
    statements: Sequence[SampledStatement],
    sets: Sequence[Params],
) -> PQGen[tuple[ChangedRow, ...]]:
    rows: list[ChangedRow] = []
    # (Of a client-side cursor each set is another text.)
    chosen = sets[:1] if isinstance(pgq, PostgresClientQuery) else sets[: sample.ROWS]
    try:
        for each in chosen:
            if not isinstance(pgq, PostgresClientQuery):
                pgq._psycopgs_dump(each)
            results = yield from _run_gen(conn, _joined(statements, session), pgq)
            rows += _read(session, statements, results).rows
    finally:
        if not isinstance(pgq, PostgresClientQuery):
            pgq._psycopgs_dump(sets[0])
    return tuple(rows[: sample.ROWS])


def _run_gen(conn: Any, text: bytes, pgq: Any) -> PQGen[list[PGresult]]:
    """Send a text of guarddb's own with the parameters of a statement; its results."""
    pgconn = conn.pgconn
    bound = pgq.params and not isinstance(pgq, PostgresClientQuery)  # (whose values stand in the text)
    if bound:
        pgconn.send_query_params(text, pgq.params, param_types=pgq.types, param_formats=pgq.formats)
    elif conn._pipeline is None:
        pgconn.send_query(text)
    else:
        pgconn.send_query_params(text, None)
    if conn._pipeline is None:
        results: list[PGresult] = yield from execute(pgconn)
    else:
        pgconn.pipeline_sync()
        yield from send(pgconn)
        results = yield from fetch_many(pgconn)
        yield from fetch_many(pgconn)
    for result in results:
        if result.status == FATAL_ERROR:
            raise e.error_from_result(result, encoding=pgconn._encoding)
    return results


def _read(session: Session, statements: Sequence[SampledStatement], results: Sequence[PGresult]) -> Sample:
    if len(results) != len(statements):
        raise OperationalError("the server did not answer each statement of a sample")
    counted: int | None = 0
    rows: list[ChangedRow] = []
    for statement, result in zip(statements, results, strict=True):
        if not statement.columns:
            counted = None
            continue
        for number in range(result.ntuples):
            values = [result.get_value(number, column) for column in range(result.nfields)]
            if number == 0 and counted is not None:
                counted += int(values[0] or 0)
            rows.append(_row(session, statement, values))
    return Sample(counted, tuple(rows[: sample.ROWS]))


def _row(session: Session, statement: SampledStatement, values: Sequence[bytes | None]) -> ChangedRow:
    old: dict[str, str | None] = {}
    new: dict[str, str | None] = {}
    has_old, has_new = (value == b"t" for value in values[1:3])
    for place, column in enumerate(statement.columns):
        before, after, differs = values[3 + 3 * place : 6 + 3 * place]
        texts = [_shown(session, value, keyed=column.keyed) for value in (before, after)]
        if column.masked and has_old and has_new and differs == b"t" and texts[0] == texts[1]:
            texts[1] = _CHANGED
        old[column.name], new[column.name] = texts
    return ChangedRow(statement.table, old if has_old else None, new if has_new else None)


def _shown(session: Session, value: bytes | None, *, keyed: bool) -> str | None:
    if value is None:
        return None
    text = value.decode(session.encoding, "backslashreplace")
    if keyed:
        return session.keyed_hash(text.encode()) if session.keyed_hash is not None else None
    return text if len(text) <= sample.CHARACTERS else f"{text[: sample.CHARACTERS]}…"
