"""executemany(): psycopg's generator, within what is about all of its sets of parameters together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from psycopg import pq

from guarddb.driver import at_once, steps, taking_back
from guarddb.driver.holding import copied_sets

if TYPE_CHECKING:
    from psycopg.abc import Params, PQGen, Query

    from guarddb.driver.session import Session

IDLE = pq.TransactionStatus.IDLE


def many_gen(
    cursor: Any,
    gen: Callable[[Query, Iterable[Params], bool], PQGen[None]],
    query: Query,
    params_seq: Iterable[Params],
    returning: bool,
) -> PQGen[None]:
    """executemany(): psycopg's generator, within what is about all of its sets of parameters together."""
    session: Session = cursor._conn._guard
    surrounds = session.in_force is not None and session.in_force.surrounds
    if session.scoring is None and not surrounds:
        plain = gen(query, params_seq, returning)
        return plain if params_seq else _begun_gen(cursor, plain)
    sets = params_seq if isinstance(params_seq, Sequence) else list(params_seq)
    if surrounds and sets:
        run = partial(_many_carried_gen, cursor, query, sets, lambda sets: gen(query, sets, returning))
    else:
        run = partial(gen, query, sets, returning)
    if not sets:
        return _begun_gen(cursor, run())
    return run() if session.scoring is None else _many_scored_gen(session, len(sets), run)


def row_gen(cursor: Any, pgq: Any, *, prepare: bool | None, binary: bool | None) -> PQGen[None]:
    """What is between judging and sending one set of parameters, and its sending.

    Each is counted, approved and inspected by itself. But a set of the same types as the one before comes to the same prepared
    statement, and psycopg's way there is left out: it takes longer than all that guarddb does.
    """
    conn = cursor._conn
    judged = getattr(pgq, "judged", None)
    if judged is not None and judged.surrounded and not conn._guard.in_many:
        run = partial(cursor._psycopgs_maybe_prepare_gen, pgq, prepare=prepare, binary=binary)
        return taking_back.carried_gen(cursor, pgq, run)
    before = steps.before(cursor, pgq)
    gen: PQGen[None]
    if judged is not None and judged.takes and at_once.commits(cursor, judged):
        gen = at_once.sent_gen(cursor, pgq, prepare=prepare, binary=binary)
        return gen if before is None else steps.one_after_the_other_gen(conn._guard, before, gen)
    if before is not None:
        gen = cursor._psycopgs_maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
        return steps.one_after_the_other_gen(conn._guard, before, gen)
    pipeline = conn._pipeline
    if pipeline is not None and cursor._guard_sends_by_name and prepare and binary is None:
        types = pgq.types
        prepared = conn._prepared
        if getattr(pgq, "sent_with", None) == types and prepared.prepare_threshold is not None:
            name = prepared._names.get((pgq.query, types))
            if name is not None:
                steps.approve(cursor, pgq)
                send = conn.pgconn.send_query_prepared
                params, formats = pgq.params, pgq.formats
                if pipeline.command_queue:
                    pipeline.command_queue.append(
                        partial(send, name, params, param_formats=formats, result_format=cursor.format)
                    )
                else:
                    # It would be the next, after one more look at whether the socket is ready.
                    send(name, params, param_formats=formats, result_format=cursor.format)
                pipeline.result_queue.append((cursor, None))
                return steps.NOTHING_TO_WAIT_FOR
        pgq.sent_with = types
    gen = cursor._psycopgs_maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
    return gen


def _begun_gen(cursor: Any, run: PQGen[None]) -> PQGen[None]:
    """executemany() of nothing: psycopg begins a transaction all the same."""
    yield from run
    conn = cursor._conn
    if not conn._autocommit and conn.pgconn.transaction_status == IDLE:
        yield from conn._guard_begin_gen()


def _many_scored_gen(session: Session, number: int, run: Callable[[], PQGen[None]]) -> PQGen[None]:
    """The action policy wants to know the number of sets of parameters before the first is sent."""
    assert session.scoring is not None
    session.scoring.begin_many(number)
    try:
        yield from run()
    finally:
        session.scoring.begin_many(None)


def _many_carried_gen(
    cursor: Any, query: Query, sets: Sequence[Params], run: Callable[[Sequence[Params]], PQGen[None]]
) -> PQGen[None]:
    """All of them are taken back together, when one has to be."""
    conn = cursor._conn
    session: Session = conn._guard
    yield from cursor._start_query(query)
    pgq = cursor._convert_query(query, sets[0])
    if not pgq.judged.surrounded:
        cursor._guard_results().ahead = pgq
        yield from run(sets)
        return
    if pgq.judged.waits:
        sets = copied_sets(
            sets
        )  # what is approved is what runs, whatever the program makes of its objects meanwhile
    way: Literal["first", "again"] = "first"

    def run_all() -> PQGen[None]:
        nonlocal way
        yield from cursor._start_query(query)
        cursor._guard_results().ahead = cursor._convert_query(query, sets[0])
        session.in_many, way = way, "again"
        try:
            yield from run(sets)
            if conn._pipeline is not None:
                yield from conn._pipeline._sync_gen()
        finally:
            session.in_many = ""

    yield from taking_back.carried_gen(cursor, pgq, run_all, sets=sets)
