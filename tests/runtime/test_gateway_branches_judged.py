"""A stage that branches and is judged: its own answer branches, samples and verdicts do not."""

from __future__ import annotations

from typing import Any

import pytest

RULE = {"samples": 3, "stop_after": 3, "choose": "Best"}
CASES = {
    "LogProb": ({"type": "LogProb"}, 3, 0),
    "Validator": ({"type": "Validator", "checks": [{"type": "Regex", "pattern": "."}]}, 3, 0),
    "SelfVerify": ({"type": "SelfVerify"}, 3, 1),
    "SelfConsistency": ({"type": "SelfConsistency", "samples": 3}, 0, 3),
}


@pytest.mark.parametrize("name", CASES)
async def test_only_the_answer_itself_branches(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, name: str
) -> None:
    estimator, streams, whole = CASES[name]
    small, large = await start_engine("small"), await start_engine("large")
    document = routing_of(
        ("small", [replica_of(small)]),
        ("large", [replica_of(large)]),
        policies=[{"id": "p", "share": 1.0, "thresholds": {"small": 0.0}}],
        estimator=estimator,
    )
    document["stages"][0]["branches"] = RULE
    gateway = await start_gateway(document)
    response = await gateway.chat("what is 6 times 7?")
    assert response.status == 200
    asked = [bool(body.get("stream")) for body in small.seen]
    assert (asked.count(True), asked.count(False)) == (streams, whole)
    assert ("x-motley-branches" in response.headers) == bool(streams)
    assert gateway.gateway.live.current.in_flight() == 0
