"""A gateway whose wall clock jumps by years, both ways: only what is written with a date sees it."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.test_gateway_tracing import Spans
from tests.runtime.test_gateway_watch import CURVE

YEAR_S = 365 * 86_400.0
KEY = {"authorization": "Bearer key-a"}


async def test_a_wall_clock_that_jumps_by_years_changes_nothing(
    start_engine: Any,
    start_gateway: Any,
    routing_of: Any,
    replica_of: Any,
    eventually: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real_s, real_ns, ahead = time.time, time.time_ns, {"s": 0.0}
    monkeypatch.setattr(time, "time", lambda: real_s() + ahead["s"])
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(ahead["s"] * 1e9))
    keys, state = tmp_path / "keys", tmp_path / "state"
    for folder in (keys, state):
        folder.mkdir()
    (keys / "alice").write_text("key-a\nrequests_per_minute=1\nburst=30\nconcurrency=4\n")
    spans = Spans()
    small, large = await start_engine("small"), await start_engine("large")
    label = {"share": 1.0, "label": "LastStage", "compare": "Text", "per_minute": 60_000}
    document = routing_of(
        ("small", [replica_of(small, kv_tokens=9_000)]),
        ("large", [replica_of(large)]),
        watch={"references": {"small": CURVE}, "shadow": label},
    )
    gateway = await start_gateway(
        document, api_keys_dir=keys, state_dir=state, canaries_per_hour=100_000.0, deadline_s=60.0
    )
    gateway.gateway.tracing = spans.tracing
    app, labels = gateway.gateway, "motley_gateway_shadow_labels_total{"
    known: list[float] = []
    for ahead["s"] in (0.0, 10 * YEAR_S, -20 * YEAR_S, 0.0):
        for stream in (False, True):
            for _ in range(3):
                headers = {**KEY, "x-motley-workflow-id": "w", "x-motley-deadline-ms": "60000"}
                response = await gateway.chat(stream=stream, headers=headers)
                assert (response.status, response.headers["x-motley-stage"]) == (200, "small")
                await response.read()
        asked = await gateway.metric("motley_gateway_canaries_total{")

        async def goes_on(asked: float = asked) -> bool:
            more = await gateway.metric("motley_gateway_canaries_total{") > asked + 2
            return more and await gateway.metric(labels) > (known[-1] if known else 0.0)

        await eventually(goes_on)
        known.append(await gateway.metric(labels))
    statuses = [(await gateway.chat(headers=KEY)).status for _ in range(8)]
    assert statuses == [200] * 6 + [429] * 2, "30 in all: no jump refilled the bucket"
    (keys / "alice").write_text("key-b\n")

    async def other_key_is_read() -> bool:
        return bool((await gateway.chat(headers={"authorization": "Bearer key-b"})).status == 200)

    await eventually(other_key_is_read)
    await eventually(lambda: app.in_flight == 0)
    assert app._cascade._caller._credits.queues["small"].used == 0.0
    assert await gateway.metric("motley_gateway_request_duration_seconds_sum") < 60
    assert await gateway.metric('motley_gateway_workflow_steps_total{outcome="in_time"}') == 24
    lines = (state / "labels.jsonl").read_text().splitlines()
    dates = [json.loads(line)["unix_s"] for line in lines]
    assert max(dates) > real_s() + 9 * YEAR_S and min(dates) < real_s() - 19 * YEAR_S
    names = [span.name for span in spans.all()]
    assert names.count("POST /v1/chat/completions") >= 31
    assert not [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
