"""Which columns a system relation has, and in which order, in one version of PostgreSQL.

The facts join the columns of all versions. A star, and an alias list over it, need those of the server at hand.
"""

from __future__ import annotations

from guarddb.facts.functions import SystemRelation

#: The newest version of the facts, whose columns come first, and those between which nothing is gone again.
_NEWEST = 18
_COVERED = range(16, _NEWEST + 1)
#: Relations that differ between these versions, and how many columns the newest has no more.
_DIFFERENT: dict[str, int] = {
    "information_schema.element_types": 1,
    "pg_catalog.pg_aios": 0,
    "pg_catalog.pg_attribute": 1,
    "pg_catalog.pg_backend_memory_contexts": 1,
    "pg_catalog.pg_class": 0,
    "pg_catalog.pg_collation": 1,
    "pg_catalog.pg_constraint": 0,
    "pg_catalog.pg_database": 1,
    "pg_catalog.pg_publication": 0,
    "pg_catalog.pg_replication_slots": 0,
    "pg_catalog.pg_shmem_allocations_numa": 0,
    "pg_catalog.pg_stat_all_tables": 0,
    "pg_catalog.pg_stat_bgwriter": 7,
    "pg_catalog.pg_stat_checkpointer": 0,
    "pg_catalog.pg_stat_database": 0,
    "pg_catalog.pg_stat_io": 1,
    "pg_catalog.pg_stat_progress_analyze": 0,
    "pg_catalog.pg_stat_progress_copy": 0,
    "pg_catalog.pg_stat_progress_vacuum": 2,
    "pg_catalog.pg_stat_subscription": 0,
    "pg_catalog.pg_stat_subscription_stats": 0,
    "pg_catalog.pg_stat_sys_tables": 0,
    "pg_catalog.pg_stat_user_tables": 0,
    "pg_catalog.pg_stat_wal": 4,
    "pg_catalog.pg_statistic_ext": 0,
    "pg_catalog.pg_stats": 0,
    "pg_catalog.pg_subscription": 0,
    "pg_catalog.pg_wait_events": 0,
}


def columns_of(relation: SystemRelation, server_version: int) -> tuple[str, ...] | None:
    """The columns of a system relation on a server, in order; None where the facts do not say.

    `server_version` as libpq gives it, 180004 for 18.4.
    """
    major = server_version // 10_000
    gone = _DIFFERENT.get(relation.qualified_name)
    if gone is None:
        return relation.columns if major in _COVERED else None
    return relation.columns[: len(relation.columns) - gone] if major == _NEWEST else None
