"""Fitted scores: the routing file carries them, the gateway decides by them."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from motley_planner.dispatch import RoutingError, parse_routing, routing_document

STEEP = {"kind": "logistic", "features": ["least"], "intercept": -20.0, "weights": [40.0]}
LINE = {"kind": "isotonic", "features": ["mean"], "points": [[0.5, 0.1], [0.9, 0.6]]}
MARGIN = {"kind": "logistic", "features": ["margin"], "intercept": 0.0, "weights": [1.0]}


@pytest.fixture
def cascade(start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any) -> Any:
    async def start(fitted: dict[str, Any], threshold: float, **small: Any) -> Any:
        first = await start_engine("small", **({"token_probability": 0.8} | small))
        second = await start_engine("large")
        document = routing_of(
            ("small", [replica_of(first)]),
            ("large", [replica_of(second)]),
            policies=[{"id": "p", "share": 1.0, "thresholds": {"small": threshold}}],
            estimator={"type": "LogProb", "calibrators": {"small": fitted}},
        )
        return await start_gateway(document), first, second

    return start


@pytest.mark.parametrize(
    ("fitted", "expected"),
    [(LINE, 0.1 + 0.5 * 0.3 / 0.4), (STEEP, 1 / (1 + math.exp(-12.0)))],
    ids=["isotonic", "logistic"],
)
@pytest.mark.parametrize("above", [False, True])
async def test_the_threshold_is_about_the_fitted_score(
    cascade: Any, fitted: dict[str, Any], expected: float, above: bool
) -> None:
    gateway, *_ = await cascade(fitted, expected + (1e-6 if above else -1e-6))
    response = await gateway.chat()
    assert response.headers["x-motley-stage"] == ("large" if above else "small")
    assert response.headers["x-motley-score"] == f"{expected:.4f}"


async def test_an_engine_that_does_not_name_runners_up_is_asked_for_them_and_escalated(
    cascade: Any,
) -> None:
    gateway, small, _ = await cascade(MARGIN, 0.0)
    response = await gateway.chat()
    assert small.seen[0]["top_logprobs"] == 2
    assert response.headers["x-motley-path"] == "small:unscored,large"


async def test_a_stage_whose_fit_needs_no_runners_up_is_not_asked_for_them(cascade: Any) -> None:
    gateway, small, _ = await cascade(LINE, 0.0)
    await gateway.chat()
    assert "top_logprobs" not in small.seen[0]


async def test_an_optimistic_stream_is_held_by_the_fitted_score(cascade: Any) -> None:
    gateway, *_ = await cascade(LINE, 0.5)
    response = await gateway.chat(stream=True, headers={"x-motley-streaming": "optimistic"})
    await response.read()
    assert response.headers["x-motley-path"] == "small:0.4750,large"


def test_fitted_scores_survive_the_routing_document(routing_of: Any, replica_of: Any) -> None:
    class Engine:
        name, url = "e", "http://e"

    stages = ("small", [replica_of(Engine)]), ("large", [replica_of(Engine)])
    estimator = {"type": "LogProb", "calibrators": {"small": LINE}}
    table = parse_routing(routing_of(*stages, estimator=estimator))
    assert parse_routing(routing_document(table)) == table
    for change in ({"other": LINE}, {"small": {**LINE, "kind": "magic"}}, []):
        wrong = copy.deepcopy(routing_of(*stages, estimator=estimator))
        wrong["estimator"]["calibrators"] = change
        with pytest.raises(RoutingError, match="estimator.calibrators"):
            parse_routing(wrong)
