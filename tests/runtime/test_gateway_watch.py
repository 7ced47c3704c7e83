"""Scores and labels in the gateway: what is watched, at which cost, and what is never kept."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from motley_planner.dispatch import RoutingError, parse_routing, routing_document
from motley_runtime.gateway.labels import Label, Labels

CURVE = {
    "points": [[i / 100, i / 100] for i in range(101)],
    "rows": 400,
    "accepted": 200,
    "quality": 0.9,
    "agreement": 0.85,
}
ALL = {"share": 1.0, "label": "LastStage", "compare": "Text", "per_minute": 60000}


def watch(**shadow: Any) -> dict[str, Any]:
    document: dict[str, Any] = {"references": {"small": CURVE}}
    return document | ({"shadow": ALL | shadow} if shadow else {})


@pytest.fixture
def cascade(start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any) -> Any:
    async def start(threshold: float = 0.5, fields: Any = None, **settings: Any) -> Any:
        small, large = await start_engine("small"), await start_engine("large")
        stages = ("small", [replica_of(small)]), ("large", [replica_of(large)])
        policies = [{"id": "p", "share": 1.0, "thresholds": {"small": threshold}}]
        document = routing_of(*stages, policies=policies, **(fields or {}))
        return await start_gateway(document, **settings), small, large

    return start


async def test_scores_that_leave_the_reference_are_an_alarm_in_log_and_metrics(
    cascade: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gateway, small, _ = await cascade(fields={"watch": watch()})
    small.token_probability = 0.9
    with caplog.at_level(logging.WARNING, "motley.gateway"):
        await asyncio.gather(*(gateway.chat() for _ in range(250)))
    at = '{signal="scores",stage="small"}'
    assert await gateway.metric(f"motley_gateway_drift_alarm{at}") == 1.0
    assert await gateway.metric(f"motley_gateway_drift{at}") == pytest.approx(0.89, abs=0.02)
    said = [record for record in caplog.records if record.message == "drift"]
    assert [record.fields["stage"] for record in said] == ["small"]  # type: ignore[attr-defined]


async def test_a_plan_with_another_reference_begins_anew(cascade: Any) -> None:
    gateway, _, _ = await cascade(fields={"watch": watch()})
    await asyncio.gather(*(gateway.chat() for _ in range(250)))
    document = json.loads(gateway.gateway.live._raw)
    document["watch"]["references"]["small"] = {**CURVE, "rows": 401}
    document["plan_hash"] = "bbbb2222"
    assert gateway.offer(document)
    await gateway.chat()
    assert await gateway.metric("motley_gateway_drift_alarm{") == 0.0


async def test_a_plan_with_the_same_reference_keeps_what_was_seen(cascade: Any) -> None:
    gateway, _, _ = await cascade(fields={"watch": watch()})
    await asyncio.gather(*(gateway.chat() for _ in range(150)))
    document = json.loads(gateway.gateway.live._raw)
    document["plan_hash"] = "bbbb2222"
    assert gateway.offer(document)
    await asyncio.gather(*(gateway.chat() for _ in range(50)))
    assert await gateway.metric("motley_gateway_drift{") > 0.5


async def test_an_early_answer_is_compared_with_the_last_stages(
    cascade: Any, eventually: Any, tmp_path: Path
) -> None:
    gateway, _small, large = await cascade(
        fields={"watch": watch(per_minute=6000)}, state_dir=tmp_path
    )
    large.text = "Forty  Two."
    response = await gateway.chat("what is 6 times 7?", max_tokens=9)
    assert response.headers["x-motley-path"] == "small:0.9000"
    assert (await response.json())["usage"]["prompt_tokens"] == 10
    agrees = 'motley_gateway_shadow_labels_total{agrees="yes",stage="small"}'
    await eventually(lambda: large.seen)

    async def labelled() -> bool:
        return bool(await gateway.metric(agrees) == 1.0)

    await eventually(labelled)
    assert large.seen[0]["messages"] == [{"role": "user", "content": "what is 6 times 7?"}]
    assert large.seen[0]["max_tokens"] == 9 and large.seen[0]["model"] == "org/large"
    assert large.headers[0]["x-request-id"].endswith("-shadow")
    kept = (tmp_path / "labels.jsonl").read_text()
    (line,) = kept.splitlines()
    assert json.loads(line) | {"unix_s": 0} == {
        "stage": "small",
        "score": 0.9,
        "agrees": True,
        "label": "LastStage",
        "plan": "aaaa1111",
        "unix_s": 0,
    }
    assert "times" not in kept and "forty" not in kept.lower()


async def test_another_answer_of_the_last_stage_is_a_label_against(
    cascade: Any, eventually: Any
) -> None:
    gateway, _, large = await cascade(fields={"watch": watch(compare="Number")})
    large.text = "43"
    await gateway.chat()
    no = 'motley_gateway_shadow_labels_total{agrees="no",stage="small"}'

    async def labelled() -> bool:
        return bool(await gateway.metric(no) == 1.0)

    await eventually(labelled)


async def test_no_client_waits_for_a_label_and_only_two_are_under_way(
    cascade: Any, eventually: Any
) -> None:
    gateway, _, large = await cascade(fields={"watch": watch(per_minute=60000)})
    large.delay_s = 60.0
    async with asyncio.timeout(30.0):
        for _ in range(5):
            await gateway.chat()
    skipped = 'motley_gateway_shadow_skipped_total{reason="concurrency"}'
    assert len(large.seen) <= 2 and await gateway.metric(skipped) == 3


async def test_labels_are_bounded_in_rate(cascade: Any) -> None:
    gateway, _, _ = await cascade(fields={"watch": watch(per_minute=1)})
    for _ in range(4):
        await gateway.chat()
        await asyncio.sleep(0.02)
    assert await gateway.metric('motley_gateway_shadow_skipped_total{reason="rate"}') == 3


async def test_nothing_is_labelled_while_requests_wait(cascade: Any) -> None:
    sharing = {"in_flight": 1, "waiting": 50, "wait_s": 5.0}
    gateway, _, large = await cascade(fields={"watch": watch(per_minute=60000)}, sharing=sharing)
    await asyncio.gather(*(gateway.chat() for _ in range(10)))
    skipped = 'motley_gateway_shadow_skipped_total{reason="busy"}'
    assert await gateway.metric(skipped) >= 8 and len(large.seen) <= 2


async def test_a_share_of_a_tenth_labels_a_tenth(cascade: Any) -> None:
    gateway, _, _ = await cascade(fields={"watch": watch(share=0.1)})
    draws = iter([i / 20 for i in range(20)])
    shadow = gateway.gateway._cascade.shadow
    shadow.uniform, seen = lambda: next(draws), []
    shadow._label = lambda each: _noted(seen, each)
    for _ in range(20):
        await gateway.chat()
    assert len(seen) == 2


async def _noted(seen: list[Any], each: Any) -> None:
    seen.append(each)


async def test_a_verdict_of_the_last_stage_may_label(cascade: Any, eventually: Any) -> None:
    gateway, _, large = await cascade(fields={"watch": watch(label="Verdict")})
    large.text = "No"
    await gateway.chat()
    no = 'motley_gateway_shadow_labels_total{agrees="no",stage="small"}'

    async def labelled() -> bool:
        return bool(await gateway.metric(no) == 1.0)

    await eventually(labelled)
    assert large.seen[0]["max_tokens"] == 8


async def test_checks_may_label_without_any_call(cascade: Any, eventually: Any) -> None:
    check = {"type": "Regex", "pattern": "two$"}
    fields = {
        "watch": watch(label="Validator"),
        "estimator": {"type": "Validator", "checks": [check]},
    }
    gateway, _, large = await cascade(0.5, fields=fields)
    await gateway.chat()
    yes = 'motley_gateway_shadow_labels_total{agrees="yes",stage="small"}'

    async def labelled() -> bool:
        return bool(await gateway.metric(yes) == 1.0)

    await eventually(labelled)
    assert large.seen == []


async def test_a_last_stage_that_does_not_answer_labels_nothing(
    cascade: Any, eventually: Any
) -> None:
    gateway, _, large = await cascade(fields={"watch": watch(per_minute=6000)})
    large.status = 500
    response = await gateway.chat()
    assert response.status == 200

    async def skipped() -> bool:
        reason = 'motley_gateway_shadow_skipped_total{reason="failed"}'
        return bool(await gateway.metric(reason) == 1.0)

    await eventually(skipped)
    assert await gateway.metric("motley_gateway_shadow_labels_total{") == 0.0


async def test_labels_that_speak_against_the_calibration_are_an_alarm(
    cascade: Any, eventually: Any
) -> None:
    gateway, _, large = await cascade(fields={"watch": watch(per_minute=60000)})
    large.text = "something else"
    alarm = 'motley_gateway_drift_alarm{signal="labels",stage="small"}'
    for _ in range(130):
        await gateway.chat()
        while gateway.gateway._cascade.shadow._tasks:
            await asyncio.sleep(0.001)
    assert await gateway.metric(alarm) == 1.0


async def test_a_plan_without_a_watch_notes_nothing(cascade: Any) -> None:
    gateway, _, large = await cascade()
    await asyncio.gather(*(gateway.chat() for _ in range(20)))
    assert large.seen == [] and gateway.gateway._cascade.watch._scores == {}
    assert await gateway.metric("motley_gateway_drift{") == 0.0


def test_the_store_of_labels_is_bounded_on_disk_and_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motley_runtime.gateway.labels._FILE_BYTES", 2000)
    labels = Labels(tmp_path)
    for i in range(3000):
        labels.add(Label("small", 0.5, True, "LastStage", "p", float(i)))
    assert len(labels.recent) == 2000 and labels.recent[-1].unix_s == 2999.0
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 4400


def test_a_disk_that_cannot_be_written_to_loses_only_the_file(tmp_path: Path) -> None:
    labels = Labels(tmp_path / "nowhere")
    labels.add(Label("small", 0.5, True, "LastStage", "p", 0.0))
    assert len(labels.recent) == 1


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"watch": {"references": {"tiny": CURVE}}}, "watch.references.tiny"),
    ({"watch": {"references": {"large": CURVE}}}, "watch.references.large"),
    ({"watch": {"references": {"small": {**CURVE, "rows": 0}}}}, "watch.references.small.rows"),
    (
        {"watch": {"references": {"small": {**CURVE, "points": [[0.5, 0.5], [0.4, 1]]}}}},
        "watch.references.small.points",
    ),
    ({"watch": watch(label="Gut")}, "watch.shadow.label"),
    ({"watch": watch(share=2)}, "watch.shadow.share"),
    ({"relief": {"floor": 0.5, "policies": []}}, "relief"),
]


@pytest.mark.parametrize(("fields", "field"), WRONG, ids=[field for _, field in WRONG])
def test_what_cannot_be_watched_is_refused_by_its_field(
    routing_of: Any, replica_of: Any, fields: dict[str, Any], field: str
) -> None:
    class Engine:
        name, url = "e", "http://e"

    stages = ("small", [replica_of(Engine)]), ("large", [replica_of(Engine)])
    table = parse_routing(routing_of(*stages, watch=watch(label="Verdict")))
    assert parse_routing(routing_document(table)) == table
    with pytest.raises(RoutingError) as caught:
        parse_routing(routing_of(*stages, **fields))
    assert caught.value.field == field
