"""The gateway's benches in their shortest form: they run, nothing fails, costs are near.

Measured on two shared x86 cores: 2,300 to 2,900 requests per CPU second and 40 to 43 us a chunk;
here a busy machine and short runs, in which start-up counts, leave a factor of ten.
"""

from __future__ import annotations

import asyncio
import os

import pytest
from tests.bench import gateway, gateway_rig, gateway_streams, prefix_affinity


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins processes to cores")
async def test_the_gateway_answers_and_streams_at_a_bearable_cost() -> None:
    async with gateway_rig.running() as at:
        assert await gateway.per_cpu_second(at, 16, 480) > 300
        found = await gateway_streams.streams(at, 40, 40)
    assert found.failures == 0
    assert found.us_per_chunk < 450


def test_a_dispatch_decision_among_a_thousand_replicas_takes_microseconds() -> None:
    """Wanted: 20 us; measured 4."""
    assert gateway.dispatch_us(1000, 5000) < 60


@pytest.mark.skipif(not prefix_affinity.TRACE.exists(), reason="needs Mooncake's trace")
def test_affinity_doubles_the_hits_of_a_real_trace_and_keeps_the_shares() -> None:
    rows = prefix_affinity.requests_of(prefix_affinity.TRACE, 4000)
    off, on = (prefix_affinity.replay(rows, 8, 4000, each) for each in (False, True))
    assert on.hit_rate > 1.8 * off.hit_rate
    assert on.largest_share < 1 / 8 + 0.01
    assert on.wait_p99_s < 1.5 * off.wait_p99_s


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins processes to cores")
async def test_a_thousand_streams_at_once_do_not_fail_nor_leave_memory_behind() -> None:
    """Ten rounds fill what is filled once; ten more, 10,000 streams, add nothing (measured 0.0)."""
    async with gateway_rig.running() as at:
        found = await gateway_streams.memory_rows(at, 1000, 50)
    rows = {what: value for what, value, _ in found}
    assert rows["failures of 20,000 streams, 1,000 at a time"] == "0"
    assert float(rows["gained up to 10,000, MiB"]) < 6.0
    assert float(rows["gained by 10,000 more, MiB"]) <= 0.5


def test_a_mock_stream_ends_as_the_load_expects() -> None:
    async def ask() -> bool:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(gateway_rig.MockEngine, "127.0.0.1", 0)
        connection = await gateway_rig.Connection.to(server.sockets[0].getsockname()[1])
        found = [await connection.ask(gateway_rig.request(n)) for n in (0, 3)]
        connection.close()
        server.close()
        return all(found)

    assert asyncio.run(ask())


async def told(at: gateway_rig.Running, raw: bytes) -> tuple[bytes, bytes]:
    """Head and body of a streamed answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
    writer.write(raw)
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readuntil(b"\r\n0\r\n\r\n")
    writer.close()
    return head, body


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins processes to cores")
async def test_what_is_measured_as_the_scored_path_goes_that_way() -> None:
    """Escalated with both stages' usage; and scored on the way, held back, its log-probabilities gone."""
    async with gateway_rig.running((0.99,)) as at:
        raw = gateway_rig.request(40, stream_options={"include_usage": True})
        head, body = await told(at, raw)
        assert b"x-motley-path: small:0.9048,large" in head
        assert b'"prompt_tokens":1000,"completion_tokens":90' in body
    async with gateway_rig.running((0.5,)) as at:
        head, body = await told(at, gateway_rig.request(40, headers=gateway.OPTIMISTIC))
        assert b"x-motley-path: small:0.9048\r\n" in head
        assert body.count(b"data: ") == 41 and b'"logprob"' not in body
        whole = await told(at, gateway_rig.request(40))
        assert whole[1].count(b"data: ") < 10, "a buffered answer is no stream of the engine's"
