"""Memory that is free goes back to the system, so that a process of weeks stays as large as its work.

Two things keep memory that nobody uses, and neither grows fewer by itself:

    malloc's free lists     what a cycle takes lies between what stays; what it frees there is kept
                            by glibc for the next request of that size, once for each thread's heap
    cycles of references    while the collector waits for very many objects (main.py), what was alive
                            during one collection of the young is not looked at again

Measured: docs/decisions/0021.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable

# Python's usual thresholds would walk the store several times in each cycle (docs/decisions: 0021).
_GC_THRESHOLDS = (200_000, 20, 100)
_YOUNG = 1
_SHARE = 0.002  # of the time may go to collecting all that came since the store was set aside ...
_LEAST_S, _LONGEST_S = 10.0, 600.0  # ... this often
_WHOLE_SHARE = 0.0003  # of the time may go to collecting what was set aside with it ...
_WHOLE_LEAST_S, _WHOLE_LONGEST_S = 60.0, 3600.0  # ... this often
_M_ARENA_MAX = -8  # source: glibc's malloc.h


def _of_libc(name: str, *arguments: type) -> Callable[..., int] | None:
    """A function of glibc's malloc; None where the C library has none (musl, macOS)."""
    try:
        found = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    found.argtypes, found.restype = arguments, ctypes.c_int
    function: Callable[..., int] = found
    return function


def settle_in() -> None:
    """For a process that makes millions of short-lived objects beside a large store that stays.

    Threads share one heap, for Python lets one run at a time; the collector waits for very many objects.
    """
    gc.set_threshold(*_GC_THRESHOLDS)
    if mallopt := _of_libc("mallopt", ctypes.c_int, ctypes.c_int):
        mallopt(_M_ARENA_MAX, 1)


class Tidying:
    """Gives memory back between two cycles.

    Most of what there is stays: the store. It is collected now and then, and set aside until the
    next time, so that the collections in between walk only what came since.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        trim: Callable[[int], int] | None = None,
    ) -> None:
        """`clock` is in seconds; `trim` stands for `malloc_trim` in tests."""
        self._clock, self._trim = clock, trim or _of_libc("malloc_trim", ctypes.c_size_t)
        self._full_at = self._whole_at = clock() + _LEAST_S

    def after_cycle(self) -> None:
        """Collect the young, or what is due; then free pages go back to the system."""
        began = self._clock()
        if began >= self._whole_at:
            gc.unfreeze()
            gc.collect()
            gc.freeze()
            took_s = self._clock() - began
            rest_s = min(took_s / _WHOLE_SHARE, _WHOLE_LONGEST_S)
            self._whole_at = began + max(_WHOLE_LEAST_S, rest_s)
            self._full_at = began + _LEAST_S
        elif began >= self._full_at:
            gc.collect()
            took_s = self._clock() - began
            self._full_at = began + max(_LEAST_S, min(took_s / _SHARE, _LONGEST_S))
        else:
            gc.collect(_YOUNG)
        if self._trim:
            self._trim(0)
