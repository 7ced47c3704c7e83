"""Canaries: questions with known answers, through the gateway's own way to each stage."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from motley_runtime.gateway.canaries import NAME, Canaries, endless
from motley_runtime.gateway.options import GatewaySettings
from motley_runtime.gateway.watching import Watch


@cache
def answers() -> dict[str, str]:
    """The right answers of the first questions, by their text."""
    return {each["prompt"]: each["check"]["answer"] for each in itertools.islice(endless(7), 400)}


def knowing(engine: Any, knows: Any) -> None:
    """Lets an engine answer these questions right while `knows()` says so."""
    plain = engine.answer

    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        right = answers().get(body["messages"][0]["content"], "?")
        engine.text = f"Answer: {right if knows() else 'ABCD'['ABCD'.index(right) - 1]}"
        return dict(plain(path, body))

    engine.answer = answer


@pytest.fixture
def asking(start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any) -> Any:
    """A gateway, its engines, and its canaries, to be asked one by one."""

    async def start(**settings: Any) -> Any:
        small, large = await start_engine("small"), await start_engine("large")
        stages = ("small", [replica_of(small)]), ("large", [replica_of(large)])
        gateway = await start_gateway(routing_of(*stages), **settings)
        inner = gateway.gateway
        caller = inner._cascade._caller
        watch = Watch(inner.live, inner.metrics.quality)
        canaries = Canaries(12, caller, watch, inner.live, inner.metrics.quality)
        canaries.state_dir = settings.get("state_dir")
        return gateway, canaries, (small, large)

    return start


async def ask(gateway: Any, canaries: Canaries, times: int, seed: int = 7) -> None:
    dispatcher = gateway.gateway.live.current
    questions = endless(seed)
    for _ in range(times):
        for stage in dispatcher.table.stages:
            await canaries._ask(dispatcher, stage, next(questions))


async def test_each_stage_is_asked_and_graded(asking: Any) -> None:
    gateway, canaries, (small, large) = await asking()
    knowing(small, lambda: False)
    knowing(large, lambda: True)
    await ask(gateway, canaries, 5)
    found = {
        (stage, outcome): await gateway.metric(
            f'motley_gateway_canaries_total{{outcome="{outcome}",stage="{stage}"}}'
        )
        for stage in ("small", "large")
        for outcome in ("right", "wrong", "failed")
    }
    assert found["large", "right"] == 5 and found["small", "wrong"] == 5
    assert sum(found.values()) == 10
    assert all(re.match("canary-[0-9a-f]{32}$", h["x-request-id"]) for h in small.headers)
    assert {body["temperature"] for body in small.seen} == {0.0}
    assert await gateway.metric("motley_gateway_requests_total") == 0.0


async def test_a_stage_that_gets_worse_raises_an_alarm_and_the_other_does_not(
    asking: Any,
) -> None:
    gateway, canaries, (small, large) = await asking()
    is_well = True
    knowing(small, lambda: is_well)
    knowing(large, lambda: True)
    await ask(gateway, canaries, 100)
    assert await gateway.metric("motley_gateway_drift_alarm{") == 0.0
    is_well = False
    await ask(gateway, canaries, 30)
    alarm = 'motley_gateway_drift_alarm{signal="canaries",stage='
    assert await gateway.metric(f'{alarm}"small"') == 1.0
    assert await gateway.metric(f'{alarm}"large"') == 0.0


async def test_a_stage_that_cannot_be_reached_has_failed_and_is_not_worse(asking: Any) -> None:
    gateway, canaries, (small, _) = await asking()
    small.status = 500
    await ask(gateway, canaries, 3)
    failed = 'motley_gateway_canaries_total{outcome="failed",stage="small"}'
    assert await gateway.metric(failed) == 3
    assert "small" not in canaries._watch.canaries


async def test_what_was_learned_survives_a_restart_and_not_another_model(
    asking: Any, tmp_path: Path
) -> None:
    gateway, canaries, (small, large) = await asking(state_dir=tmp_path)
    for engine in (small, large):
        knowing(engine, lambda: True)
    await ask(gateway, canaries, 62)
    assert json.loads((tmp_path / NAME).read_bytes())["small"]["asked"] == 60
    again = Canaries(12, canaries._caller, canaries._watch, canaries._live, canaries._metrics)
    again._watch = Watch(canaries._live, canaries._metrics)
    again.state_dir = tmp_path
    again._restore()
    assert again._watch.canaries["small"].is_known
    document = json.loads(gateway.gateway.live._raw)
    document["stages"][0]["model"] = "org/other"
    assert gateway.offer(document)
    await ask(gateway, again, 1)
    assert not again._watch.canaries["small"].is_known
    assert again._watch.canaries["large"].is_known


async def test_a_state_file_of_something_else_is_left_aside(asking: Any, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('{"small": 3}')
    _, canaries, _ = await asking(state_dir=tmp_path)
    canaries._restore()
    assert canaries._watch.canaries == {}


async def test_a_gateway_that_is_told_to_asks_by_itself_at_the_rate(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, eventually: Any
) -> None:
    small, large = await start_engine("small"), await start_engine("large")
    stages = ("small", [replica_of(small)]), ("large", [replica_of(large)])
    await start_gateway(routing_of(*stages), canaries_per_hour=3600)
    began = asyncio.get_running_loop().time()
    # One a second and stage, so half a second between two on the mean.
    await eventually(lambda: small.seen and large.seen, 20.0)
    took = asyncio.get_running_loop().time() - began
    assert len(small.seen) + len(large.seen) <= 2 + took / 0.25
    assert "Answer: X" in small.seen[0]["messages"][0]["content"]


def test_no_canary_is_asked_unless_wanted() -> None:
    assert GatewaySettings().canaries_per_hour is None
