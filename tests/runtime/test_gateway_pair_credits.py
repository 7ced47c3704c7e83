"""Room for prompts on replicas that only prefill: held until they are handed over, and no longer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.runtime.phase_engines import BOTH, STREAM, document, entry

PROMPT = "x" * 100
TOKENS = 100 / 4 + 4  # as the gateway counts a message
AMPLE = 1e6


@BOTH
@STREAM
async def test_a_prompt_holds_its_own_tokens_and_no_answers(
    pair: Any, protocol: str, stream: bool, eventually: Any
) -> None:
    two = await pair(protocol, prefill={"delay_s": 0.2})
    asking = asyncio.ensure_future(two.said(text=PROMPT, max_tokens=50, stream=stream))
    await eventually(lambda: two.prefill.at_work == 1)
    together = protocol == "bootstrap"  # vLLM's decode leg has not been asked yet
    assert two.held() == {"p": TOKENS} | ({"d": TOKENS + 50} if together else {})
    assert (await asking).startswith("d")
    await two.at_rest(eventually)


@BOTH
@STREAM
async def test_no_more_prompts_are_on_a_prefill_replica_than_fit(
    pair: Any, protocol: str, stream: bool, eventually: Any
) -> None:
    """Room for two of them, and for three requests on the decode side; nobody waits for ever."""
    slow = {"delay_s": 0.03}
    room = (2.5 * TOKENS, 3.5 * (TOKENS + 50))
    two = await pair(protocol, prefill=slow, decode=slow, room=room)
    asked = (two.said(text=PROMPT, max_tokens=50, stream=stream) for _ in range(12))
    assert all(text.startswith("d") for text in await asyncio.gather(*asked))
    if protocol == "nixl" and not stream:
        # A whole answer does not show when its cache is fetched: those on their way come on top.
        assert 2 <= two.cluster.most_prompts <= 2 + 3
    else:
        assert two.cluster.most_prompts == 2
    assert two.cluster.wrong == []
    await two.at_rest(eventually)


@BOTH
async def test_a_prompt_makes_room_once_the_decode_side_has_it(
    pair: Any, protocol: str, eventually: Any
) -> None:
    """The second prompt is read while the first answer still streams."""
    two = await pair(protocol, decode={"chunk_delay_s": 0.5}, room=(TOKENS, AMPLE))
    asked = [asyncio.ensure_future(two.said(text=PROMPT, stream=True)) for _ in range(2)]
    await eventually(lambda: two.decode.at_work == 2, limit_s=1.5)  # each streams for 2 s
    assert not any(task.done() for task in asked)
    assert {text[:2] for text in await asyncio.gather(*asked)} == {"d0"}
    await two.at_rest(eventually)


@STREAM
async def test_an_sglang_prefill_replica_is_done_while_its_answers_are_made(
    pair: Any, stream: bool, eventually: Any
) -> None:
    slow = {"chunk_delay_s": 0.5} if stream else {"delay_s": 0.5}
    two = await pair("bootstrap", decode=slow)
    asking = asyncio.ensure_future(two.said(stream=stream))
    await eventually(lambda: two.decode.at_work == len(two.prefill.seen) == 1)
    await eventually(lambda: two.gateway.gateway.live.current.in_flight() == 1, limit_s=0.4)
    assert two.decode.at_work == 1
    assert two.held()["p"] == 0.0 < two.held()["d"]
    assert (await asking).startswith("d")
    await two.at_rest(eventually)


@STREAM
async def test_a_cache_that_waits_for_room_on_the_decode_side_keeps_its_own(
    pair: Any, stream: bool, eventually: Any
) -> None:
    """vLLM's prefill replica is not asked for more than it can keep."""
    slow = {"delay_s": 0.4}
    two = await pair("nixl", decode=slow, room=(TOKENS, TOKENS + 50))
    asked = [
        asyncio.ensure_future(two.said(text=PROMPT, max_tokens=50, stream=stream)) for _ in range(3)
    ]
    await eventually(lambda: two.decode.at_work == 1 and len(two.prefill.seen) >= 1)
    if not stream:  # the first is under way, the second's cache waits, the third is not read yet
        await eventually(lambda: len(two.prefill.seen) == 2)
        await asyncio.sleep(0.1)
    assert len(two.prefill.seen) == (1 if stream else 2)
    assert two.decode.at_work == 1
    assert all(text.startswith("d") for text in await asyncio.gather(*asked))
    await two.at_rest(eventually)


@BOTH
@STREAM
async def test_a_client_that_leaves_while_its_prompt_waits_takes_no_room_along(
    pair: Any, protocol: str, stream: bool, eventually: Any
) -> None:
    two = await pair(protocol, prefill={"delay_s": 0.3}, room=(TOKENS, AMPLE))
    first = asyncio.ensure_future(two.said(text=PROMPT, stream=stream))
    await eventually(lambda: two.prefill.at_work == 1)
    second = asyncio.ensure_future(two.gateway.chat(PROMPT, stream=stream))
    waiting = two.gateway.gateway._cascade._caller._credits
    await eventually(lambda: waiting.waiting == 1)
    second.cancel()
    await asyncio.wait({second})
    await eventually(lambda: waiting.waiting == 0)
    assert (await first).startswith("d")
    await two.at_rest(eventually)
    assert len(two.prefill.seen) == 1


@BOTH
@STREAM
async def test_a_client_that_leaves_gives_its_prompts_room_back(
    pair: Any, protocol: str, stream: bool, eventually: Any
) -> None:
    two = await pair(protocol, prefill={"delay_s": 30.0}, room=(TOKENS, AMPLE))
    asking = asyncio.ensure_future(two.gateway.chat(PROMPT, stream=stream))
    await eventually(lambda: two.prefill.at_work == 1)
    assert two.held()["p"] == TOKENS
    asking.cancel()
    await asyncio.wait({asking})
    await two.at_rest(eventually)
    two.prefill.delay_s = 0.0
    assert (await two.said(text=PROMPT, stream=stream)).startswith("d")


FAILURES = [
    pytest.param({"prefill": {"drops": True}}, id="prefill drops the connection"),
    pytest.param({"prefill": {"status": 503}}, id="prefill is busy"),
    pytest.param({"prefill": {"delay_s": 30.0}, "prefill_s": 0.2}, id="prefill is too slow"),
    pytest.param({"decode": {"drops": True}}, id="decode drops the connection"),
    pytest.param({"decode": {"status": 500}}, id="decode answers 500"),
]


@BOTH
@STREAM
@pytest.mark.parametrize("trouble", FAILURES)
async def test_a_leg_that_fails_gives_the_prompts_room_back(
    pair: Any, protocol: str, stream: bool, trouble: dict[str, Any], eventually: Any
) -> None:
    two = await pair(protocol, colocated=True, room=(TOKENS, AMPLE), **trouble)
    assert (await two.said(text=PROMPT, stream=stream)).startswith("whole")
    assert two.prefill.seen
    await two.at_rest(eventually)


@BOTH
async def test_a_stream_that_breaks_off_leaves_no_room_taken(
    pair: Any, protocol: str, eventually: Any
) -> None:
    two = await pair(protocol, decode={"dies_after_chunks": 2}, room=(TOKENS, AMPLE))
    response = await two.gateway.chat(PROMPT, stream=True)
    assert "upstream_failed" in await response.text()
    await two.at_rest(eventually)


async def test_a_prompt_without_room_in_time_is_told_to_come_back(
    make: Any, start_gateway: Any, routing_of: Any, eventually: Any
) -> None:
    p = await make("p", "prefill", "nixl", delay_s=0.5)
    d = await make("d", "decode", "nixl")
    made = document(routing_of, "nixl", [entry(p, kv_tokens=TOKENS)], [entry(d)])
    gateway = await start_gateway(made, sharing={"wait_s": 0.1})
    one = asyncio.ensure_future(gateway.chat(PROMPT))
    await eventually(lambda: p.at_work == 1)
    response = await gateway.chat(PROMPT)
    assert (response.status, response.headers["retry-after"]) == (503, "1")
    assert gateway.gateway.live.current.failing("main", 0.0) == 0
    assert (await one).status == 200
