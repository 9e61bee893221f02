"""What the built-in functions that are more than computation do, in groups, each with the reason it passes or is refused.

VOLATILE alone says nothing: `pg_is_in_recovery()` is VOLATILE and harmless, `query_to_xml()` is STABLE and runs any
SQL. So every VOLATILE function of pg_catalog, and every STABLE one that looks beyond its arguments, belongs to one of
the groups below. A group passes, or passes unless a policy hides something that its functions would tell of, or is
refused; some of those that are refused can be opened by a profile (`guarddb.function_groups`). A function of a newer
PostgreSQL that is VOLATILE and in no group is refused until somebody has looked at it.

docs/functions.md is made from this list (`python -m guarddb.cli.generate_functions_document`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

#: What a policy may hide that a function could tell of: rows behind a filter, values behind a mask, relations that a
#: list closes; `written`: values behind a mask that may be overwritten, so that a guess can be tried on them; `place`: values
#: behind a mask that decide in which partition a row is. What counts rows behind a filter counts those of a partition too.
Hidden: TypeAlias = Literal["filter", "mask", "list", "written", "place"]


def telling(*tells: Hidden) -> frozenset[Hidden]:
    """What somebody tells of who tells of these."""
    counts = "filter" in tells and "mask" not in tells
    return frozenset((*tells, "place")) if counts else frozenset(tells)


#: passes: always; unless_hidden: unless the policy hides what `tells` names; refused.
Standing: TypeAlias = Literal["passes", "unless_hidden", "refused"]


@dataclass(frozen=True, slots=True)
class Group:
    """A group of built-in functions that are judged alike.

    Attributes:
        name: as a profile's `function_groups` names it.
        members: names of functions; a name may end in `*`.
        what: what they do; completes "it …".
        standing: whether they pass.
        tells: with `unless_hidden`, what they would tell of.
        openable: a profile may open the group by name.
        named_relation: the first argument names the relation it is about; where that is a constant and the relation is
            open and unfiltered, the call passes although the policy hides others.
    """

    name: str
    members: tuple[str, ...]
    what: str
    standing: Standing
    tells: frozenset[Hidden] = frozenset()
    openable: bool = False
    named_relation: bool = False


def _passes(name: str, members: str, what: str) -> Group:
    return Group(name, tuple(members.split()), what, "passes")


def _unless(name: str, members: str, what: str, *tells: Hidden, named_relation: bool = False) -> Group:
    return Group(
        name,
        tuple(members.split()),
        what,
        "unless_hidden",
        telling(*tells),
        openable=True,
        named_relation=named_relation,
    )


def _refused(name: str, members: str, what: str, *, openable: bool = False) -> Group:
    return Group(name, tuple(members.split()), what, "refused", openable=openable)


GROUPS: tuple[Group, ...] = (
    # --- what passes ---
    _passes(
        "clock_and_random",
        "random random_normal clock_timestamp timeofday gen_random_uuid uuidv4 uuidv7 array_sample array_shuffle setseed",
        "only reads the clock or a random source; setseed() moves nothing but this session's own random()",
    ),
    _passes(
        "partitions",
        "pg_partition_tree pg_partition_ancestors",
        "lists the names of partitions, which pg_inherits lists as well",
    ),
    _passes(
        "replication_state",
        """pg_is_in_recovery pg_is_wal_replay_paused pg_get_wal_replay_pause_state
        pg_last_xact_replay_timestamp pg_control_init pg_control_system
        pg_replication_origin_progress pg_replication_origin_session_is_setup pg_replication_origin_session_progress
        pg_show_replication_origin_status pg_available_wal_summaries
        pg_stat_get_recovery_prefetch pg_stat_get_subscription pg_stat_get_subscription_stats pg_stat_get_archiver""",
        "shows how far recovery and replication are, no data",
    ),
    _passes(
        "server_state",
        """pg_notification_queue_usage pg_blocking_pids pg_safe_snapshot_blocking_pids pg_collation_actual_version
        pg_database_collation_actual_version pg_get_wait_events pg_get_wal_resource_managers pg_get_loaded_modules
        pg_current_logfile pg_jit_available pg_get_shmem_allocations pg_get_shmem_allocations_numa
        pg_stat_have_stats pg_get_aios pg_prepared_xact amvalidate
        pg_stat_get_bgwriter_stat_reset_time pg_stat_get_checkpointer_stat_reset_time pg_stat_get_checkpointer_num_*
        pg_stat_get_checkpointer_restartpoints_* pg_stat_get_bgwriter_timed_checkpoints
        pg_stat_get_bgwriter_requested_checkpoints pg_stat_get_snapshot_timestamp pg_isolation_test_session_is_blocked""",
        "shows the state of the server process: memory, waits, versions, no data",
    ),
    _passes(
        "transactions",
        """pg_xact_status txid_status pg_xact_commit_timestamp pg_xact_commit_timestamp_origin pg_last_committed_xact
        pg_get_multixact_members""",
        "says what became of a transaction of a given number",
    ),
    _passes(
        "backends",
        """pg_stat_get_backend_dbid pg_stat_get_backend_idset pg_stat_get_backend_pid pg_stat_get_backend_start
        pg_stat_get_backend_subxact pg_stat_get_backend_userid pg_stat_get_backend_wait_event
        pg_stat_get_backend_wait_event_type pg_stat_get_backend_xact_start pg_stat_get_backend_activity_start""",
        "says which sessions there are and what they wait for, not what they run",
    ),
    _passes(
        "own_session", "pg_stat_clear_snapshot", "only forgets what this session has read of the statistics"
    ),
    # --- what passes unless the policy hides what it would tell of ---
    _unless(
        "sizes",
        "pg_relation_size pg_table_size pg_indexes_size pg_total_relation_size",
        "tells how large a relation is, and with it about how many rows it has",
        "filter",
        "list",
        named_relation=True,
    ),
    _unless(
        "database_sizes",
        "pg_database_size pg_tablespace_size",
        "tells how large the database is, and its growth tells of rows",
        "filter",
    ),
    _unless(
        "statement_text",
        "current_query",
        "shows the statement that was really sent, with the filters and masks that were written into it",
        "filter",
        "mask",
    ),
    _unless(
        "locks",
        "pg_lock_status",
        "shows which pages and rows a serializable transaction has read",
        "filter",
    ),
    _unless(
        "statistics",
        """pg_stat_get_xact_* pg_stat_get_tuples_* pg_stat_get_live_tuples pg_stat_get_dead_tuples
        pg_stat_get_mod_since_analyze pg_stat_get_ins_since_vacuum pg_stat_get_numscans pg_stat_get_blocks_*
        pg_stat_get_db_* pg_stat_get_io pg_stat_get_backend_io
        pg_stat_get_function_* pg_stat_get_*_count pg_stat_get_last_*_time pg_stat_get_total_*_time
        pg_stat_get_lastscan pg_stat_get_slru pg_stat_get_buf_* pg_stat_get_bgwriter_buf_* pg_stat_get_checkpoint_*
        pg_stat_get_bgwriter_maxwritten_clean pg_stat_get_checkpointer_buffers_written
        pg_stat_get_checkpointer_slru_written pg_stat_get_checkpointer_write_time
        pg_stat_get_checkpointer_sync_time""",
        "counts rows and pages that were read or written, whatever a filter hides",
        "filter",
    ),
    _unless(
        "row_updates",
        """pg_stat_get_tuples_hot_updated pg_stat_get_tuples_newpage_updated pg_stat_get_xact_tuples_hot_updated
        pg_stat_get_xact_tuples_newpage_updated""",
        "counts updates that left every indexed value as it was, which tells whether a guess equals a value",
        "filter",
        "mask",
    ),
    # An UPDATE writes what differs from the old row (log_heap_update): a guess that begins as the value does is shorter.
    _unless(
        "wal_positions",
        """pg_current_wal_lsn pg_current_wal_insert_lsn pg_current_wal_flush_lsn pg_last_wal_receive_lsn
        pg_last_wal_replay_lsn pg_stat_get_wal_senders pg_stat_get_wal_receiver pg_get_wal_summarizer_state
        pg_get_replication_slots pg_control_checkpoint pg_control_recovery""",
        "shows how much an UPDATE wrote to the log, which tells how far a guess equals the value that was there",
        "written",
    ),
    _unless(
        "wal_statistics",
        "pg_stat_get_backend_wal pg_stat_get_wal pg_stat_get_replication_slot",
        "counts what was written to the log, which tells of hidden rows, and how far a guess equals the value that was there",
        "filter",
        "written",
    ),
    # Names and sizes; each file is as long as any other, so that the list says no more than a position in the log does.
    _unless(
        "wal_files",
        """pg_ls_waldir pg_ls_archive_statusdir pg_ls_replslotdir pg_ls_logicalmapdir pg_ls_logicalsnapdir
        pg_ls_summariesdir""",
        "lists the files of the log and of replication with their sizes, and with them how much was written",
        "filter",
        "mask",
        "list",
        "written",
    ),
    _unless(
        "directories",
        "pg_ls_logdir pg_ls_tmpdir",
        "lists the files in a directory of the server with their sizes, and with them how much was logged or sorted",
        "filter",
        "mask",
        "list",
    ),
    _unless(
        "progress",
        "pg_stat_get_progress_info",
        "counts the rows that a running command has gone through",
        "filter",
    ),
    _unless(
        "sequence_values",
        "pg_sequence_last_value pg_get_sequence_data",
        "tells the last number a sequence gave, and with it how many rows were ever made",
        "filter",
        "mask",
    ),
    _unless(
        "wal_content",
        "pg_wal_summary_contents",
        "lists the blocks that were written, table by table",
        "filter",
        "list",
    ),
    # --- what is refused, and may be opened ---
    _refused(
        "activity",
        """pg_stat_get_activity pg_stat_get_backend_activity pg_stat_get_backend_client_addr
        pg_stat_get_backend_client_port""",
        "shows the SQL text of other sessions, with the values in it",
        openable=True,
    ),
    _refused(
        "session_objects",
        "pg_prepared_statement pg_cursor pg_get_backend_memory_contexts",
        "shows the text of statements prepared in this session, perhaps by another that shares it through a pool",
        openable=True,
    ),
    _refused(
        "waits",
        "pg_sleep pg_sleep_for pg_sleep_until",
        "only holds a connection and its locks",
        openable=True,
    ),
    _refused(
        "notifications",
        "pg_notify",
        "sends a message of any content to other sessions",
        openable=True,
    ),
    # --- what is refused ---
    _refused(
        "runs_sql",
        """query_to_xml query_to_xmlschema query_to_xml_and_xmlschema table_to_xml table_to_xmlschema
        table_to_xml_and_xmlschema schema_to_xml schema_to_xmlschema schema_to_xml_and_xmlschema database_to_xml
        database_to_xmlschema database_to_xml_and_xmlschema cursor_to_xml cursor_to_xmlschema ts_stat ts_rewrite""",
        "runs SQL text, or a query made from a name, that this policy never sees",
    ),
    _refused(
        "sampled_values",
        "pg_mcv_list_items",
        "shows sampled column values",
    ),
    _refused(
        "settings",
        "set_config",
        "changes a setting; SET says the same and is judged by the setting it names",
    ),
    _refused(
        "sequences",
        "nextval setval currval lastval",
        "moves or shows a sequence; a profile that writes may list it in function_allowlist",
    ),
    _refused(
        "advisory_locks",
        "pg_advisory_* pg_try_advisory_*",
        "takes or gives back a lock that outlives a rollback; a profile that writes may list it in function_allowlist",
    ),
    _refused(
        "large_objects",
        "lo_* loread lowrite",
        "works on large objects, which are outside every rule of a profile",
    ),
    _refused(
        "files",
        """pg_read_file pg_read_file_old pg_read_binary_file pg_stat_file pg_ls_dir pg_tablespace_databases
        pg_hba_file_rules pg_ident_file_mappings pg_show_all_file_settings""",
        "reads files or directories of the server",
    ),
    _refused(
        "signals",
        "pg_cancel_backend pg_terminate_backend pg_log_backend_memory_contexts",
        "interferes with another session",
    ),
    _refused(
        "snapshots",
        "pg_export_snapshot",
        "hands this transaction's view of the data to other sessions",
    ),
    _refused(
        "row_versions",
        "currtid2",
        "looks up row versions of a table that is named by a text",
    ),
    _refused(
        "wal_messages",
        "pg_logical_emit_message",
        "writes to the log of changes, also in a read-only transaction",
    ),
    _refused(
        "administration",
        """pg_backup_start pg_backup_stop pg_create_restore_point pg_switch_wal pg_promote pg_wal_replay_pause
        pg_wal_replay_resume pg_reload_conf pg_rotate_logfile pg_rotate_logfile_old pg_log_standby_snapshot
        pg_import_system_collations pg_extension_config_dump pg_nextoid pg_stop_making_pinned_objects
        pg_stat_reset pg_stat_reset_* pg_stat_force_next_flush pg_clear_attribute_stats pg_clear_relation_stats
        pg_restore_attribute_stats pg_restore_relation_stats brin_summarize_new_values brin_summarize_range
        brin_desummarize_range gin_clean_pending_list binary_upgrade_*""",
        "administers the server or its statistics",
    ),
    _refused(
        "replication",
        """pg_create_physical_replication_slot pg_create_logical_replication_slot pg_drop_replication_slot
        pg_copy_physical_replication_slot pg_copy_logical_replication_slot pg_replication_slot_advance
        pg_sync_replication_slots pg_logical_slot_get_changes pg_logical_slot_get_binary_changes
        pg_logical_slot_peek_changes pg_logical_slot_peek_binary_changes pg_replication_origin_create
        pg_replication_origin_drop pg_replication_origin_advance pg_replication_origin_session_setup
        pg_replication_origin_session_reset pg_replication_origin_xact_setup pg_replication_origin_xact_reset""",
        "makes, moves or reads a replication slot or origin, and with it every change of every table",
    ),
    _refused(
        "hooks",
        """RI_FKey_* suppress_redundant_updates_trigger tsvector_update_trigger tsvector_update_trigger_column
        unique_key_recheck plpgsql_call_handler plpgsql_inline_handler plpgsql_validator fmgr_*_validator *handler
        dsnowball_init dsnowball_lexize bernoulli system satisfies_hash_partition""",
        "is a hook that only the server itself calls",
    ),
)

#: What a profile's `function_groups` may name.
OPENABLE: tuple[str, ...] = tuple(group.name for group in GROUPS if group.openable)


def _pattern(member: str) -> str:
    return re.escape(member).replace(r"\*", ".*")


_EXACT: dict[str, Group] = {
    member: group for group in GROUPS for member in group.members if "*" not in member
}
_GLOBS: tuple[tuple[re.Pattern[str], Group], ...] = tuple(
    (re.compile(_pattern(member)), group) for group in GROUPS for member in group.members if "*" in member
)


@cache
def group_of(name: str) -> Group | None:
    """The group of a built-in function; None for one that only computes (or that nobody has looked at).

    >>> group_of("pg_total_relation_size").name
    'sizes'
    >>> group_of("lower") is None
    True
    """
    found = _EXACT.get(name)
    if found is not None:
        return found
    return next((group for pattern, group in _GLOBS if pattern.fullmatch(name)), None)
