"""A policy guard for the SQL that AI agents write, inside psycopg.

`guarddb.connect()` in place of `psycopg.connect()`; everything else stays. psycopg's public names are here,
so that `import guarddb as psycopg` works, but none that is called `psycopg` itself: SQLAlchemy's async
adapter copies a driver module's dict over its own attributes, and would then connect with the plain driver.
"""

from __future__ import annotations

from typing import Any

from psycopg import (
    BINARY as BINARY,
)
from psycopg import (
    DATETIME as DATETIME,
)
from psycopg import (
    NUMBER as NUMBER,
)
from psycopg import (
    ROWID as ROWID,
)
from psycopg import (
    STRING as STRING,
)
from psycopg import (
    AsyncCopy as AsyncCopy,
)
from psycopg import (
    AsyncPipeline as AsyncPipeline,
)
from psycopg import (
    AsyncTransaction as AsyncTransaction,
)
from psycopg import (
    BaseConnection as BaseConnection,
)
from psycopg import (
    Binary as Binary,
)
from psycopg import (
    Capabilities as Capabilities,
)
from psycopg import (
    Column as Column,
)
from psycopg import (
    ConnectionInfo as ConnectionInfo,
)
from psycopg import (
    Copy as Copy,
)
from psycopg import (
    DatabaseError as DatabaseError,
)
from psycopg import (
    DataError as DataError,
)
from psycopg import (
    Date as Date,
)
from psycopg import (
    DateFromTicks as DateFromTicks,
)
from psycopg import (
    Error as Error,
)
from psycopg import (
    IntegrityError as IntegrityError,
)
from psycopg import (
    InterfaceError as InterfaceError,
)
from psycopg import (
    InternalError as InternalError,
)
from psycopg import (
    IsolationLevel as IsolationLevel,
)
from psycopg import (
    Notify as Notify,
)
from psycopg import (
    NotSupportedError as NotSupportedError,
)
from psycopg import (
    OperationalError as OperationalError,
)
from psycopg import (
    Pipeline as Pipeline,
)
from psycopg import (
    ProgrammingError as ProgrammingError,
)
from psycopg import (
    Rollback as Rollback,
)
from psycopg import (
    Time as Time,
)
from psycopg import (
    TimeFromTicks as TimeFromTicks,
)
from psycopg import (
    Timestamp as Timestamp,
)
from psycopg import (
    TimestampFromTicks as TimestampFromTicks,
)
from psycopg import (
    Transaction as Transaction,
)
from psycopg import (
    Warning as Warning,
)
from psycopg import (
    Xid as Xid,
)
from psycopg import __version__ as __version__
from psycopg import (
    abc as abc,
)
from psycopg import (
    adapt as adapt,
)
from psycopg import (
    adapters as adapters,
)
from psycopg import (
    apilevel as apilevel,
)
from psycopg import (
    capabilities as capabilities,
)
from psycopg import (
    conninfo as conninfo,
)
from psycopg import (
    dbapi20 as dbapi20,
)
from psycopg import errors as _psycopg_errors
from psycopg import (
    paramstyle as paramstyle,
)
from psycopg import (
    postgres as postgres,
)
from psycopg import (
    pq as pq,
)
from psycopg import (
    rows as rows,
)
from psycopg import sql as _psycopg_sql
from psycopg import (
    threadsafety as threadsafety,
)
from psycopg import (
    types as types,
)

from guarddb import errors as errors
from guarddb import sql as sql
from guarddb.decision import evaluate as _engine
from guarddb.decision.decision import Decision as Decision
from guarddb.driver.connection import AsyncConnection as AsyncConnection
from guarddb.driver.connection import Connection as Connection
from guarddb.driver.connection import connect as connect
from guarddb.driver.cursors import AsyncClientCursor as AsyncClientCursor
from guarddb.driver.cursors import AsyncCursor as AsyncCursor
from guarddb.driver.cursors import AsyncRawCursor as AsyncRawCursor
from guarddb.driver.cursors import AsyncRawServerCursor as AsyncRawServerCursor
from guarddb.driver.cursors import AsyncServerCursor as AsyncServerCursor
from guarddb.driver.cursors import ClientCursor as ClientCursor
from guarddb.driver.cursors import Cursor as Cursor
from guarddb.driver.cursors import RawCursor as RawCursor
from guarddb.driver.cursors import RawServerCursor as RawServerCursor
from guarddb.driver.cursors import ServerCursor as ServerCursor
from guarddb.driver.install import install as install
from guarddb.driver.install import uninstall as uninstall
from guarddb.errors import ApprovalExpired as ApprovalExpired
from guarddb.errors import ApprovalRejected as ApprovalRejected
from guarddb.errors import BudgetExceeded as BudgetExceeded
from guarddb.errors import PolicyError as PolicyError
from guarddb.errors import PolicyUnavailable as PolicyUnavailable
from guarddb.errors import PolicyViolation as PolicyViolation
from guarddb.policy.load import load_policy as load_policy
from guarddb.policy.profile import MaskingRule as MaskingRule
from guarddb.policy.profile import PolicyProfile as PolicyProfile
from guarddb.policy.profile import RowFilter as RowFilter
from guarddb.policy.profile import StatementRules as StatementRules
from guarddb.sql.catalog import Catalog as Catalog

# `guarddb.errors` and `guarddb.sql` are modules of our own; under `import guarddb as psycopg` they must also
# be what psycopg's are (`psycopg.errors.UniqueViolation`, `psycopg.sql.SQL`).
for _ours, _theirs in ((errors, _psycopg_errors), (sql, _psycopg_sql)):
    for _name, _value in vars(_theirs).items():
        if not _name.startswith("_") and not hasattr(_ours, _name):
            setattr(_ours, _name, _value)
del _ours, _theirs, _name, _value

if hasattr(_engine, "evaluate"):
    evaluate: Any = _engine.evaluate
