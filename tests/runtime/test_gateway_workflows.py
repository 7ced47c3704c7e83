"""Workflows at the gateway: what is urgent goes first, credits bound what is at work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from motley_planner.dispatch.workflows import StepCall
from motley_runtime.gateway.metrics import Metrics
from motley_runtime.gateway.steps import Steps


def headers(name: str, left_ms: int, step: str = "a") -> dict[str, str]:
    told = {"x-motley-workflow-id": name, "x-motley-step": step}
    return told | {"x-motley-deadline-ms": str(left_ms)}


async def test_the_most_urgent_of_those_that_wait_goes_first(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, eventually: Any
) -> None:
    engine = await start_engine("e")
    gate = hold_first(engine)
    gateway = await start_gateway(routing_of(("main", [replica_of(engine, kv_tokens=60)])))

    def ask(text: str, left_ms: int) -> Any:
        told = headers(text, left_ms)
        return asyncio.ensure_future(gateway.chat(text, max_tokens=50, headers=told))

    asked = [ask("first", 90_000)]
    await eventually(lambda: len(engine.seen) == 1)
    for number, (text, left_ms) in enumerate((("c", 80_000), ("a", 5_000), ("b", 40_000))):
        asked.append(ask(text, left_ms))
        await eventually(lambda n=number: _is(gateway, n + 1))
    gate.set()
    assert {r.status for r in await asyncio.gather(*asked)} == {200}
    said = [body["messages"][0]["content"] for body in engine.seen]
    assert said == ["first", "a", "b", "c"]
    assert await gateway.metric('motley_gateway_workflow_steps_total{outcome="in_time"}') == 4


Later = Callable[[float], None]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """Lets seconds pass at once, for the loop's timers too: what is slow on purpose is slow by these.

    Fewer than the 5 s after which a gateway closes a connection that nobody uses. A test asks for this
    fixture first: what still waits at its end would wait for those seconds, once the clock goes back.
    """
    real_s, ahead = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: real_s() + ahead[0])

    def passes(seconds: float) -> None:
        ahead[0] += seconds

    return passes


def hold(engine: Any, meanwhile: Callable[[], Any]) -> None:
    """Makes every answer of the engine come after something else; it may be awaited."""
    answer = engine._respond

    async def held(request: Any, body: Any) -> Any:
        waits = meanwhile()
        if waits is not None:
            await waits
        return await answer(request, body)

    engine._respond = held


def hold_first(engine: Any) -> asyncio.Event:
    """Makes the engine's first answer wait until the event is set."""
    gate, answer = asyncio.Event(), engine._respond

    async def held(request: Any, body: Any) -> Any:
        if engine.seen[0] is body:
            await gate.wait()
        return await answer(request, body)

    engine._respond = held
    return gate


async def _is(gateway: Any, waiting: int) -> bool:
    return bool(await gateway.metric("motley_gateway_waiting_for_credit") == waiting)


async def test_a_limit_far_above_the_usual_answer_holds_the_usual_tokens_only(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, eventually: Any
) -> None:
    engine = await start_engine("e", delay_s=0.5)
    document = routing_of(("main", [replica_of(engine, kv_tokens=10_000)]))
    usual = document["classes"][0]["output_tokens"]
    gateway = await start_gateway(document)
    asked = [
        asyncio.ensure_future(gateway.chat("x", max_tokens=limit)) for limit in (5, 4000, None)
    ]
    await eventually(lambda: len(engine.seen) == 3)
    used = gateway.gateway._cascade._caller._credits.queues["e"].used
    assert 5 + 2 * usual <= used <= 5 + 2 * usual + 3 * 20  # and three short prompts
    assert {response.status for response in await asyncio.gather(*asked)} == {200}


async def test_without_credits_nothing_waits(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, eventually: Any
) -> None:
    engine = await start_engine("e", delay_s=0.3)
    gateway = await start_gateway(routing_of(("main", [replica_of(engine)])))
    asked = [asyncio.ensure_future(gateway.chat(max_tokens=999)) for _ in range(5)]
    await eventually(lambda: len(engine.seen) == 5)
    assert {r.status for r in await asyncio.gather(*asked)} == {200}


async def test_a_client_that_leaves_while_it_waits_takes_no_credit_along(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, eventually: Any
) -> None:
    engine = await start_engine("e")
    gate = hold_first(engine)
    gateway = await start_gateway(routing_of(("main", [replica_of(engine, kv_tokens=60)])))
    one = asyncio.ensure_future(gateway.chat("one", max_tokens=50))
    await eventually(lambda: len(engine.seen) == 1)
    two = asyncio.ensure_future(gateway.chat("two", max_tokens=50, stream=True))
    await eventually(lambda: _is(gateway, 1))
    two.cancel()
    await asyncio.wait({two})
    await eventually(lambda: _is(gateway, 0))
    gate.set()
    assert (await one).status == 200
    assert (await gateway.chat("three", max_tokens=50)).status == 200
    assert [body["messages"][0]["content"] for body in engine.seen] == ["one", "three"]
    assert gateway.gateway.live.current.in_flight() == 0


async def test_who_waits_too_long_for_room_is_told_to_come_back(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, eventually: Any
) -> None:
    engine = await start_engine("e")
    gate = hold_first(engine)
    made = routing_of(("main", [replica_of(engine, kv_tokens=60)]))
    gateway = await start_gateway(made, sharing={"wait_s": 0.1})
    one = asyncio.ensure_future(gateway.chat(max_tokens=50))
    await eventually(lambda: len(engine.seen) == 1)
    response = await gateway.chat(max_tokens=50)
    assert (response.status, response.headers["retry-after"]) == (503, "1")
    assert gateway.gateway.live.current.failing("main", 0.0) == 0
    gate.set()
    assert (await one).status == 200


async def test_a_later_step_gets_what_is_left_of_its_workflows_time(
    later: Later, start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any
) -> None:
    """Half of 10 s for the first of two equal steps, all that is left for the last one."""
    engine = await start_engine("e")
    hold(engine, lambda: later(2.0))
    gateway = await start_gateway(routing_of(("main", [replica_of(engine)])))
    book = gateway.gateway.steps.book
    for number in range(30):
        for step in "ab":
            told = headers(str(number), 10_000, step)
            assert (await gateway.chat(headers=told)).status == 200
        book.ended(f"/{number}")
    ratio = book.rest_s("", "a") / book.seconds(_call("a"))
    assert 0.3 < ratio < 3.0  # equal but for what the machine took beside two seconds
    assert book.rest_s("", "b") < 0.1 * book.rest_s("", "a")
    assert len(book) == 0


def _call(step: str) -> StepCall:
    return StepCall("x", step)


async def test_a_deadline_may_be_a_time_and_says_so_where_it_is_neither(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any
) -> None:
    engine = await start_engine("e", delay_s=0.05)
    gateway = await start_gateway(routing_of(("main", [replica_of(engine)])))
    now_ms, outcomes = time.time() * 1000.0, []
    for stated in (now_ms + 5_000, now_ms - 5_000, 5_000, 1):
        told = headers(f"w{stated}", round(stated))
        assert (await gateway.chat(headers=told)).status == 200
        line = 'motley_gateway_workflow_steps_total{outcome="late"}'
        outcomes.append(await gateway.metric(line))
    assert outcomes == [0, 1, 1, 2], "times and durations, to come and past"
    for wrong in (86_400_001, 10**11, round(now_ms + 90_000_000), round(now_ms - 90_000_000)):
        response = await gateway.chat(headers=headers("w", wrong))
        error = (await response.json())["error"]
        assert (response.status, error["param"]) == (400, "x-motley-deadline-ms")
        assert "since 1970" in error["message"]


async def test_late_calls_are_told_apart_by_their_cause(
    later: Later,
    start_engine: Any,
    start_gateway: Any,
    routing_of: Any,
    replica_of: Any,
    eventually: Any,
) -> None:
    """Each deadline is 2 s; the clock says 3 s more while an engine works or somebody waits."""
    small = await start_engine("small", token_probability=0.01)
    large = await start_engine("large")
    slow, gate = [True], asyncio.Event()
    hold(large, lambda: later(3.0) if slow[0] else gate.wait())
    pool = await start_gateway(routing_of(("main", [replica_of(large)])), sharing={"in_flight": 1})
    cascade = await start_gateway(
        routing_of(("small", [replica_of(small)]), ("large", [replica_of(large)]))
    )

    async def causes(gateway: Any) -> dict[str, float]:
        line = 'motley_gateway_workflow_late_steps_total{cause="%s"}'
        found = {name: await gateway.metric(line % name) for name in ("queue", "execution")}
        return found | {"escalation": await gateway.metric(line % "escalation")}

    await pool.chat(headers=headers("e", 2_000))
    await cascade.chat(headers=headers("f", 2_000))
    assert await causes(pool) == {"queue": 0, "execution": 1, "escalation": 0}
    assert await causes(cascade) == {"queue": 0, "execution": 0, "escalation": 1}
    slow[0] = False
    first = asyncio.ensure_future(pool.chat())
    await eventually(lambda: pool.gateway.share.at_work == 1)
    second = asyncio.ensure_future(pool.chat(headers=headers("q", 2_000)))
    await eventually(lambda: pool.gateway.share.waiting == 1)
    later(3.0)
    gate.set()
    await asyncio.gather(first, second)
    assert await causes(pool) == {"queue": 1, "execution": 1, "escalation": 0}


def test_a_workflow_is_measured_from_its_first_call_to_its_last_answer() -> None:
    metrics = Metrics()
    book = Steps(metrics).book
    for name, deadline_s in (("a", 20.0), ("b", 5.0), ("c", None)):
        call = StepCall(name, "step", deadline_s=deadline_s)
        book.due_s(call, 0.0)
        book.answered(call, 2.0, 2.0)
        book.left(call, 2.0)
        book.due_s(StepCall(name, "next"), 3.0)
        book.answered(StepCall(name, "next"), 4.0, 7.0)
        book.left(StepCall(name, "next"), 7.0)
    book.due_s(StepCall("unanswered", "step"), 3.0)
    book.left(StepCall("unanswered", "step"), 3.0, is_answered=False)
    book.due_s(StepCall("later", "step"), 500.0)
    text = metrics.render().decode()
    for outcome in ("in_time", "late", "no_deadline"):
        assert f'motley_gateway_workflow_seconds_sum{{outcome="{outcome}"}} 7.0' in text
        assert f'motley_gateway_workflow_seconds_count{{outcome="{outcome}"}} 1.0' in text
