"""How what psycopg or an application makes by itself comes under the guard.

A cursor made by its own class (`psycopg.Cursor(conn)`, Django's, a `cursor_factory` set later) and the Copy inside of `copy()`
never pass a place of ours while they are made. But everything they do is a generator that they hand to the connection's `wait()`,
and a generator that has not begun still holds the arguments it was called with: `self` among them. There the object becomes one
of a guarded class, and is asked again for the generator, which is then the guarded one. (A guarded cursor says which generator of
execute() is its own, in `Session.guarded_gen`: looking into a generator takes longer than all the rest of `wait()`.)

The guard stands on private names of psycopg's; `PRIVATE_NAMES` lists them, and the tests hold them against what is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg._copy_base import BaseCopy
from psycopg._cursor_base import BaseCursor
from psycopg.generators import notifies

from guarddb.driver.announced import CHANNEL
from guarddb.driver.copy import METERED, is_metered
from guarddb.driver.cursor import CursorMixin
from guarddb.driver.cursors import guarded

if TYPE_CHECKING:
    from psycopg.abc import PQGen

    from guarddb.driver.session import Session

#: Every private name of psycopg's in use, by where psycopg has it.
PRIVATE_NAMES: dict[str, tuple[str, ...]] = {
    "psycopg._connection_base.BaseConnection": (
        "_autocommit",
        "_deallocate",
        "_exec_command",
        "_get_tx_start_command",
        "_notice_handler",
        "_notice_handlers",
        "_notify_handler",
        "_notify_handlers",
        "_pipeline",
        "_prepared",
        "_read_only",
        "_set_read_only_gen",
        "_start_query",
        "_tpc_finish_gen",
        "_tpc_prepare_gen",
    ),
    "psycopg._cursor_base.BaseCursor": (
        "_check_results",
        "_closed",
        "_conn",
        "_convert_query",
        "_execmany_returning",
        "_execute_gen",
        "_executemany_gen_no_pipeline",
        "_executemany_gen_pipeline",
        "_execute_send",
        "_get_prepared",
        "_iresult",
        "_last_query",
        "_make_row_maker",
        "_maybe_prepare_gen",
        "_pgconn",
        "_query_cls",
        "_raise_for_result",
        "_reset",
        "_results",
        "_rowcount",
        "_select_current_result",
        "_send_prepare",
        "_send_query_prepared",
        "_set_results",
        "_start_copy_gen",
        "_start_query",
        "_statusmessage",
        "_stream_fetchone_gen",
        "_stream_send_gen",
        "_tx",
    ),
    "psycopg._server_cursor_base.ServerCursorMixin": (
        "_close_gen",
        "_declare_gen",
        "_describe_gen",
        "_described",
        "_fetch_gen",
        "_format",
        "_make_declare_statement",
        "_name",
        "_scroll_gen",
        "_withhold",
    ),
    "psycopg._copy_base.BaseCopy": ("_end_copy_out_gen", "_finished", "_read_gen", "_read_row_gen"),
    "psycopg._pipeline_base.BasePipeline": ("_communicate_gen", "_exit_gen", "_fetch_gen", "_sync_gen"),
    "psycopg._preparing.PrepareManager": ("_names", "_to_flush"),
    "psycopg._queries.PostgresQuery": ("_tx",),
    "psycopg.errors.Error": ("_encoding", "_info"),
    "psycopg.errors.Diagnostic": ("_encoding", "_error_message"),
    "psycopg.pq.PGconn": ("_encoding",),
}
#: The versions (major, minor) they were found in.
HOLDS_FOR = ((3, 2), (3, 3))

#: Classes whose generators are taken as they are.
_KNOWN: set[type[Any]] = set()


def taken_in(session: Session, gen: PQGen[Any]) -> PQGen[Any]:
    """The generator to wait for in place of `gen`, which has not begun: the guarded one where it was not."""
    frame = getattr(gen, "gi_frame", None)
    if frame is None:
        return gen  # not written in Python, so not of a cursor or a Copy
    owner = frame.f_locals.get("self")
    if owner is None and session.freshness.hears and frame.f_code is notifies.__code__:
        return _others_gen(gen)
    kind = type(owner)
    if kind in _KNOWN:
        return gen
    if isinstance(owner, BaseCursor) and not isinstance(owner, CursorMixin):
        owner.__class__ = guarded(kind)
    elif kind in METERED:
        if not is_metered(session):
            return gen
        owner.__class__ = METERED[kind]
    else:
        if not isinstance(owner, BaseCopy):
            _KNOWN.add(kind)
        return gen
    arguments = dict(frame.f_locals)
    del arguments["self"]
    again: PQGen[Any] = getattr(owner, frame.f_code.co_name)(**arguments)
    return again


def _others_gen(gen: PQGen[Any]) -> PQGen[list[Any]]:
    """The notifications that the application waits for, without those that guarddb listens to."""
    found: list[Any] = yield from gen
    return [each for each in found if each.relname != CHANNEL]
