"""The calibration's scores are the gateway's: same engines, same questions, same numbers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from motley_planner.dispatch import estimator_document, parse_estimator
from motley_runtime.calibration import (
    Endpoint,
    Estimating,
    Journal,
    Pace,
    Run,
    ask_all,
    read_questions,
)
from motley_runtime.gateway.verdicts import QUESTION

QUESTIONS = [f"question {i}" for i in range(8)]
RULES: list[dict[str, Any]] = [
    {"type": "LogProb"},
    {"type": "Validator", "checks": [{"type": "Regex", "pattern": "[02468] end"}]},
    {"type": "SelfConsistency", "samples": 4, "temperature": 1.0, "compare": "Text"},
    {"type": "SelfVerify"},
    {"type": "SelfVerify", "verifier": "large"},
]


def fixed(engine: Any) -> None:
    """Lets an engine's answers depend on the prompt alone, and on how often it was asked so."""
    plain, asked = engine.answer, dict[str, int]()

    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        prompt = body["messages"][0]["content"]
        number = int(prompt.split()[-1])
        if body["messages"][-1]["content"] == QUESTION:
            top = [("Yes", (number + 1) / 10), ("No", 0.1)]
            listed = [{"token": t, "logprob": math.log(p)} for t, p in top]
            token = {"token": "Yes", "logprob": listed[0]["logprob"], "top_logprobs": listed}
            engine.text = "Yes"
            made = dict(plain(path, body))
            made["choices"][0]["logprobs"] = {"content": [token]}
            return made
        turn = asked[prompt] = asked.get(prompt, -1) + 1
        engine.token_probability = 0.5 + number / 20
        engine.text = f"{number} end" if turn % 4 <= number % 4 else f"{turn} end"
        return dict(plain(path, body))

    engine.answer = answer


@pytest.mark.parametrize("document", RULES, ids=lambda each: "-".join(map(str, each.values()))[:30])
async def test_the_gateway_scores_each_answer_as_the_calibration_did(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, document: Any
) -> None:
    rule = parse_estimator(document, ["small", "large"])
    small, large = await start_engine("small"), await start_engine("large")
    for engine in (small, large):
        fixed(engine)
    lines = [json.dumps({"prompt": each, "reference": "x"}) for each in QUESTIONS]
    endpoints = Endpoint("small", small.url, "org/small"), Endpoint("large", large.url, "l")
    pace = Pace(concurrency=1, answer_s=5.0, attempts=1)
    run = Run(endpoints, read_questions(lines), {}, pace, Estimating(rule))
    with Journal(None) as journal:
        answers = (await ask_all(run, journal, lambda _: None))[: len(QUESTIONS)]
    for engine in (small, large):
        del engine.answer
        fixed(engine)
    policies = [{"id": "p", "share": 1.0, "thresholds": {"small": 0.0}}]
    stages = ("small", [replica_of(small)]), ("large", [replica_of(large)])
    routing = routing_of(*stages, policies=policies, estimator=estimator_document(rule))
    gateway = await start_gateway(routing)
    scores = []
    for each, answer in zip(QUESTIONS, answers, strict=True):
        response = await gateway.chat(each)
        scores.append(float(response.headers["x-motley-score"]))
        assert answer.features is not None
        assert scores[-1] == pytest.approx(answer.features[rule.feature], abs=1e-4)
        usage = (await response.json())["usage"]
        assert usage["completion_tokens"] == answer.output_tokens
    assert len(set(scores)) > 1


async def test_a_journal_keeps_answers_of_one_estimator_apart_from_anothers(
    start_engine: Any, tmp_path: Any
) -> None:
    small, large = await start_engine("small"), await start_engine("large")
    endpoints = Endpoint("small", small.url, "s"), Endpoint("large", large.url, "l")
    questions = read_questions([json.dumps({"prompt": "q 1", "reference": "x"})])
    path, votes = tmp_path / "run.jsonl", {"type": "SelfConsistency", "samples": 3}
    for document in ({"type": "LogProb"}, votes, {**votes, "samples": 4}, votes):
        run = Run(endpoints, questions, {}, Pace(), Estimating(parse_estimator(document, [])))
        with Journal(path) as journal:
            await ask_all(run, journal, lambda _: None)
    assert len(small.seen) == 1 + 3 + 4
    assert len(large.seen) == 1, "the last stage's answers are returned whatever their score"
