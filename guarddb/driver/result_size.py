"""How many bytes of data a large result holds, without looking at each value.

Some rows are measured, and the result is taken to be like them. So that nobody hides large values between them, that guess is
held between two bounds that follow from the memory the result takes (`PQresultMemorySize`, libpq 12), less what libpq adds to
each value and row. psycopg's own wrapper does not have the function; it is found in the library that psycopg has loaded.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from psycopg import pq

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

#: sizeof(PGresAttValue), and the NUL behind each value.
_PER_VALUE = 16
_NUL = 1
#: What binary values are aligned to, and how much of a block stays unused at the most, as a share.
_ALIGNMENT = 8
_UNUSED = 0.5
#: Rows that are measured.
_SAMPLE = 256


def _memory_size() -> Callable[[int], int] | None:
    try:
        if pq.__impl__ == "python":
            library: Any = importlib.import_module("psycopg.pq._pq_ctypes").pq
        else:
            # The symbols of a library that is loaded are found with those it depends on.
            library = ctypes.CDLL(str(importlib.import_module(f"psycopg_{pq.__impl__}.pq").__file__))
        function: Any = library.PQresultMemorySize
        function.argtypes = [ctypes.c_void_p]
        function.restype = ctypes.c_size_t
    except (ImportError, OSError, AttributeError):
        return None
    return lambda pointer: int(function(pointer))


MEMORY_SIZE = _memory_size()
#: Values from which on it pays.
LARGE = 4_096


def data_size(result: PGresult, columns: int) -> int | None:
    """About the bytes of data of a whole result; None where they cannot be bounded without looking at the values."""
    pointer: int | None = getattr(result, "pgresult_ptr", None)
    rows = result.ntuples
    if MEMORY_SIZE is None or pointer is None or rows < _SAMPLE:
        return None
    get_value = result.get_value
    sampled = 0
    step = rows // _SAMPLE
    for row in range(step // 2, step * _SAMPLE, step):
        for column in range(columns):
            if value := get_value(row, column):
                sampled += len(value)
    guess = sampled * rows // _SAMPLE
    # A pointer for each row there is room for: libpq doubles it.
    most = MEMORY_SIZE(pointer) - rows * columns * _PER_VALUE - 8 * (1 << (rows - 1).bit_length())
    least = int((most - rows * columns * (_NUL + _ALIGNMENT)) * _UNUSED)
    return max(least, min(guess, most))
