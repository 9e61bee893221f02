"""System relations that are not for everybody, as a whole or in single columns, each with what it would tell.

Everything else of pg_catalog and information_schema may be read.
"""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from functools import cache

from guarddb.facts.groups import Hidden, telling

#: They show secrets, sampled data or prepared SQL as a whole: only with an explicit schema-qualified allowlist entry.
RESTRICTED = frozenset(
    {
        "pg_catalog.pg_stat_statements",
        "pg_catalog.pg_prepared_statements",
        "pg_catalog.pg_cursors",
        # The text of every cached plan is in it.
        "pg_catalog.pg_backend_memory_contexts",
        "pg_catalog.pg_authid",
        "pg_catalog.pg_shadow",
        "pg_catalog.pg_largeobject",
        "pg_catalog.pg_statistic_ext_data",
        "information_schema.user_mapping_options",
        # The tables below the two above that name options; their views are built on them.
        "information_schema._pg_user_mappings",
        # Configuration files: LDAP bind passwords, primary_conninfo with its password. Superusers alone see
        # them.
        "pg_catalog.pg_hba_file_rules",
        "pg_catalog.pg_ident_file_mappings",
        "pg_catalog.pg_file_settings",
    }
)

#: The same by name in whatever schema: extensions' views of other sessions' statements and their constants.
RESTRICTED_OF_EXTENSIONS = frozenset(
    {"pg_stat_statements", "pg_stat_monitor", "pg_store_plans", "pg_qualstats", "pg_qualstats_all"}
)


def is_restricted_relation(schema: str, name: str) -> bool:
    """Whether reading this relation takes an explicit schema-qualified entry in the allowlist."""
    return f"{schema}.{name}" in RESTRICTED or name in RESTRICTED_OF_EXTENSIONS


@dataclass(frozen=True, slots=True)
class ClosedColumns:
    """Columns of a system relation that are not for everybody.

    Attributes:
        columns: their names; None: every one, and how many rows there are.
        what: what they show; completes "it …".
        tells: closed while the policy hides one of these; empty: closed under every policy, as a restricted relation
            is.
        own_row: a column that is the caller's own where another function says so: the rows of this very session.
    """

    columns: frozenset[str] | None
    what: str
    tells: frozenset[Hidden] = frozenset()
    own_row: bool = False


_ROWS = telling("filter")
_COUNTS = "counts rows and pages that were read or written"


def _columns(names: str, what: str, *tells: Hidden, own_row: bool = False) -> tuple[ClosedColumns, ...]:
    return (ClosedColumns(frozenset(names.split()), what, telling(*tells), own_row),)


_HOT = _columns(
    "n_tup_hot_upd n_tup_newpage_upd",
    "counts updates that left every indexed value as it was, which tells whether a guess equals a value",
    "filter",
    "mask",
)
_OF_TABLES = _columns(
    """seq_scan seq_tup_read idx_scan idx_tup_fetch n_tup_ins n_tup_upd n_tup_del n_live_tup n_dead_tup
    n_mod_since_analyze n_ins_since_vacuum last_seq_scan last_idx_scan""",
    _COUNTS,
    "filter",
)
#: (When an index was last used tells, too, that it was: the sub-select of a filter asks it for rows that a condition found.)
_OF_INDEXES = _columns("idx_scan idx_tup_read idx_tup_fetch last_idx_scan", _COUNTS, "filter")
#: Of all the pg_statio views; each has some of them.
OF_PAGES = frozenset(
    f"{of}blks_{what}" for of in ("", "heap_", "idx_", "toast_", "tidx_") for what in ("read", "hit")
)
_OF_PAGES = ClosedColumns(OF_PAGES, _COUNTS, _ROWS)


_LOG = "shows how much was written to the log, which tells how far a guess equals the value that was there"
_PROGRESS = "counts the rows and pages that a running command has gone through"

#: What of a relation of pg_catalog is closed, by its name.
CLOSED: dict[str, tuple[ClosedColumns, ...]] = {
    "pg_stat_activity": _columns("query", "shows the SQL text of other sessions", own_row=True),
    **{
        name: _columns(
            """most_common_vals histogram_bounds most_common_elems range_bounds_histogram stavalues1 stavalues2
            stavalues3 stavalues4 stavalues5""",
            "shows sampled values of columns",
        )
        + _columns(
            """null_frac n_distinct avg_width most_common_freqs most_common_elem_freqs elem_count_histogram correlation
            range_length_histogram range_empty_frac dependencies most_common_val_nulls most_common_base_freqs
            stanullfrac stawidth stadistinct stanumbers1 stanumbers2 stanumbers3 stanumbers4 stanumbers5""",
            "tells how the values of columns are spread",
            "filter",
            "mask",
            "list",
        )
        for name in ("pg_statistic", "pg_stats", "pg_stats_ext", "pg_stats_ext_exprs")
    },
    "pg_subscription": _columns("subconninfo", "shows how to connect to another server, password and all"),
    **{
        name: _columns("umoptions", "shows how to connect to another server, password and all")
        for name in ("pg_user_mapping", "pg_user_mappings")
    },
    "pg_attribute": _columns(
        "attmissingval", "keeps a value of the column's old rows", "filter", "mask", "list"
    ),
    "pg_class": _columns(
        "reltuples relpages relallvisible relallfrozen",
        "counts the rows of tables",
        "filter",
    ),
    **{f"pg_stat_{scope}_tables": (*_OF_TABLES, *_HOT) for scope in ("all", "sys", "user")},
    **{f"pg_stat_xact_{scope}_tables": (*_OF_TABLES, *_HOT) for scope in ("all", "sys", "user")},
    **{f"pg_stat_{scope}_indexes": _OF_INDEXES for scope in ("all", "sys", "user")},
    **{
        f"pg_statio_{scope}_{what}": (_OF_PAGES,)
        for scope in ("all", "sys", "user")
        for what in ("tables", "indexes", "sequences")
    },
    "pg_stat_user_functions": _columns(
        "calls total_time self_time", "counts how often a function ran", "filter"
    ),
    "pg_stat_xact_user_functions": _columns(
        "calls total_time self_time", "counts how often a function ran", "filter"
    ),
    # Read it before and after a query, and the difference is the table.
    "pg_stat_database": _columns(
        """blks_read blks_hit tup_returned tup_fetched tup_inserted tup_updated tup_deleted temp_files temp_bytes
        blk_read_time blk_write_time active_time""",
        _COUNTS,
        "filter",
    ),
    "pg_stat_io": _columns(
        """reads read_bytes read_time writes write_bytes write_time writebacks writeback_time extends extend_bytes
        extend_time hits evictions reuses fsyncs fsync_time""",
        _COUNTS,
        "filter",
    ),
    # Of a row without hint bits the server looks up what became of the transaction that wrote it.
    "pg_stat_slru": _columns(
        "blks_zeroed blks_hit blks_read blks_written blks_exists flushes truncates", _COUNTS, "filter"
    ),
    "pg_stat_bgwriter": _columns(
        """buffers_clean maxwritten_clean buffers_alloc buffers_checkpoint buffers_backend buffers_backend_fsync
        checkpoint_write_time checkpoint_sync_time""",
        _COUNTS,
        "filter",
    ),
    "pg_stat_checkpointer": _columns("buffers_written slru_written write_time sync_time", _COUNTS, "filter"),
    "pg_stat_wal": _columns(
        "wal_records wal_fpi wal_bytes wal_buffers_full wal_write wal_sync wal_write_time wal_sync_time",
        _LOG,
        "filter",
        "written",
    ),
    "pg_stat_replication_slots": _columns(
        "spill_txns spill_count spill_bytes stream_txns stream_count stream_bytes total_txns total_bytes",
        _LOG,
        "filter",
        "written",
    ),
    "pg_stat_replication": _columns("sent_lsn write_lsn flush_lsn replay_lsn", _LOG, "written"),
    "pg_stat_wal_receiver": _columns("written_lsn flushed_lsn latest_end_lsn", _LOG, "written"),
    "pg_replication_slots": _columns("safe_wal_size restart_lsn confirmed_flush_lsn", _LOG, "written"),
    "pg_stat_progress_analyze": _columns(
        "sample_blks_total sample_blks_scanned ext_stats_total ext_stats_computed", _PROGRESS, "filter"
    ),
    "pg_stat_progress_cluster": _columns(
        "heap_tuples_scanned heap_tuples_written heap_blks_total heap_blks_scanned", _PROGRESS, "filter"
    ),
    "pg_stat_progress_copy": _columns(
        "bytes_processed bytes_total tuples_processed tuples_excluded tuples_skipped", _PROGRESS, "filter"
    ),
    "pg_stat_progress_create_index": _columns(
        "blocks_total blocks_done tuples_total tuples_done", _PROGRESS, "filter"
    ),
    "pg_stat_progress_vacuum": _columns(
        """heap_blks_total heap_blks_scanned heap_blks_vacuumed max_dead_tuple_bytes dead_tuple_bytes
        num_dead_item_ids max_dead_tuples num_dead_tuples""",
        _PROGRESS,
        "filter",
    ),
    # The next value of an identity column tells how many rows were ever inserted.
    "pg_sequences": _columns("last_value", "tells how many rows were ever made", "filter", "mask"),
    # A serializable transaction holds one for each row that it has read: their number is enough.
    "pg_locks": (
        ClosedColumns(None, "shows which rows and pages serializable transactions have read", _ROWS),
    ),
}
#: A sequence is a relation of one row, and tells the same.
SEQUENCE = _columns("last_value log_cnt is_called", "tells how many rows were ever made", "filter", "mask")
#: An extension's view of which pages of which table are in memory.
_OF_EXTENSIONS: dict[str, tuple[ClosedColumns, ...]] = {
    "pg_buffercache": (ClosedColumns(None, "shows which pages of a table were read", _ROWS),),
}


_RESTRICTED = (ClosedColumns(None, "shows other sessions' SQL, secrets or sampled data"),)
_TOAST = (ClosedColumns(None, "holds raw column data that no rule covers"),)


@cache
def closed_columns(schema: str, name: str) -> tuple[ClosedColumns, ...]:
    """What is closed in a relation; empty for one that may be read whole.

    >>> [sorted(closed.columns) for closed in closed_columns("pg_catalog", "pg_subscription")]
    [['subconninfo']]
    >>> closed_columns("pg_catalog", "pg_authid")[0].columns is None
    True
    """
    if is_restricted_relation(schema, name):
        return _RESTRICTED
    if schema.startswith("pg_toast"):
        return _TOAST
    return CLOSED.get(name, ()) if schema == "pg_catalog" else _OF_EXTENSIONS.get(name, ())


_COUNT_OF_ALL = re.compile(r"\bcount\s*\(\s*\*\s*\)", re.IGNORECASE)


#: The relations that are closed under every policy, by their names, with the columns that are; None: all of it.
_SECRETS: dict[str, frozenset[str] | None] = {
    **{name: closed.columns for name, found in CLOSED.items() for closed in found if not closed.tells},
    **dict.fromkeys((each.partition(".")[2] for each in RESTRICTED), None),
    **dict.fromkeys(RESTRICTED_OF_EXTENSIONS, None),
}


def secret_named_in(words: Set[str], text: str) -> str | None:
    """The first of them that a function's text may read, by the words in it.

    >>> secret_named_in({"passwd", "pg_shadow"}, "SELECT passwd FROM pg_shadow")
    'pg_shadow'
    >>> secret_named_in({"count", "pg_stat_activity"}, "SELECT count(*) FROM pg_stat_activity") is None
    True
    """
    for name in sorted(_SECRETS.keys() & words):
        columns = _SECRETS[name]
        if columns is None or columns & words or "*" in _COUNT_OF_ALL.sub("", text):
            return name
    return None
