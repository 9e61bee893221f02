"""Asking the engine, and catching what it logs when it fails: an oracle wants the fault, not a page of traceback."""

from __future__ import annotations

import logging
import traceback

from guarddb.decision.compiled import CompiledPolicy
from guarddb.decision.decision import Plan
from guarddb.decision.evaluate import decide as _decide
from guarddb.sql.catalog import Catalog


class _Last(logging.Handler):
    fault = ""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{frame.filename.rpartition('/guarddb/')[2]}:{frame.lineno}"
        _Last.fault = f"{type(error).__name__}: {error} ({place})"


_handler = _Last()
_logger = logging.getLogger("guarddb")


def decide(sql: str, policy: CompiledPolicy, catalog: Catalog) -> Plan:
    if _handler not in _logger.handlers:
        _logger.addHandler(_handler)
        _logger.propagate = False
    _Last.fault = ""
    return _decide(sql, policy, catalog)


def last_fault() -> str:
    """What went wrong inside the engine in the last decision, and where."""
    return _Last.fault
