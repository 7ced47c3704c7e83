"""Streams through a proxy: how soon they begin, what a chunk costs, and what they leave in memory."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tests.bench.gateway_rig import Connection, Running, request

WARM_ROUNDS = 10  # of streams, until what is filled once is full; as many again must add nothing
PACE_MS, UNDER_WAY_CHUNKS, BEGIN_S = 100, 80, 3.0  # of those under way; they begin over so long
PROBES, PROBES_S = 200, 2.0  # streams that begin while many are under way, and over how long
WAIT_S = 120.0  # until streams that have not ended count as failed


async def first_bytes(at: Running, count: int, raw: bytes) -> tuple[list[float], int, float]:
    """So many streams that begin at once: milliseconds to first bytes, failures, CPU seconds."""
    connections = [await Connection.to(at.port) for _ in range(count)]
    before = at.cpu_s()
    try:
        async with asyncio.timeout(WAIT_S):
            found = await asyncio.gather(
                *(c.first_byte(raw) for c in connections), return_exceptions=True
            )
    except TimeoutError:
        found = []
    spent = at.cpu_s() - before
    for connection in connections:
        connection.close()
    first = [1000 * each for each in found if isinstance(each, float)]
    return first, count - len(first), spent


async def beside_many(at: Running, count: int, model: str) -> tuple[list[float], int]:
    """Streams that begin one by one while many are under way: ms to first bytes, failures."""
    long = request(UNDER_WAY_CHUNKS, model, seed=PACE_MS)
    connections = [await Connection.to(at.port) for _ in range(count + PROBES)]

    async def after(seconds: float, connection: Connection, raw: bytes) -> float:
        await asyncio.sleep(seconds)
        return await connection.first_byte(raw)

    try:
        async with asyncio.timeout(WAIT_S):
            tasks = [after(i * BEGIN_S / count, c, long) for i, c in enumerate(connections[:count])]
            short = request(5, model, seed=PACE_MS)
            begins = (BEGIN_S + 1.0 + i * PROBES_S / PROBES for i in range(PROBES))
            tasks += [after(s, c, short) for s, c in zip(begins, connections[count:], strict=True)]
            found = await asyncio.gather(*tasks, return_exceptions=True)
    except TimeoutError:
        found = []
    for connection in connections:
        connection.close()
    whole = sum(isinstance(each, float) for each in found)
    probes = [1000 * each for each in found[count:] if isinstance(each, float)]
    return probes, count + PROBES - whole


async def us_per_chunk(at: Running, chunks: int, raw: bytes) -> tuple[float, int]:
    """CPU microseconds a chunk of 80 streams, beginnings included, and streams that failed."""
    _, failures, spent = await first_bytes(at, 80, raw)
    return 1e6 * spent / (80 * chunks), failures


@dataclass(frozen=True, slots=True)
class Streams:
    """What many streams at once cost."""

    failures: int
    us_per_chunk: float
    rss_mib: float


async def streams(at: Running, count: int, chunks: int) -> Streams:
    """So many streams at once, each with so many chunks."""
    connections = [await Connection.to(at.port) for _ in range(count)]
    before, raw = at.cpu_s(), request(chunks)
    whole = await asyncio.gather(*(c.ask(raw) for c in connections), return_exceptions=True)
    spent = at.cpu_s() - before
    for connection in connections:
        connection.close()
    failures = sum(each is not True for each in whole)
    return Streams(failures, 1e6 * spent / (count * chunks), at.rss_mib())


async def memory_rows(at: Running, many: int, chunks: int) -> list[tuple[str, str, str]]:
    """What so many streams at a time leave behind, round after round."""
    start = at.rss_mib()
    rounds = [await streams(at, many, chunks if i < 2 else 5) for i in range(2 * WARM_ROUNDS)]
    rss = [start, *(each.rss_mib for each in rounds)]
    failures = sum(each.failures for each in rounds)
    half, total = WARM_ROUNDS * many, len(rounds) * many
    return [
        (f"failures of {total:,} streams, {many:,} at a time", str(failures), "0"),
        (f"memory for the first {many:,}, MiB", f"{rss[1] - rss[0]:.1f}", ""),
        (f"gained up to {half:,}, MiB", f"{rss[WARM_ROUNDS] - rss[1]:.1f}", ""),
        (f"gained by {half:,} more, MiB", f"{rss[-1] - rss[WARM_ROUNDS]:.1f}", "0"),
    ]
