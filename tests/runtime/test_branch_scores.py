"""Scores of growing branches, against sums written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley_planner.dispatch import Confidence
from motley_runtime.gateway.branch_scores import ConfidenceMeter, _reward
from motley_runtime.gateway.openai_api import CHAT, ParsedRequest
from motley_runtime.gateway.transcripts import Transcript


def grown(values: list[float]) -> Transcript:
    transcript = Transcript(ParsedRequest(CHAT, {}, False, False, None))
    transcript.logprobs, transcript.tokens = values, len(values)
    return transcript


@given(
    st.lists(st.floats(-8.0, 0.0), min_size=1, max_size=60),
    st.integers(1, 40),
    st.lists(st.integers(1, 60), max_size=6),
)
def test_a_window_is_the_window_however_often_it_is_asked(
    values: list[float], window: int, looks: list[int]
) -> None:
    parts = [values[max(0, i - window) : i] for i in range(1, len(values) + 1)]
    means = [math.fsum(part) / len(part) for part in parts]
    lowest = min(means[window - 1 :], default=means[-1]) if len(values) > window else means[-1]
    wanted = {"Mean": math.fsum(values) / len(values), "Tail": means[-1], "Lowest": lowest}
    for over, mean in wanted.items():
        meter = ConfidenceMeter(Confidence(over, window))
        for look in sorted(looks):
            if look < len(values):
                meter.score(grown(values[:look]))
        found = meter.score(grown(values))
        assert found is not None and found == pytest.approx(math.exp(mean), rel=1e-9)


def test_a_branch_without_all_its_log_probabilities_has_no_score() -> None:
    meter = ConfidenceMeter(Confidence())
    assert meter.score(grown([])) is None
    partly = grown([-0.5])
    partly.tokens = 2
    assert meter.score(partly) is None


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ({"data": [{"score": 0.25}]}, 0.25),
        ({"data": [{"label": "GOOD", "probs": [0.2, 0.8]}]}, 0.8),
        ({"data": [{"data": [[0.1], [0.9, 0.7]]}]}, 0.7),
        ({"data": [{"data": []}]}, None),
        ({"data": [{"score": float("nan")}]}, None),
        ({"data": [{"score": True}]}, None),
        ({"data": []}, None),
        ({"error": {}}, None),
        ([], None),
    ],
)
def test_the_reward_is_the_last_number_of_the_first_result(answer: Any, reward: Any) -> None:
    assert _reward(answer) == reward
