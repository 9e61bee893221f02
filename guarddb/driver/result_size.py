"""How many bytes of data a large result holds, without looking at each value.

libpq says how much memory a result takes (`PQresultMemorySize`, libpq 12): its values, and what libpq adds to each value, row
and block. What it adds is learnt from some rows, by laying them out as libpq does; whatever of the memory they do not explain is
data. So nobody hides large values between the rows that are measured, and these are drawn anew each time.

psycopg's own wrapper does not have the function; it is found in the library that psycopg has loaded.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from random import SystemRandom
from typing import TYPE_CHECKING, Any

from psycopg import pq

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

#: libpq's fe-exec.c: a PGresAttValue for each value, a NUL behind it, blocks of 2 KB; what is larger than half of one is alone.
_PER_VALUE = 16
_NUL = 1
_ALIGNMENT = 8
_BLOCK = 2_048
_BLOCK_OVERHEAD = 8
_ALONE_FROM = _BLOCK // 2
#: What blocks may leave unused before a value for the result to be told by its memory, as a share of its data.
_UNUSED = 0.1
#: Data that is a smaller share of the memory is lost in what the rest of it is estimated at.
_LEAST = 1 / 32
#: Rows that are measured: so many times so many that follow each other, for what a block leaves unused depends on what follows.
_RUNS, _RUN = 16, 16
_SAMPLE = _RUNS * _RUN
#: Which ones nobody can foresee.
_choice = SystemRandom()


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
    """The bytes of data of a whole result, within a few percent; None where they have to be counted value by value."""
    pointer: int | None = getattr(result, "pgresult_ptr", None)
    rows = result.ntuples
    if MEMORY_SIZE is None or pointer is None or rows < _SAMPLE:
        return None
    starts = (_choice.randrange(rows // _RUNS - _RUN + 1) + run * (rows // _RUNS) for run in range(_RUNS))
    data, memory, unused = _laid_out(
        result, [row for start in starts for row in range(start, start + _RUN)], columns
    )
    # A pointer for each row there is room for: libpq doubles it.
    there = MEMORY_SIZE(pointer) - 8 * (1 << (rows - 1).bit_length())
    size = min(there - (memory - data) * rows // _SAMPLE, there - rows * columns * _PER_VALUE)
    # What is unused here may be data elsewhere: who makes the values can see to that.
    if unused * rows // _SAMPLE > size * _UNUSED or size < there * _LEAST:
        return None
    return size


def _laid_out(result: PGresult, rows: list[int], columns: int) -> tuple[int, int, int]:
    """Of some rows: their data, and the memory that libpq's `pqResultAlloc` takes for them, and leaves unused before a value."""
    get_value = result.get_value
    aligned = [result.fformat(column) != 0 for column in range(columns)]
    header = columns * _PER_VALUE
    data = memory = unused = left = 0
    for row in rows:
        sizes = [(header, True)]
        for column in range(columns):
            if (value := get_value(row, column)) is not None:
                data += len(value)
                sizes.append((len(value) + _NUL, aligned[column]))
        for number, (size, starts_aligned) in enumerate(sizes):
            if starts_aligned:
                left -= left % _ALIGNMENT
            if size <= left:
                left -= size
            elif size >= _ALONE_FROM:
                memory += size + _BLOCK_OVERHEAD
            else:
                unused += left if number else 0
                memory += _BLOCK
                left = _BLOCK - _BLOCK_OVERHEAD - size
    return data, memory - left, unused
