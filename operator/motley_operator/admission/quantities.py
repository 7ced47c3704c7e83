"""Kubernetes quantities as the API server writes them, as plain numbers.

The API server has already checked them, so this reads every form it may send (`500m`, `16Gi`,
`1e3`, `128974848`, `2k`, `100n`), including those that a person may not write in our own specs.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

_SUFFIXES: dict[str, Fraction] = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    **{suffix: Fraction(1000) ** (i + 1) for i, suffix in enumerate("kMGTPE")},
    **{suffix + "i": Fraction(1024) ** (i + 1) for i, suffix in enumerate("KMGTPE")},
}


@lru_cache(maxsize=4096)
def read_quantity(text: str | float | None) -> Fraction:
    """The exact number a quantity stands for, in its resource's own unit; absent is 0.

    Raises: ValueError for what is no quantity.
    """
    if text is None:
        return Fraction(0)
    written = str(text).strip()
    for length in (2, 1):
        factor = _SUFFIXES.get(written[-length:])
        if factor is not None and len(written) > length:
            return Fraction(written[:-length]) * factor
    return Fraction(written)


def whole(text: str | float | None) -> int:
    """The quantity rounded up to a whole number, as the scheduler does for requests."""
    return math.ceil(read_quantity(text))


def milli(text: str | float | None) -> int:
    """The quantity in thousandths, rounded up: CPU in milli-cores."""
    return math.ceil(read_quantity(text) * 1000)
