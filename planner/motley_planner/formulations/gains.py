"""What a stopped survivor frees on its node, exactly or within bounds (packing.py says why)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from motley_planner.formulations.inventory import NodeClass
from motley_planner.solver.milp import Milp

Mode = Literal["safe", "relaxed"]
Mark = tuple[NodeClass, int, float, float]  # class, q, safe gain, relaxed gain
Marks = tuple[bool, list[list[Mark]]]  # whether exact, and the marks of each resident
Gain = tuple[int, int, float, float, int]  # row, kept variable, safe, relaxed, survivors


@lru_cache(maxsize=4096)
def slot_gains(free: int, sizes: tuple[int, ...], q: int) -> tuple[bool, tuple[float, ...]]:
    """Whether q-slots freed add up over residents of `sizes`, and what each alone frees (GPUs)."""
    base = free // q
    alone = tuple(q * ((free + t) // q - base) for t in sizes)
    sums = {(0, 0)}
    for size, gain in zip(sizes, alone, strict=True):
        sums |= {(freed + size, total + gain) for freed, total in sums}
    additive = all(q * ((free + freed) // q - base) == total for freed, total in sums)
    return additive, tuple(float(a) for a in alone)


def bounding_gains(free: int, sizes: tuple[int, ...], q: int, mode: Mode) -> tuple[float, ...]:
    """Linear gains below (`safe`) or above (`relaxed`) what any subset of residents frees."""
    if mode == "safe":
        return tuple(float(q * (t // q)) for t in sizes)
    remainder = free % q
    small = sum(t for t in sizes if t < q)
    slope = q / (q - remainder) if remainder + small >= q else 0.0
    return tuple(float(t) if t >= q else t * slope for t in sizes)


def gains_of(
    free: int, sizes: tuple[int, ...], node_class: NodeClass, levels: tuple[int, ...]
) -> Marks:
    """For each resident what stopping it frees: (class, q, safe gain, relaxed gain)."""
    additive = all(slot_gains(free, sizes, q)[0] for q in levels)
    marks: list[list[Mark]] = [[] for _ in sizes]
    for q in levels:
        exact = slot_gains(free, sizes, q)[1]
        safe = exact if additive else bounding_gains(free, sizes, q, "safe")
        relaxed = exact if additive else bounding_gains(free, sizes, q, "relaxed")
        for at, (low, high) in enumerate(zip(safe, relaxed, strict=True)):
            marks[at].append((node_class, q, low, high))
    return additive, marks


def widen(milp: Milp, gains: Sequence[Gain]) -> Milp:
    """A program with safe rows turned into the one with relaxed rows."""
    entries = [(row, v, high - low) for row, v, low, high, _ in gains if high != low]
    uppers: dict[int, float] = defaultdict(float)
    for row, _, low, high, number in gains:
        uppers[row] += (high - low) * number
    return milp.with_added(entries, uppers)
