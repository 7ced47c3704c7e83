"""`python -m tests.bench.gateway [--write]`: what the gateway and other proxies cost, in one run.

    --nginx PATH --vllm-router PATH --sglang-router PATH --litellm PATH

tell where the peers' released programs are, else PATH is searched; those not found are left out.
Nothing of them is needed to build or test Motley. Each proxy runs with one worker on core 0, the
mock engine and the load on core 1 (`gateway_rig.py`). Costs are CPU seconds of the proxy's process and
its children, so that neighbours on the machine count little; latencies are wall time, the added one a
median of calls that alternate with direct ones. Bodies: a 2 kB prompt, a 0.5 kB answer; the scored
path has an answer of 100 tokens with their log-probabilities. Rounds are interleaved, and the table
in docs/benchmarks.md between the two `bench:gateway` marks has the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench import page
from tests.bench.gateway_rig import Connection, Running, pinned, request, routing, running
from tests.bench.gateway_streams import (
    PACE_MS,
    beside_many,
    first_bytes,
    memory_rows,
    us_per_chunk,
)
from tests.bench.peers import MODEL, PEERS, peer

from motley_planner.dispatch import Dispatcher, parse_routing

OURS = "Motley's gateway"
MANY = 1000
SLOW = {"litellm": 0.1}  # of the scale: 10 ms a request, so no 1,000 streams at once either
OPTIMISTIC = "x-motley-streaming: optimistic\r\n"


async def added_p50_ms(at: Running, calls: int, model: str = "") -> float:
    """Median milliseconds that the gateway adds to a call, one at a time."""
    raw = request(model=model)
    direct, through = await Connection.to(at.engine_port), await Connection.to(at.port)
    times: dict[Connection, list[float]] = {direct: [], through: []}
    for number in range(calls):
        for connection, taken in times.items():
            began = time.perf_counter()
            assert await connection.ask(raw)
            if number >= calls // 10:
                taken.append(time.perf_counter() - began)
    for connection in times:
        connection.close()
    return 1000 * (statistics.median(times[through]) - statistics.median(times[direct]))


async def per_cpu_second(at: Running, clients: int, calls: int, model: str = "") -> float:
    """Requests answered per CPU second of the gateway."""
    connections = [await Connection.to(at.port) for _ in range(clients)]
    raw = request(model=model)

    async def some(connection: Connection, count: int) -> None:
        for _ in range(count):
            assert await connection.ask(raw)

    await asyncio.gather(*(some(c, 5) for c in connections))
    before = at.cpu_s()
    await asyncio.gather(*(some(c, calls // clients) for c in connections))
    spent = at.cpu_s() - before
    for connection in connections:
        connection.close()
    return calls // clients * clients / spent


def dispatch_us(replicas: int, decisions: int) -> float:
    """CPU microseconds of one decision and its end, among so many replicas."""
    document = routing("http://x")
    one = document["stages"][0]["replicas"][0]
    document["stages"][0]["replicas"] = [
        one | {"name": f"r{i}", "rates": {"all": 1 + i % 7}, "capacity": {"all": 2 + i % 5}}
        for i in range(replicas)
    ]
    dispatcher = Dispatcher(parse_routing(document))
    held = [dispatcher.choose("main", "all", 0.0) for _ in range(2 * replicas)]
    began = time.process_time()
    for number in range(decisions):
        slot = number % len(held)
        ticket = held[slot]
        assert ticket is not None
        dispatcher.finish(ticket)
        held[slot] = dispatcher.choose("main", "all", 0.0)
    return 1e6 * (time.process_time() - began) / decisions


@dataclass(slots=True)
class Found:
    """What the rounds measured of one proxy, by row; milliseconds to first bytes are kept singly."""

    values: dict[str, list[float]] = field(default_factory=dict)
    first_ms: dict[str, list[float]] = field(default_factory=dict)
    failures: int = 0

    def add(self, row: str, value: float) -> None:
        """One round's value."""
        self.values.setdefault(row, []).append(value)

    def took(self, row: str, first_ms: Sequence[float], failures: int) -> None:
        """One round's times to first bytes."""
        self.first_ms.setdefault(row, []).extend(first_ms)
        self.failures += failures

    def cell(self, row: str, form: str) -> str:
        """What the table shows; P50 and P99 of times to first bytes, in all rounds together."""
        if row in self.first_ms:
            each = sorted(self.first_ms[row])
            if not each:
                return "none came"
            return f"{each[len(each) // 2]:.0f}, {each[int(0.99 * len(each))]:.0f}"
        if row == FAILED:
            return str(self.failures)
        return form.format(statistics.median(self.values[row])) if row in self.values else "-"


ADDED, RATE, CHUNK_US = "added", "rate", "chunk"
AT_ONCE, MANY_AT_ONCE, BESIDE, FAILED = "80", "1000", "beside", "failed"
SCORED, REWRITTEN, HELD, DISPATCH = "scored", "rewritten", "optimistic", "dispatch"
ROWS: tuple[tuple[str, str, str, str], ...] = (
    (ADDED, "added P50, 1 client, ms", "{:.2f}", "< 0.5"),
    (RATE, "requests per CPU second, 64 clients", "{:,.0f}", ">= 3,000 (stretch 6,000)"),
    (CHUNK_US, "CPU us per chunk, 80 streams", "{:.0f}", "<= 45 (stretch 20)"),
    (AT_ONCE, "first byte of 80 streams that begin at once, P50, P99, ms", "", ""),
    (MANY_AT_ONCE, f"first byte of {MANY:,} that begin at once, P50, P99, ms", "", ""),
    (BESIDE, f"first byte beside {MANY:,} under way, P50, P99, ms", "", ""),
    (FAILED, "failed streams", "", "0"),
    (SCORED, "scored requests per CPU second, 64 clients", "{:,.0f}", ">= 2,000"),
    (REWRITTEN, "CPU us per chunk, escalated, usage added", "{:.0f}", "<= 120"),
    (HELD, "CPU us per chunk, scored while it comes", "{:.0f}", "<= 120"),
    (DISPATCH, "CPU us a dispatch decision, 1,000 replicas", "{:.1f}", "<= 20"),
)


async def measure(at: Running, found: Found, scale: float, model: str, with_many: bool) -> None:
    """One round of what all proxies do."""
    found.add(ADDED, await added_p50_ms(at, max(20, int(600 * scale)), model))
    found.add(RATE, await per_cpu_second(at, 64, max(640, int(9600 * scale)), model))
    chunks = max(20, int(150 * scale))
    first, failures, spent = await first_bytes(at, 80, request(chunks, model))
    found.add(CHUNK_US, 1e6 * spent / (80 * chunks))
    found.took(AT_ONCE, first, failures)
    if with_many:
        raw = request(max(5, int(20 * scale)), model, seed=PACE_MS)
        found.took(MANY_AT_ONCE, *(await first_bytes(at, MANY, raw))[:2])
        found.took(BESIDE, *(await beside_many(at, MANY, model)))


async def measure_scored(found: Found, scale: float) -> None:
    """One round of the scored path: whole answers, escalated streams, streams scored as they come."""
    chunks = max(20, int(150 * scale))
    async with running((0.5,)) as at:
        found.add(SCORED, await per_cpu_second(at, 64, max(640, int(9600 * scale))))
        cost, failures = await us_per_chunk(at, chunks, request(chunks, headers=OPTIMISTIC))
        found.add(HELD, cost)
        found.failures += failures
    async with running((0.99,)) as at:  # the mock's score is 0.905
        options = {"stream_options": {"include_usage": True}}
        cost, failures = await us_per_chunk(at, chunks, request(chunks, **options))
        found.add(REWRITTEN, cost)
        found.failures += failures
    found.add(DISPATCH, dispatch_us(1000, max(2000, int(100_000 * scale))))


async def table(programs: dict[str, str], rounds: int, scale: float) -> str:
    """The table: a row a measure, a column a proxy, the gateway first; its memory at the end."""
    found = {OURS: Found(), **{name: Found() for name in programs}}
    with_many, began = scale >= 0.25, os.getloadavg()[0]
    for _ in range(rounds):
        async with running() as at:
            await measure(at, found[OURS], scale, MODEL, with_many)
        await measure_scored(found[OURS], scale)
        for name, program in programs.items():
            part = SLOW.get(name, 1.0)
            async with peer(name, program) as at:
                many = with_many and part == 1.0
                await measure(at, found[name], scale * part, MODEL, many)
    async with running() as at:
        memory = await memory_rows(at, MANY if with_many else 20, max(5, int(50 * scale)))
    blank = [""] * len(programs)
    lines = [["what", *found, "wanted"], ["---"] * (len(found) + 2)]
    lines += [
        [what, *(each.cell(row, form) for each in found.values()), wanted]
        for row, what, form, wanted in ROWS
        if row in found[OURS].values or row in found[OURS].first_ms or row == FAILED
    ]
    lines += [[what, value, *blank, wanted] for what, value, wanted in memory]
    loads = f"{began:.1f}, {os.getloadavg()[0]:.1f}"
    lines.append(["the machine's load average before and after", loads, *blank, ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: list[str]) -> int:
    """Prints the table, and writes it where asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    for name in PEERS:
        parser.add_argument(f"--{name}", default=shutil.which(name) or "", help="its program")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds")
    parser.add_argument("--scale", type=float, default=1.0, help="measure less (0.1) or all (1)")
    parser.add_argument("--write", action="store_true", help="write the table into the page")
    args = parser.parse_args(arguments)
    programs = {n: getattr(args, n.replace("-", "_")) for n in PEERS}
    for name in [n for n, program in programs.items() if not program]:
        print(f"{name} is not installed: left out", file=sys.stderr)
    pinned(max(os.sched_getaffinity(0)))
    there = {name: program for name, program in programs.items() if program}
    text = _with_uvloop(lambda: table(there, args.rounds, args.scale))
    print(text)
    if args.write:
        page.put("gateway", text)
    return 0


def _with_uvloop(work: Callable[[], Any]) -> Any:
    import uvloop

    return uvloop.run(work())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
