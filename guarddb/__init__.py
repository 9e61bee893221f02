"""A policy guard for the SQL that AI agents write, inside psycopg.

`guarddb.connect()` in place of `psycopg.connect()`; everything else stays. psycopg's public names are here,
so that `import guarddb as psycopg` works, but none that is called `psycopg` itself: SQLAlchemy's async
adapter copies a driver module's dict over its own attributes, and would then connect with the plain driver.
"""

from __future__ import annotations

from psycopg import (
    BINARY as BINARY,
    DATETIME as DATETIME,
    NUMBER as NUMBER,
    ROWID as ROWID,
    STRING as STRING,
    AsyncCopy as AsyncCopy,
    AsyncPipeline as AsyncPipeline,
    AsyncTransaction as AsyncTransaction,
    BaseConnection as BaseConnection,
    Binary as Binary,
    Capabilities as Capabilities,
    Column as Column,
    ConnectionInfo as ConnectionInfo,
    Copy as Copy,
    DatabaseError as DatabaseError,
    DataError as DataError,
    Date as Date,
    DateFromTicks as DateFromTicks,
    Error as Error,
    IntegrityError as IntegrityError,
    InterfaceError as InterfaceError,
    InternalError as InternalError,
    IsolationLevel as IsolationLevel,
    Notify as Notify,
    NotSupportedError as NotSupportedError,
    OperationalError as OperationalError,
    Pipeline as Pipeline,
    ProgrammingError as ProgrammingError,
    Rollback as Rollback,
    Time as Time,
    TimeFromTicks as TimeFromTicks,
    Timestamp as Timestamp,
    TimestampFromTicks as TimestampFromTicks,
    Transaction as Transaction,
    Warning as Warning,
    Xid as Xid,
    __version__ as __version__,
    abc as abc,
    adapt as adapt,
    adapters as adapters,
    apilevel as apilevel,
    capabilities as capabilities,
    conninfo as conninfo,
    dbapi20 as dbapi20,
    errors as _psycopg_errors,
    paramstyle as paramstyle,
    postgres as postgres,
    pq as pq,
    rows as rows,
    sql as _psycopg_sql,
    threadsafety as threadsafety,
    types as types,
)

from guarddb import errors as errors, risk as risk, sql as sql
from guarddb.decision.plan import Decision as Decision
from guarddb.driver.connection import (
    AsyncConnection as AsyncConnection,
    Connection as Connection,
    connect as connect,
)
from guarddb.driver.cursors import (
    AsyncClientCursor as AsyncClientCursor,
    AsyncCursor as AsyncCursor,
    AsyncRawCursor as AsyncRawCursor,
    AsyncRawServerCursor as AsyncRawServerCursor,
    AsyncServerCursor as AsyncServerCursor,
    ClientCursor as ClientCursor,
    Cursor as Cursor,
    RawCursor as RawCursor,
    RawServerCursor as RawServerCursor,
    ServerCursor as ServerCursor,
)
from guarddb.driver.install import install as install, uninstall as uninstall
from guarddb.errors import (
    ApprovalExpired as ApprovalExpired,
    ApprovalRejected as ApprovalRejected,
    BudgetExceeded as BudgetExceeded,
    PolicyError as PolicyError,
    PolicyUnavailable as PolicyUnavailable,
    PolicyViolation as PolicyViolation,
)
from guarddb.evaluation import evaluate as evaluate
from guarddb.lint.finding import Finding as Finding
from guarddb.lint.migrations import lint as lint  # the function takes the place of the package of that name
from guarddb.policy.load import load_policy as load_policy
from guarddb.policy.profile import (
    MaskingRule as MaskingRule,
    PolicyProfile as PolicyProfile,
    RowFilter as RowFilter,
    StatementRules as StatementRules,
)
from guarddb.sql.catalog import Catalog as Catalog

# `guarddb.errors` and `guarddb.sql` are modules of our own; under `import guarddb as psycopg` they must also
# be what psycopg's are (`psycopg.errors.UniqueViolation`, `psycopg.sql.SQL`).
for _ours, _theirs in ((errors, _psycopg_errors), (sql, _psycopg_sql)):
    for _name, _value in vars(_theirs).items():
        if not _name.startswith("_") and not hasattr(_ours, _name):
            setattr(_ours, _name, _value)
del _ours, _theirs, _name, _value
