"""Pauses Python's cycle collector where very many small values are made at once.

None of them is part of a cycle, and looking through 100,000 columns again and again takes longer
than reading them.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """No cycle collection inside; as before afterwards."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
