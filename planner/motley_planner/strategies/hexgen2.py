"""Disaggregated serving: partition the GPUs, solve a max-flow, let the flow guide swaps.

1. Blocks of GPUs are the vertices of a graph, links' bytes/s its edges. A spectral cut refined by
   Kernighan-Lin swaps parts them into prefill and decode so that as much bandwidth as possible lies
   across the cut, where KV caches must flow (graph_cut.py).
2. Each side is filled with replicas of its phase. With the replicas fixed, routing is a max-flow
   from prefill through KV links to decode; the table's LP is that flow (max_flow.py shows it on bare graphs).
3. Replicas with slack give their GPUs to replicas that bind, while the flow still grows.

Source: Jiang et al., "HexGen-2", ICLR 2025, arXiv 2502.07903. Nothing is colocated, as in the
paper. The paper's edge swaps are swaps of replicas here.
"""

from __future__ import annotations

import numpy as np

from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable, Phase
from motley_planner.strategies.finish import finish
from motley_planner.strategies.graph_cut import widest_cut
from motley_planner.strategies.growth import Growth
from motley_planner.strategies.rate_entries import rate_entries
from motley_planner.strategies.scorer import Scored, Scorer
from motley_planner.strategies.stock import plus
from motley_planner.strategies.views import Counts, is_better, refuse

BLOCKS = 4  # parts of a node class that may take different phases
SAME_ZONE_BYTES_PER_S = 400e9  # where the table states no link: NVLink-like
BUSY = 0.999  # utilization at which a column binds
CANDIDATES = 8  # replicas tried for each one taken out
SIDES: tuple[Phase, Phase] = ("prefill", "decode")
NodeClass = tuple[str, str]


def solve(table: FleetTable) -> Solution:
    """The disaggregated plan that the swaps end with.

    Raises: SnapshotError without prefill columns or without decode columns.
    """
    if not {"prefill", "decode"} <= {c.phase for c in table.columns}:
        raise refuse("hexgen2", "prefill and decode columns")
    scorer = Scorer(table)
    scorer.relaxed()
    growth = Growth(scorer)
    best = scorer.best_of(scorer.score(scorer.nothing), _fill(scorer, growth, _cut(scorer)))
    split = {i for i, c in enumerate(scorer.table.columns) if c.phase != "both"}
    best = scorer.best_of(best, growth.grow(scorer.nothing, split))
    return finish(table, scorer, _guided_swaps(scorer, growth, best))


def _cut(scorer: Scorer) -> dict[NodeClass, tuple[float, float]]:
    """Share of each node class's GPUs that prefills and that decodes."""
    classes = sorted({(f.gpu, c.zone) for c in scorer.table.columns for f in c.fragments})
    links = {(k.source, k.target): k.bytes_per_second for k in scorer.table.links}
    blocks = [node_class for node_class in classes for _ in range(BLOCKS)]
    size = len(blocks)
    weights = np.zeros((size, size))
    for a in range(size):
        for b in range(a + 1, size):
            pair = (blocks[a][1], blocks[b][1])
            bytes_per_s = links.get(pair, SAME_ZONE_BYTES_PER_S)
            weights[a, b] = weights[b, a] = min(bytes_per_s, SAME_ZONE_BYTES_PER_S)
    side = widest_cut(weights)
    shares: dict[NodeClass, tuple[float, float]] = {}
    for node_class in classes:
        mine = [side[i] for i, other in enumerate(blocks) if other == node_class]
        part = sum(mine) / len(mine)
        shares[node_class] = (part, 1.0 - part)
    return shares


def _fill(scorer: Scorer, growth: Growth, shares: dict[NodeClass, tuple[float, float]]) -> Counts:
    """Replicas of each phase on its part of the GPUs."""
    room = dict.fromkeys(shares, 0.0)
    for group in scorer.table.nodes:
        if (group.gpu, group.zone) in room:
            count = 10**6 if group.count is None else group.count
            room[group.gpu, group.zone] += count * group.gpus
    counts = scorer.nothing
    for number, phase in enumerate(SIDES):
        allowed = [i for i, c in enumerate(scorer.table.columns) if c.phase == phase]
        left = {k: room[k] * shares[k][number] for k in room}
        allowed.sort(key=lambda i: -growth.worth(i))
        for i in allowed:
            column = scorer.table.columns[i]
            need = {
                k: sum(f.tp for f in column.fragments if (f.gpu, column.zone) == k) for k in left
            }
            fits = min(int(left[k] // n) for k, n in need.items() if n)
            covered = growth.cover @ np.asarray(counts, dtype=np.float64)
            rows = [r for r, (_, p) in enumerate(growth.rows) if p == phase]
            rows = [r for r in rows if growth.cover[r, i] > 0]
            if not rows or (scorer.table.objective != "max_min" and min(covered[rows]) >= 1.0):
                continue
            more = min(fits, scorer.stock.most_more(counts, i))
            if scorer.table.objective != "max_min":
                lack = 1.0 - float(min(covered[rows]))
                more = min(more, int(np.ceil(lack / growth.cover[rows[0], i])))
            if more > 0:
                more = max(more, scorer.stock.step(counts, i))
                counts = plus(counts, i, more)
                left = {k: left[k] - more * need[k] for k in left}
    return counts


def utilization(scorer: Scorer, plan: Scored) -> list[float]:
    """Busy share (0..1) of each column's replicas; 0 where there are none."""
    busy = [0.0] * len(plan.counts)
    for rate in rate_entries(scorer.index):
        capacity = scorer.table.columns[rate.column].requests_per_second[rate.request_class]
        busy[rate.column] += float(plan.x[rate.variable]) * rate.unit / capacity
    return [b / n if n else 0.0 for b, n in zip(busy, plan.counts, strict=True)]


def _guided_swaps(scorer: Scorer, growth: Growth, best: Scored | None) -> Scored | None:
    while best is not None and not scorer.out_of_time:
        better = _one_swap(scorer, growth, best)
        if better is None:
            break
        best = better
    return best


def _one_swap(scorer: Scorer, growth: Growth, plan: Scored) -> Scored | None:
    """The first swap that improves: slack replicas out, binding ones' kind in."""
    busy = utilization(scorer, plan)
    present = sorted((i for i, n in enumerate(plan.counts) if n), key=lambda i: busy[i])
    columns = scorer.table.columns
    binding = {columns[i].phase for i in present if busy[i] >= BUSY} or set(SIDES)
    wanted = [i for i, c in enumerate(columns) if c.phase in binding and growth.worth(i) > 0]
    for out in [None, *present]:
        less = plan.counts if out is None else plus(plan.counts, out, -1)
        trials = [less] if out is not None else []
        able = [i for i in wanted if i != out and scorer.stock.most_more(less, i) > 0]
        able.sort(key=lambda i: -growth.worth(i))
        for i in able[:CANDIDATES]:
            trials.append(plus(less, i))
            most = scorer.stock.most_more(less, i)
            if most > 1:
                trials.append(plus(less, i, min(most, 2)))
        for counts in trials:
            if scorer.out_of_time:
                return None
            found = scorer.score(counts)
            if found is not None and is_better(found.values, plan.values):
                return found
    return None
