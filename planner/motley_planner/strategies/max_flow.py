"""The largest flow through a network, as the LP that routing is once replicas are fixed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from motley_planner.solver.highs import solve_lp
from motley_planner.solver.milp import MilpBuilder

Vertex = TypeVar("Vertex", bound=Hashable)


def max_flow(
    capacity: Mapping[tuple[Vertex, Vertex], float], source: Vertex, sink: Vertex
) -> float:
    """The value of a largest flow from source to sink, in the capacities' unit.

    max sum out of source - into source, 0 <= flow <= capacity, what enters a vertex leaves it.
    """
    builder = MilpBuilder()
    balance: dict[Vertex, list[tuple[int, float]]] = defaultdict(list)
    for (a, b), most in capacity.items():
        variable = builder.variable(0.0, most)
        balance[a].append((variable, 1.0))
        balance[b].append((variable, -1.0))
    for vertex, entries in balance.items():
        if vertex not in (source, sink):
            builder.row(entries, 0.0, 0.0)
    milp = builder.build()
    cost = np.zeros(milp.num_cols)
    for variable, sign in balance[source]:
        cost[variable] += sign
    run = solve_lp(milp, cost, time.monotonic() + 10.0)
    return run.value if run.value is not None else 0.0


def orchestrate(
    worth: Sequence[Sequence[float]], prefill: Sequence[float], decode: Sequence[float]
) -> float:
    """ThunderServe's two-stage transportation: the mean SLO attainment of the best pairing.

    max sum Z_ij D_ij, sum Z = 1, sum_j Z_ij <= prefill_i, sum_i Z_ij <= decode_j, Z >= 0, with
    prefill_i and decode_j capacities in units of the demand; where they cannot carry all of it,
    sum Z <= 1 and the rest attains nothing.
    """
    builder = MilpBuilder()
    cells = [[builder.variable() for _ in decode] for _ in prefill]
    everything = [(v, 1.0) for row in cells for v in row]
    builder.row(everything, upper=1.0)
    for row, most in zip(cells, prefill, strict=True):
        builder.row([(v, 1.0) for v in row], upper=most)
    for j, most in enumerate(decode):
        builder.row([(row[j], 1.0) for row in cells], upper=most)
    milp = builder.build()
    cost = np.array([d for row in worth for d in row], dtype=np.float64)
    run = solve_lp(milp, cost, time.monotonic() + 10.0)
    return run.value if run.value is not None else 0.0
