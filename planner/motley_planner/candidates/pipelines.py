"""Replicas cut into groups of layers over fragments of any GPU types of one zone.

Enumeration. Every multiset of up to `depth` kinds of fragment (GPU type, TP), fastest first, with
its layers balanced for each batch; the batch that serves most is the operating point. Engines whose
stages must be equally wide get only such multisets.

Dominance, exact: a pipeline is dropped if two disjoint parts of it, run as replicas of their own,
serve together at least as much of every class for the same set of admitted classes (a part that
cannot run serves nothing, so this includes a smaller part alone). They take the same GPUs, so
whatever plan used the pipeline can use them instead. It is exact with nobody waiting and memory for
a full batch of the longest class; what is left is then evaluated one by one (`cut_replicas`): how
busy it may be, and whether its classes had better share its memory.

The result depends on GPU types, model, engine, classes, targets and cost constants, not on how many
nodes there are: it is kept for later plans, the least recently used of `CACHED` is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations, combinations_with_replacement

import numpy as np

from motley_planner.candidates.cut_replicas import (
    Cut,
    fragments_of,
    sharing_point,
    waiting_points,
)
from motley_planner.candidates.layering import Bools, Floats, Ints
from motley_planner.candidates.operating import LEAST_GAIN
from motley_planner.candidates.pipeline_grid import BATCHES, Grid, Problem, grid_of
from motley_planner.candidates.pipeline_points import (
    Admitted,
    Load,
    class_sets,
    evaluate,
)
from motley_planner.candidates.point import OperatingPoint
from motley_planner.domain.fragments import ReplicaFragment

CACHED = 32  # problems (stages with targets of their own); the largest measured takes 3.4 MB
_SERVES_AS_MUCH = 1.0 - 1e-9


@dataclass(frozen=True, slots=True)
class PipelinePoint:
    """One pipeline at one operating point."""

    fragments: tuple[ReplicaFragment, ...]
    point: OperatingPoint


@dataclass(frozen=True, slots=True)
class _Asked:
    text: str  # everything of the problem: it holds mappings, which have no hash
    problem: Problem = field(compare=False)


@dataclass(frozen=True, slots=True)
class _Best:
    """The best batch of every multiset of one size, for one set of classes."""

    admitted: Admitted
    combos: Ints  # (fragments, multisets)
    layers: Ints  # (fragments, multisets)
    batch: Ints
    capacity: Floats  # (all classes, multisets)
    ttft_s: Floats  # (admitted classes, multisets)
    tpot_s: Floats


def pipelines(problem: Problem) -> tuple[PipelinePoint, ...]:
    """Every useful pipeline of two fragments or more; found once for equal problems."""
    return _cached(_Asked(repr(problem), problem))


def cache_counts() -> tuple[int, int, int]:
    """(found again, worked out, kept) since the process started."""
    info = _cached.cache_info()
    return info.hits, info.misses, info.currsize


@lru_cache(maxsize=CACHED)
def _cached(asked: _Asked) -> tuple[PipelinePoint, ...]:
    return tuple(queued_pipelines(asked.problem))


def queued_pipelines(problem: Problem) -> Iterator[PipelinePoint]:
    """`pipelines` without the cache."""
    grid = grid_of(problem)
    if grid is None:
        return
    at = {(p.whole.gpu.name, p.whole.tensor_parallel): i for i, p in enumerate(grid.parts)}
    cuts: dict[tuple[int, ...], dict[Cut, list[OperatingPoint]]] = {}
    for one in enumerate_pipelines(problem):
        kinds = tuple(at[f.gpu, f.tensor_parallel] for f in one.fragments)
        cut = tuple((kind, f.layers) for kind, f in zip(kinds, one.fragments, strict=True))
        cuts.setdefault(kinds, {}).setdefault(cut, []).append(one.point)
    total = sum(c.weight for c in grid.classes) or 1.0
    mix = {c.name: c.weight / total for c in grid.classes}
    for kinds, listed in cuts.items():
        made = [
            (cut, point)
            for cut, points in listed.items()
            for point in waiting_points(grid, cut, [tuple(p.capacity) for p in points])
        ]
        best = max((point.mix_per_second(mix) for _, point in made), default=0.0)
        shared = sharing_point(grid, kinds, best)
        made += [shared] if shared is not None and shared not in made else []
        yield from (PipelinePoint(fragments_of(grid, cut), point) for cut, point in made)


def enumerate_pipelines(problem: Problem, *, prune: bool = True) -> Iterator[PipelinePoint]:
    """Every useful pipeline as if nobody waited; without `prune` dominated ones too."""
    grid = grid_of(problem)
    if grid is None:
        return
    sets = class_sets(len(grid.classes))
    best = {
        (size, k): _best(grid, combos, admitted)
        for size in range(1, problem.depth + 1)
        if (combos := _multisets(grid, size)).size
        for k, admitted in enumerate(sets)
    }
    for size in range(2, problem.depth + 1):
        if (size, 0) not in best:
            continue
        useful = _worth([best[size, k] for k in range(len(sets))])
        for k in range(len(sets)):
            if prune:
                smaller = {s: best[s, k] for s in range(1, size)}
                useful[k] &= ~_dominated(best[size, k], smaller, len(grid.parts))
            yield from _points(grid, best[size, k], useful[k])


def _multisets(grid: Grid, size: int) -> Ints:
    """Multisets of kinds in the order of the grid, sorted: (size, multisets)."""
    kinds = range(len(grid.parts))
    if grid.problem.engine.unequal_tensor_parallel:
        found = list(combinations_with_replacement(kinds, size))
    else:
        widths = grid.tensor_parallel
        alike = [[i for i in kinds if widths[i] == width] for width in sorted(set(widths))]
        found = [c for some in alike for c in combinations_with_replacement(some, size)]
    return np.array(sorted(found), dtype=np.int64).reshape(len(found), size).T.copy()


def _best(grid: Grid, combos: Ints, admitted: Admitted) -> _Best:
    load = Load(grid, combos, np.array(BATCHES, dtype=np.float64), admitted)
    layers = load.balanced_layers()
    points = evaluate(load, layers)
    chosen = points.capacity.sum(axis=0).argmax(axis=-1)
    row = np.arange(combos.shape[1])
    capacity = np.zeros((len(grid.classes), combos.shape[1]))
    capacity[list(admitted)] = points.capacity[:, row, chosen]
    return _Best(
        admitted=admitted,
        combos=combos,
        layers=layers[:, row, chosen],
        batch=np.array(BATCHES, dtype=np.int64)[chosen],
        capacity=capacity,
        ttft_s=points.ttft_s[:, row, chosen],
        tpot_s=points.tpot_s[row, chosen],
    )


def _worth(found: Sequence[_Best]) -> list[Bools]:
    """Which points serve some class clearly better than every wider point of their pipeline.

    Two points of one pipeline never share layers and batch: those name the point.
    """
    served = np.zeros_like(found[0].capacity)
    useful: list[Bools] = []
    for k, one in enumerate(found):
        mask: Bools = np.asarray((one.capacity > LEAST_GAIN * served).any(axis=0))
        for other, used in zip(found[:k], useful, strict=True):
            same = (one.batch == other.batch) & (one.layers == other.layers).all(axis=0)
            mask &= ~(same & used)
        served = np.maximum(served, np.where(mask, one.capacity, 0.0))
        useful.append(mask)
    return useful


def _dominated(one: _Best, smaller: dict[int, _Best], kinds: int) -> Bools:
    """Which pipelines two disjoint parts of them replace."""
    size = len(one.combos)
    found = np.zeros(one.combos.shape[1], dtype=bool)
    for taken in range(1, size // 2 + 1):
        for chosen in combinations(range(size), taken):
            rest = [i for i in range(size) if i not in chosen]
            together = _capacity_of(one.combos[list(chosen)], smaller[taken], kinds)
            together = together + _capacity_of(one.combos[rest], smaller[size - taken], kinds)
            found |= (together >= _SERVES_AS_MUCH * one.capacity).all(axis=0)
    return found


def _capacity_of(combos: Ints, known: _Best, kinds: int) -> Floats:
    """Capacities of multisets that stand somewhere among the known ones of their size."""
    powers = kinds ** np.arange(len(combos))[::-1]
    at = np.searchsorted(powers @ known.combos, powers @ combos)
    return np.asarray(known.capacity[:, at])


def _points(grid: Grid, best: _Best, useful: Bools) -> Iterator[PipelinePoint]:
    names = [grid.classes[c].name for c in best.admitted]
    parts = [part.whole for part in grid.parts]
    rates = best.capacity[list(best.admitted)].T
    for i in np.flatnonzero(useful & (rates > 0).all(axis=-1)).tolist():
        fragments = tuple(
            ReplicaFragment(parts[kind].gpu.name, parts[kind].tensor_parallel, layers)
            for kind, layers in zip(
                best.combos[:, i].tolist(), best.layers[:, i].tolist(), strict=True
            )
        )
        capacity = dict(zip(names, rates[i].tolist(), strict=True))
        ttft = dict(zip(names, best.ttft_s[:, i].tolist(), strict=True))
        tpot = dict.fromkeys(names, float(best.tpot_s[i]))
        yield PipelinePoint(fragments, OperatingPoint(int(best.batch[i]), capacity, ttft, tpot))
