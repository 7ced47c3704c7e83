"""What would have to be added to serve what a plan leaves unserved: replicas, their price and room.

An addition keeps everything that is planned and adds replicas for each stage that lacks capacity:
equal ones, or, where room is scarce, whatever fits beside each other. It is enough wherever its
limits are lifted, so what it says is true; a plan made anew may do with less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import ceil

from motley_planner.candidates import Candidate
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Solution
from motley_planner.planning.assembly import Assembly

Shelf = tuple[str, str]  # GPU, node class
Sizes = Counter[int]  # nodes by free GPUs

MOST_COMBINATIONS = 64
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Lack:
    """What one stage lacks: capacity by class (requests/s), or a number of replicas."""

    stage: str
    rates: Mapping[str, float] = field(default_factory=dict)
    replicas: int = 0

    def count(self, candidate: Candidate) -> int | None:
        """Replicas of the candidate that give it; None where they cannot.

        sum over classes of missing rate / capacity, rounded up.
        """
        share = self.share(candidate)
        return None if share is None else max(self.replicas, ceil(share - ROUNDING))

    def share(self, candidate: Candidate) -> float | None:
        """The same before rounding, without the fixed number."""
        share = 0.0
        for name, rate in self.rates.items():
            capacity = candidate.capacity.get(name, 0.0)
            if rate > 0 and capacity <= 0:
                return None
            share += rate / capacity if rate > 0 else 0.0
        return share


@dataclass(frozen=True, slots=True)
class Addition:
    """Replicas to add: (configuration, how many)."""

    items: tuple[tuple[Candidate, int], ...]

    @property
    def usd_per_hour(self) -> float:
        """Price of all of them."""
        return sum(count * candidate.price_usd_per_hour for candidate, count in self.items)

    @property
    def gpus(self) -> int:
        """GPUs of all of them."""
        return sum(count * candidate.gpus for candidate, count in self.items)

    def describe(self) -> str:
        """Such as "+8 free L4 GPUs (2 x TP4)"."""
        alike: Counter[tuple[str, int]] = Counter()  # of stages that need the same, one need
        for candidate, count in self.items:
            if candidate.pipeline:
                each = " + ".join(f"{f.tensor_parallel} {f.gpu}" for f in candidate.pipeline)
                alike[each, 0] += count
            else:
                alike[candidate.gpu, candidate.tensor_parallel] += count * candidate.fragments
        parts = []
        for (kind, wide), count in alike.items():
            if not wide:
                parts.append(f"+{count} x ({kind}) free GPUs, each part on one node")
            else:
                parts.append(f"+{count * wide} free {kind} GPUs ({count} x {wide} on one node)")
        return " and ".join(parts)


class FreeRoom:
    """GPUs that a plan leaves free for new replicas, by kind of node."""

    def __init__(
        self,
        solution: Solution,
        assembly: Assembly,
        snapshot: Snapshot,
        own: str | None,
        without: Collection[str] = (),
    ) -> None:
        """`own`: the resource whose replicas are in no plan, so that what they hold is its own.

        Nodes `without` have none.
        """
        used: Counter[str] = Counter()
        for placed in solution.placement:
            parts = assembly.candidates[placed.column].parts
            for name, (_, ranks, _) in zip(placed.nodes, parts, strict=True):
                used[name] += ranks
        for unit in snapshot.running:
            for rank, name in enumerate(unit.nodes if unit.key == own else ()):
                used[name] -= unit.gpus_on(rank)
        self._free: dict[Shelf, Sizes] = {}
        for node in snapshot.nodes:
            left = min(node.gpus, assembly.room[node.name] - used[node.name])
            if left > 0 and not node.cordoned and node.name not in without:
                shelf = (node.node_class.gpu, node.node_class.id)
                self._free.setdefault(shelf, Counter())[left] += 1

    def copy(self) -> dict[Shelf, Sizes]:
        """Nodes by free GPUs, by (GPU, node class)."""
        return {shelf: sizes.copy() for shelf, sizes in self._free.items()}

    def fits(self, addition: Addition) -> bool:
        """Whether all of it fits on nodes as they are: largest first, each where least is left."""
        free = self.copy()
        wide = sorted(addition.items, key=lambda item: -max(ranks for _, ranks, _ in item[0].parts))
        return all(_take(free, candidate, count) == count for candidate, count in wide)


def _take(free: dict[Shelf, Sizes], candidate: Candidate, count: int) -> int:
    """Take room for so many replicas, of the fullest nodes first; how many of them it gave."""
    if candidate.pipeline:
        return next((n for n in range(count) if not _take_pipeline(free, candidate)), count)
    sizes = free.get((candidate.gpu, candidate.node_class.id), Counter())
    gpus, wanted = candidate.tensor_parallel, count * candidate.fragments
    taken = 0
    for size in sorted(sizes):
        each = size // gpus
        if not each:
            continue
        full = min(sizes[size], (wanted - taken) // each)
        sizes[size] -= full
        sizes[size - each * gpus] += full
        taken += full * each
        if 0 < wanted - taken < each and sizes[size] > 0:
            sizes[size] -= 1
            sizes[size - (wanted - taken) * gpus] += 1
            taken = wanted
    return taken // candidate.fragments


def _take_pipeline(free: dict[Shelf, Sizes], candidate: Candidate) -> bool:
    """Take room for one pipeline, each part where least is left; nothing is taken if one lacks."""
    taken: list[tuple[Sizes, int, int]] = []
    for node_class, ranks, _ in sorted(candidate.parts, key=lambda part: -part[1]):
        sizes = free.get((node_class.gpu, node_class.id), Counter())
        size = min((s for s, nodes in sizes.items() if nodes > 0 and s >= ranks), default=None)
        if size is None:
            for other, before, after in reversed(taken):
                other[after] -= 1
                other[before] += 1
            return False
        sizes[size] -= 1
        sizes[size - ranks] += 1
        taken.append((sizes, size, size - ranks))
    return True


def additions(
    lacks: Sequence[Lack], offered: Sequence[Candidate], room: FreeRoom
) -> Iterator[Addition]:
    """Ways to give all that lacks: one configuration a stage, and mixtures that fit the room.

    Replicas that do one phase only are no way on their own, so they are left out.
    """
    offered = [candidate for candidate in offered if candidate.phase == "both"]
    most = max(2, int(MOST_COMBINATIONS ** (1 / max(1, len(lacks)))))
    options = [_options(lack, offered, room, most) for lack in lacks]
    for chosen in product(*options):
        yield Addition(tuple(item for item in chosen if item[1] > 0))
    for by_size in (False, True):
        mixed = _mixture(lacks, offered, room, by_size=by_size)
        if mixed is not None:
            yield mixed


def _mixture(
    lacks: Sequence[Lack], offered: Sequence[Candidate], room: FreeRoom, *, by_size: bool
) -> Addition | None:
    """What serves most for its price (or its GPUs) first, as long as it fits; None if too little."""
    free, items = room.copy(), []
    for lack in lacks:
        left, number = (1.0 if lack.rates else 0.0), lack.replicas
        able = [c for c in offered if c.stage == lack.stage and lack.share(c) is not None]
        worth = {c.id: lack.share(c) or 1.0 for c in able}
        able.sort(key=lambda c: worth[c.id] * (c.gpus if by_size else c.price_usd_per_hour))
        for candidate in able:
            wanted = max(number, ceil(left * worth[candidate.id] - ROUNDING))
            count = _take(free, candidate, wanted) if wanted > 0 else 0
            left, number = left - count / worth[candidate.id], number - count
            items += [(candidate, count)] if count else []
        if left > ROUNDING or number > 0:
            return None
    return Addition(tuple(items))


def _options(
    lack: Lack, offered: Sequence[Candidate], room: FreeRoom, most: int
) -> list[tuple[Candidate, int]]:
    found = [
        (candidate, count)
        for candidate in offered
        if candidate.stage == lack.stage and (count := lack.count(candidate)) is not None
    ]
    if len(found) <= most:
        return found
    fitting = {id(c): room.fits(Addition(((c, n),))) for c, n in found}
    by_price = sorted(found, key=lambda i: (not fitting[id(i[0])], Addition((i,)).usd_per_hour))
    by_size = sorted(found, key=lambda i: (not fitting[id(i[0])], Addition((i,)).gpus))
    cheapest = min(found, key=lambda item: Addition((item,)).usd_per_hour)
    chosen = [*by_price[: most // 2], *by_size[: max(1, most // 2 - 1)], cheapest]
    return list({candidate.id: (candidate, count) for candidate, count in chosen}.values())
