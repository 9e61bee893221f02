"""Pipelines: what has waited for a definition is found when its answer comes, or before what it wrote can be committed.

An answer that comes late is put aside, with all that come behind it, until a look has been taken within the pipeline's
transaction: then it is handed to its cursor, or not. And the Sync or COMMIT that would commit what was written is sent when the
answers to it are there and the same is known of them.
"""

from __future__ import annotations

from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from psycopg import AsyncPipeline, Pipeline, errors as e, pq
from psycopg._pipeline_base import BasePipeline

from guarddb.driver import steps, waited
from guarddb.driver.asking import ask_within_gen
from guarddb.driver.fixed_snapshot import names_gen
from guarddb.driver.watch import same_within_gen
from guarddb.errors import PolicyViolation

if TYPE_CHECKING:
    from psycopg.abc import PQGen

    from guarddb.driver.plans import JudgedText
    from guarddb.driver.session import Session
    from guarddb.sql.catalog import Catalog

ABORTED = pq.PipelineStatus.ABORTED
ACTIVE = pq.TransactionStatus.ACTIVE
IDLE = pq.TransactionStatus.IDLE
INERROR = pq.TransactionStatus.INERROR


class PipelineMixin(BasePipeline):
    """psycopg's pipeline, which sees to what is put aside, and to what is about to be committed."""

    def _fetch_gen(self, *, flush: bool) -> PQGen[None]:
        session: Session = self._conn._guard  # type: ignore[attr-defined]
        try:
            yield from super()._fetch_gen(flush=flush)
        except e.Error:
            if session.deferred:
                yield from settled_gen(session, self._conn)
            raise
        if session.deferred:
            yield from settled_gen(session, self._conn)

    def _sync_gen(self) -> PQGen[None]:
        session: Session = self._conn._guard  # type: ignore[attr-defined]
        if session.outstanding:
            yield from before_commit_gen(session, self._conn)
        yield from super()._sync_gen()

    def _exit_gen(self) -> PQGen[None]:
        session: Session = self._conn._guard  # type: ignore[attr-defined]
        try:
            if session.outstanding:
                yield from before_commit_gen(session, self._conn)
        finally:
            yield from super()._exit_gen()


class GuardedPipeline(PipelineMixin, Pipeline):
    """Of a sync connection."""

    __module__ = "guarddb"


class GuardedAsyncPipeline(PipelineMixin, AsyncPipeline):
    """Of an async one."""

    __module__ = "guarddb"


_GUARDED: dict[type[BasePipeline], type[BasePipeline]] = {
    Pipeline: GuardedPipeline,
    AsyncPipeline: GuardedAsyncPipeline,
}


def take_in(pipeline: BasePipeline) -> None:
    """Make a pipeline of psycopg's a guarded one."""
    pipeline.__class__ = _GUARDED[type(pipeline)]


def settled_gen(session: Session, conn: Any) -> PQGen[None]:
    """Take a look, and hand the answers that were put aside to their cursors.

    Raises:
        PolicyViolation: one of them met something else than its text was judged by. Its cursor has no result then.
    """
    if session.settling:
        return
    session.settling = True
    error: e.Error | None = None
    try:
        while session.deferred:
            batch, session.deferred = session.deferred, []
            try:
                how = yield from _looked_gen(session, conn)
            except BaseException:
                session.deferred = batch + session.deferred
                raise
            for cursor, results, judged, span, catalog in batch:
                try:
                    yield from _met_gen(session, conn, judged, catalog, how)
                    steps.after(cursor, results, (judged, span))
                except e.Error as ex:
                    error = error or ex
                    if isinstance(ex, PolicyViolation):
                        cursor._reset()
    finally:
        session.settling = False
    if error is not None:
        raise error


def before_commit_gen(session: Session, conn: Any) -> PQGen[None]:
    """Before a Sync or COMMIT is sent: wait for the answers to what it would commit, and have it fail where one has met another.

    Raises:
        PolicyViolation: the transaction has failed.
    """
    pipeline, pgconn = conn._pipeline, conn.pgconn
    yield from pipeline._communicate_gen()
    yield from pipeline._fetch_gen(flush=True)
    if pgconn.pipeline_status == ABORTED or pgconn.transaction_status == INERROR:
        return
    how: Looked = "same"
    if perf_counter() >= session.freshness.overdue_at or session.freshness.fixed:
        how = yield from _looked_gen(session, conn)
    for judged, catalog in tuple(session.outstanding.items()):
        yield from _met_gen(session, conn, judged, catalog, how)
    session.outstanding.clear()


#: What a look says: all is as it was; names have to be asked about, within a transaction that must not end; what is known now is
#: newer than the statements, and they can be judged by it; or nothing, for the transaction has failed.
Looked = Literal["same", "names", "newer", "failed"]


def _looked_gen(session: Session, conn: Any) -> PQGen[Looked]:
    freshness, pipeline, pgconn = session.freshness, conn._pipeline, conn.pgconn
    freshness.told()  # (No look that began before is enough.)
    status = pgconn.transaction_status
    # (Of an implicit transaction libpq says IDLE when it has read all answers.)
    implicit = status == IDLE and session.outstanding
    busy = pipeline is not None and (
        pipeline.command_queue or pipeline.result_queue or status == ACTIVE or implicit
    )
    if pgconn.pipeline_status == ABORTED or status == INERROR or session.catalog is None:
        return "failed"
    if busy:
        same = yield from same_within_gen(session, conn, session.catalog)
        freshness.verified.clear()
        return "same" if same and not freshness.fixed else "names"
    yield from conn._guard_refresh_gen()
    return "newer"


def _met_gen(
    session: Session, conn: Any, judged: JudgedText, catalog: Catalog | None, how: Looked
) -> PQGen[None]:
    """Raises PolicyViolation where a statement has met something else; its transaction has failed then, if it wrote.

    `catalog`: what was known when it was sent. (Settings that the application has changed since are not about it.)
    """
    if not waited.meets(judged):
        return
    known = catalog is session.catalog
    if known and (how == "same" or (how == "newer" and not session.freshness.fixed)):
        return
    try:
        if how == "failed":
            raise session.refuse(judged, session.under_its_policy(waited.MOVED))
        if how == "names":
            yield from names_gen(session, conn, judged)
        if how == "newer" or not known:
            yield from waited.judged_again_gen(session, conn, judged)
    except PolicyViolation:
        if judged.takes and conn._pipeline is not None and how != "failed":
            with suppress(e.Error):
                yield from ask_within_gen(conn, waited.FAIL)
        raise
