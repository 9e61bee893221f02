"""A policy guard for the SQL that AI agents write, inside psycopg.

`guarddb.connect()` in place of `psycopg.connect()`; everything else stays. psycopg's public names are here,
so that `import guarddb as psycopg` works, but none that is called `psycopg` itself: SQLAlchemy's async
adapter copies a driver module's dict over its own attributes, and would then connect with the plain driver.
"""

from __future__ import annotations

from psycopg import (
    BINARY,
    DATETIME,
    NUMBER,
    ROWID,
    STRING,
    AsyncCopy,
    AsyncPipeline,
    AsyncTransaction,
    BaseConnection,
    Binary,
    Capabilities,
    Column,
    ConnectionInfo,
    Copy,
    DatabaseError,
    DataError,
    Date,
    DateFromTicks,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    IsolationLevel,
    Notify,
    NotSupportedError,
    OperationalError,
    Pipeline,
    ProgrammingError,
    Rollback,
    Time,
    TimeFromTicks,
    Timestamp,
    TimestampFromTicks,
    Transaction,
    Warning,
    Xid,
    __version__,
    abc,
    adapt,
    adapters,
    apilevel,
    capabilities,
    conninfo,
    dbapi20,
    errors as _psycopg_errors,
    paramstyle,
    postgres,
    pq,
    rows,
    sql as _psycopg_sql,
    threadsafety,
    types,
)

from guarddb import errors, risk, sql
from guarddb.decision.plan import Decision
from guarddb.driver.branches import DatabaseBranches
from guarddb.driver.connection import (
    AsyncConnection,
    Connection,
    connect,
)
from guarddb.driver.cursors import (
    AsyncClientCursor,
    AsyncCursor,
    AsyncRawCursor,
    AsyncRawServerCursor,
    AsyncServerCursor,
    ClientCursor,
    Cursor,
    RawCursor,
    RawServerCursor,
    ServerCursor,
)
from guarddb.driver.decision_table import PostgresSink
from guarddb.driver.install import install, uninstall
from guarddb.errors import (
    ApprovalExpired,
    ApprovalRejected,
    BudgetExceeded,
    PolicyError,
    PolicyUnavailable,
    PolicyViolation,
)
from guarddb.evaluation import evaluate
from guarddb.lint.finding import Finding
from guarddb.lint.migrations import lint  # the function takes the place of the package of that name
from guarddb.policy.load import load_policy
from guarddb.policy.profile import (
    MaskingRule,
    PolicyProfile,
    RowFilter,
    StatementRules,
)
from guarddb.runtime.approvals import Answer, ApprovalRequest
from guarddb.runtime.decision_log import DecisionRecord
from guarddb.runtime.jsonl import JsonlSink
from guarddb.runtime.terminal import TerminalApprover
from guarddb.sql.catalog import Catalog

#: What other people's code may use: guarddb's own names, and psycopg's where they mean the same.
__all__ = [
    "BINARY",
    "DATETIME",
    "NUMBER",
    "ROWID",
    "STRING",
    "Answer",
    "ApprovalExpired",
    "ApprovalRejected",
    "ApprovalRequest",
    "AsyncClientCursor",
    "AsyncConnection",
    "AsyncCopy",
    "AsyncCursor",
    "AsyncPipeline",
    "AsyncRawCursor",
    "AsyncRawServerCursor",
    "AsyncServerCursor",
    "AsyncTransaction",
    "BaseConnection",
    "Binary",
    "BudgetExceeded",
    "Capabilities",
    "Catalog",
    "ClientCursor",
    "Column",
    "Connection",
    "ConnectionInfo",
    "Copy",
    "Cursor",
    "DataError",
    "DatabaseBranches",
    "DatabaseError",
    "Date",
    "DateFromTicks",
    "Decision",
    "DecisionRecord",
    "Error",
    "Finding",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "IsolationLevel",
    "JsonlSink",
    "MaskingRule",
    "NotSupportedError",
    "Notify",
    "OperationalError",
    "Pipeline",
    "PolicyError",
    "PolicyProfile",
    "PolicyUnavailable",
    "PolicyViolation",
    "PostgresSink",
    "ProgrammingError",
    "RawCursor",
    "RawServerCursor",
    "Rollback",
    "RowFilter",
    "ServerCursor",
    "StatementRules",
    "TerminalApprover",
    "Time",
    "TimeFromTicks",
    "Timestamp",
    "TimestampFromTicks",
    "Transaction",
    "Warning",
    "Xid",
    "__version__",
    "abc",
    "adapt",
    "adapters",
    "apilevel",
    "capabilities",
    "connect",
    "conninfo",
    "dbapi20",
    "errors",
    "evaluate",
    "install",
    "lint",
    "load_policy",
    "paramstyle",
    "postgres",
    "pq",
    "risk",
    "rows",
    "sql",
    "threadsafety",
    "types",
    "uninstall",
]

# `guarddb.errors` and `guarddb.sql` are modules of our own; under `import guarddb as psycopg` they must also
# be what psycopg's are (`psycopg.errors.UniqueViolation`, `psycopg.sql.SQL`).
for _ours, _theirs in ((errors, _psycopg_errors), (sql, _psycopg_sql)):
    for _name, _value in vars(_theirs).items():
        if not _name.startswith("_") and not hasattr(_ours, _name):
            setattr(_ours, _name, _value)
del _ours, _theirs, _name, _value
