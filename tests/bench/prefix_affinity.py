"""`python -m tests.bench.prefix_affinity [--write]`: what prefix affinity gains on a real trace.

Replays Mooncake's hour of conversations (`../shared/data/traces`, 12,031 requests with the ids of
their 512-token blocks) on equal replicas, in virtual time: each is a queue that serves one request
after the other in a fixed time, busy to 70 %, and keeps the last blocks it saw (LRU). A block hits
where all blocks before it hit as well. Dispatch is `motley_planner.dispatch` with the gateway's own
index of beginnings, which sees the first 64 blocks of a prompt.
"""

from __future__ import annotations

import argparse
import gzip
import heapq
import json
import statistics
import sys
from collections import Counter, OrderedDict
from dataclasses import dataclass
from pathlib import Path

from tests.bench import page

from motley_planner.dispatch import (
    Dispatcher,
    Replica,
    RequestClass,
    ResourceRef,
    RoutingTable,
    Stage,
    Ticket,
)
from motley_runtime.gateway.prefixes import PrefixIndex, PromptKey

TRACE = Path(__file__).parents[2] / "../shared/data/traces/mooncake_conversation.jsonl.gz"
SEEN_BLOCKS = 64
BUSY = 0.7


@dataclass(frozen=True, slots=True)
class Outcome:
    """A replay: share of prompt blocks that hit, seconds waited, and the largest share served."""

    hit_rate: float
    wait_p50_s: float
    wait_p99_s: float
    largest_share: float


def requests_of(path: Path, count: int | None = None) -> list[tuple[float, tuple[int, ...]]]:
    """Arrivals in seconds and block ids."""
    found = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            found.append((row["timestamp"] / 1000.0, tuple(row["hash_ids"])))
            if len(found) == count:
                break
    return found


class Cache:
    """The blocks a replica holds, the least recently used going first."""

    def __init__(self, blocks: int) -> None:
        self._blocks, self._held = blocks, OrderedDict[int, None]()

    def hits(self, ids: tuple[int, ...]) -> int:
        """How many leading blocks are held; holds them all afterwards."""
        found = 0
        while found < len(ids) and ids[found] in self._held:
            found += 1
        for each in ids:
            self._held[each] = None
            self._held.move_to_end(each)
        while len(self._held) > self._blocks:
            self._held.popitem(last=False)
        return found


def table(replicas: int, service_s: float) -> RoutingTable:
    """Equal replicas with equal planned rates."""
    made = tuple(
        Replica(f"r{i}", f"http://r{i}", {"all": 1.0}, {"all": 1.0 / service_s})
        for i in range(replicas)
    )
    return RoutingTable(
        plan_hash="bench",
        resource=ResourceRef("ServingPool", "a", "chat"),
        served_model_names=("chat",),
        classes=(RequestClass("all", 12_000, 340),),
        stages=(Stage("main", "m", made),),
        policies=(),
    )


def replay(
    rows: list[tuple[float, tuple[int, ...]]], replicas: int, blocks: int, has_affinity: bool
) -> Outcome:
    """Runs the trace once."""
    service_s = BUSY * replicas * (rows[-1][0] - rows[0][0]) / len(rows)
    dispatcher = Dispatcher(
        table(replicas, service_s), affinity=PrefixIndex() if has_affinity else None
    )
    caches = {f"r{i}": Cache(blocks) for i in range(replicas)}
    free_s = dict.fromkeys(caches, 0.0)
    ends: list[tuple[float, int, Ticket]] = []
    hits = total = 0
    waits: list[float] = []
    served: Counter[str] = Counter()
    for number, (now_s, ids) in enumerate(rows):
        while ends and ends[0][0] <= now_s:
            dispatcher.finish(heapq.heappop(ends)[2])
        ticket = dispatcher.choose("main", "all", now_s, prefix=PromptKey(ids[:SEEN_BLOCKS]))
        assert ticket is not None
        name = ticket.replica.name
        begins_s = max(now_s, free_s[name])
        free_s[name] = begins_s + service_s
        waits.append(begins_s - now_s)
        heapq.heappush(ends, (free_s[name], number, ticket))
        hits += caches[name].hits(ids)
        total += len(ids)
        served[name] += 1
    waits.sort()
    return Outcome(
        hits / total,
        statistics.median(waits),
        waits[int(0.99 * len(waits))],
        max(served.values()) / len(rows),
    )


def rows_of_table(rows: list[tuple[float, tuple[int, ...]]]) -> list[str]:
    """The lines of the table."""
    one = Cache(10**9)
    best = sum(one.hits(ids) for _, ids in rows) / sum(len(ids) for _, ids in rows)
    head = "| replicas | blocks kept by each | affinity | blocks hit | wait P50, s | wait P99, s "
    lines = [
        f"{head}| largest share |",
        "|---|---|---|---|---|---|---|",
        f"| any | all, in one cache | | {100 * best:.1f} % | | | |",
    ]
    for replicas, blocks in ((4, 8000), (8, 4000), (16, 4000)):
        for has_affinity in (False, True):
            found = replay(rows, replicas, blocks, has_affinity)
            lines.append(
                f"| {replicas} | {blocks:,} | {'prefix' if has_affinity else 'off'} "
                f"| {100 * found.hit_rate:.1f} % | {found.wait_p50_s:.2f} | {found.wait_p99_s:.2f} "
                f"| {100 * found.largest_share:.1f} % |"
            )
    return lines


def main(arguments: list[str]) -> int:
    """Prints the table, and writes it where asked to; 2 without the trace."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table into the page")
    args = parser.parse_args(arguments)
    if not TRACE.exists():
        print(f"{TRACE} is not there", file=sys.stderr)
        return 2
    lines = "\n".join(rows_of_table(requests_of(TRACE)))
    print(lines)
    if args.write:
        page.put("prefix", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
