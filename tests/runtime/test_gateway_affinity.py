"""Prompts and sessions find the replica that has them cached, within the planned rates."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from motley_runtime.gateway.last_good import LastGood
from motley_runtime.gateway.prefixes import (
    BLOCK_BYTES,
    PrefixIndex,
    PromptKey,
    block_hashes,
)


def test_blocks_are_equal_exactly_as_far_as_the_texts_are() -> None:
    one = b"".join(bytes([65 + i]) * BLOCK_BYTES for i in range(4)) + b"tail"
    other = bytearray(one)
    other[2 * BLOCK_BYTES + 5] = 0
    first, second = block_hashes(one), block_hashes(bytes(other))
    assert len(first) == len(set(first)) == 4
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, True, False, False]
    assert block_hashes(b"x" * (BLOCK_BYTES - 1)) == []
    assert len(block_hashes(b"x" * BLOCK_BYTES * 500)) == 64, "hashing a prompt has a bound"


def test_the_longest_beginning_wins_and_a_session_goes_before() -> None:
    index = PrefixIndex(block_s=0.1, session_s=2.0)
    index.placed("s", PromptKey(("a", "b")), "r0")
    index.placed("s", PromptKey(("a", "c", "d"), "me"), "r1")
    assert index.preferred("s", PromptKey(("a", "b", "x"))) == ("r0", pytest.approx(0.2))
    assert index.preferred("s", PromptKey(("a", "x"))) == ("r1", pytest.approx(0.1))
    assert index.preferred("s", PromptKey(("a", "b"), "me")) == ("r1", pytest.approx(2.2))
    assert index.preferred("s", PromptKey(("z",))) is None
    assert index.preferred("other", PromptKey(("a",))) is None


def test_the_longest_unused_beginnings_are_forgotten() -> None:
    index = PrefixIndex(capacity=3)
    for name in "abc":
        index.placed("s", PromptKey((name,)), name)
    index.placed("s", PromptKey(("a",)), "a")
    index.placed("s", PromptKey(("d",)), "d")
    assert len(index) == 3 and index.preferred("s", PromptKey(("b",))) is None
    assert index.preferred("s", PromptKey(("a",))) is not None


@pytest.fixture
def pool(start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any) -> Any:
    async def start(count: int = 3, **settings: Any) -> Any:
        engines = [await start_engine(f"r{i}") for i in range(count)]
        document = routing_of(("main", [replica_of(e) for e in engines]))
        return await start_gateway(document, **settings), engines

    return start


def turn(session: int, length: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{session} {i} " * 800} for i in range(length)]


def homes(engines: Any) -> dict[str, Counter[str]]:
    """Where the requests of each conversation went."""
    found: dict[str, Counter[str]] = {}
    for engine in engines:
        for seen in engine.seen:
            name = seen["messages"][0]["content"].split()[0]
            found.setdefault(name, Counter())[engine.name] += 1
    return found


@pytest.mark.parametrize(("affinity", "stays"), [("prefix", True), ("off", False)])
async def test_a_growing_conversation_stays_where_it_began(
    pool: Any, affinity: str, stays: bool
) -> None:
    gateway, engines = await pool(affinity=affinity)
    for length in range(1, 5):
        for conversation in range(7):
            response = await gateway.post(
                "/v1/chat/completions", messages=turn(conversation, length)
            )
            assert response.status == 200
    at_home = sum(max(each.values()) for each in homes(engines).values())
    # Of 28; the planned shares may move a conversation once, without affinity most move.
    assert (at_home >= 26) == stays, homes(engines)


async def test_a_session_of_short_prompts_stays_too(pool: Any) -> None:
    gateway, engines = await pool()
    for _ in range(4):
        for session in ("x", "y", "z", "w"):
            messages = [{"role": "user", "content": session}]
            await gateway.post(
                "/v1/chat/completions", messages=messages, headers={"x-session-id": session}
            )
    assert all(len(each) == 1 for each in homes(engines).values())


async def test_affinity_never_breaks_the_planned_shares(pool: Any) -> None:
    gateway, engines = await pool()
    for _ in range(60):
        await gateway.post("/v1/chat/completions", messages=turn(1, 2))
    assert all(abs(len(engine.seen) - 20) <= 2 * 4 for engine in engines), "one hot prompt"


async def test_a_session_whose_replica_fails_moves_on(pool: Any) -> None:
    gateway, engines = await pool()
    headers = {"x-session-id": "s"}
    await gateway.chat(headers=headers)
    home = next(engine for engine in engines if engine.seen)
    home.status = 500
    for _ in range(4):
        assert (await gateway.chat(headers=headers)).status == 200
    assert len(home.seen) == 2, "once to fail; then its circuit is open"


async def test_the_last_good_routing_outlives_the_process(
    start_gateway: Any, start_engine: Any, routing_of: Any, replica_of: Any, tmp_path: Path
) -> None:
    document = routing_of(("main", [replica_of(await start_engine("r0"))]), plan_hash="good")
    first = await start_gateway(document, state_dir=tmp_path)
    assert not first.offer({"version": 7})
    second = await start_gateway(state_dir=tmp_path)
    async with second.http.get(f"{second.url}/ready") as response:
        body = await response.json()
    assert (response.status, body["plan_hash"]) == (200, "good")
    assert "last good routing" in body["refused"]
    assert (await second.chat()).headers["x-motley-plan"] == "good"
    assert not second.offer({"version": 7})
    assert (await second.chat()).status == 200
    assert second.offer(document), "the source is sound again and says the same"
    async with second.http.get(f"{second.url}/ready") as response:
        assert "refused" not in await response.json()


async def test_a_state_that_cannot_be_used_is_survived(
    start_gateway: Any, start_engine: Any, routing_of: Any, replica_of: Any, tmp_path: Path
) -> None:
    (tmp_path / "last-good-routing.json").write_text("{")
    document = routing_of(("main", [replica_of(await start_engine("r0"))]))
    gateway = await start_gateway(document, state_dir=tmp_path)
    assert (await gateway.chat()).status == 200
    lost = await start_gateway(document, state_dir=tmp_path / "none")
    assert (await lost.chat()).status == 200
    LastGood(tmp_path / "none").write(b"{}")
    assert LastGood(tmp_path / "none").read() is None


async def test_plans_overlap_until_the_older_ones_requests_have_ended(
    start_gateway: Any, start_engine: Any, routing_of: Any, replica_of: Any, eventually: Any
) -> None:
    import asyncio

    slow = await start_engine("slow", delay_s=0.3)
    gateway = await start_gateway(routing_of(("main", [replica_of(slow)]), plan_hash="old"))
    old = asyncio.create_task(gateway.chat())
    await eventually(lambda: slow.seen)
    gateway.offer(routing_of(("main", [replica_of(slow)]), plan_hash="new"))
    new = asyncio.create_task(gateway.chat())
    await eventually(lambda: len(slow.seen) == 2)
    async with gateway.http.get(f"{gateway.url}/ready") as response:
        assert (await response.json())["in_flight_by_plan"] == {"old": 1, "new": 1}
    plans = [(await each).headers["x-motley-plan"] for each in (old, new)]
    assert plans == ["old", "new"] and gateway.gateway.live.at_work == {}


async def test_plans_that_change_under_load_drop_no_request(
    start_gateway: Any, start_engine: Any, routing_of: Any, replica_of: Any
) -> None:
    import asyncio

    engines = [await start_engine(f"r{i}", chunks=6, chunk_delay_s=0.01) for i in range(3)]
    pairs = [routing_of(("main", [replica_of(e) for e in engines if e is not out]), plan_hash=out.name)
             for out in engines]  # fmt: skip
    gateway = await start_gateway(pairs[0])
    finished: Counter[str] = Counter()
    stop = False

    async def ask() -> None:
        while not stop:
            response = await gateway.chat(stream=True)
            raw = await response.read()
            assert response.status == 200 and raw.endswith(b"data: [DONE]\n\n"), raw
            plan = response.headers["x-motley-plan"]
            assert plan.encode() not in raw, "never on the replica that its plan has taken away"
            finished[plan] += 1

    tasks = [asyncio.create_task(ask()) for _ in range(20)]
    for number in range(24):
        await asyncio.sleep(0.04)
        assert gateway.offer(pairs[number % 3] | {"turn": number})
        if number % 5 == 0:
            assert not gateway.offer({"version": 2})
    stop = True
    await asyncio.gather(*tasks)
    assert len(finished) == 3 and sum(finished.values()) > 40
    assert gateway.gateway.live.at_work == {}
    assert gateway.gateway.live.current.in_flight() == 0
