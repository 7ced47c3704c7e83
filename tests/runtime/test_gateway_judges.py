"""Validators, self-consistency and self-verification in the gateway, on real sockets."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from motley_planner.dispatch import EstimatorRule, RoutingError, parse_routing, routing_document
from motley_runtime.gateway.comparing import key_of, text_of
from motley_runtime.gateway.verdicts import QUESTION, verified

DIGITS = {"type": "Regex", "pattern": r"^\d+$"}
SHORT = {"type": "Regex", "pattern": r"^.{1,3}$"}
VOTES = {"type": "SelfConsistency", "samples": 5, "temperature": 0.8, "compare": "Text"}


def saying(engine: Any, texts: Sequence[str]) -> None:
    """Lets an engine answer these texts in turn; verdicts are asked of `judging`."""
    plain, turn = engine.answer, iter(range(10**6))

    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        engine.text = texts[next(turn) % len(texts)]
        return dict(plain(path, body))

    engine.answer = answer


def judging(engine: Any, verdict: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Lets an engine answer requests for a verdict by itself, others as before."""
    plain = engine.answer

    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        made = dict(plain(path, body))
        if is_verdict(body):
            made["choices"][0] |= verdict(body)
            made["usage"] = {"prompt_tokens": 30, "completion_tokens": 1, "total_tokens": 31}
        return made

    engine.answer = answer


def is_verdict(body: dict[str, Any]) -> bool:
    return bool(body.get("messages")) and body["messages"][-1]["content"] == QUESTION


def said(word: str, **chances: float) -> dict[str, Any]:
    """A choice of one word with the chances of the alternatives."""
    top = [{"token": each, "logprob": math.log(p)} for each, p in chances.items()]
    token = {"token": word, "logprob": math.log(0.5), "top_logprobs": top}
    return {
        "message": {"role": "assistant", "content": word},
        "logprobs": {"content": [token]} if chances else None,
    }


@pytest.fixture
def cascade(start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any) -> Any:
    async def start(estimator: dict[str, Any], threshold: float, **settings: Any) -> Any:
        small, large = await start_engine("small"), await start_engine("large")
        document = routing_of(
            ("small", [replica_of(small)]),
            ("large", [replica_of(large)]),
            policies=[{"id": "p", "share": 1.0, "thresholds": {"small": threshold}}],
            estimator=estimator,
        )
        return await start_gateway(document, **settings), small, large

    return start


@pytest.mark.parametrize(
    ("text", "path"),
    [("42", "small:1.0000"), ("421", "small:1.0000"), ("4 2", "small:0.5000,large")],
)
async def test_a_validator_scores_the_share_of_checks_that_pass(
    cascade: Any, text: str, path: str
) -> None:
    gateway, small, _ = await cascade({"type": "Validator", "checks": [DIGITS, SHORT]}, 0.6)
    small.text = text
    response = await gateway.chat()
    assert response.headers["x-motley-path"] == path
    assert "logprobs" not in small.seen[0]


async def test_a_validator_reads_json_by_its_schema(cascade: Any) -> None:
    schema = {"type": "object", "required": ["total"], "properties": {"total": {"type": "number"}}}
    check = {"type": "JsonSchema", "schema": schema}
    gateway, small, _ = await cascade({"type": "Validator", "checks": [check]}, 1.0)
    small.text = '{"total": "3"}'
    assert (await gateway.chat()).headers["x-motley-stage"] == "large"
    small.text = '{"total": 3}'
    assert (await gateway.chat()).headers["x-motley-stage"] == "small"


async def test_a_validator_runs_a_program_of_the_named_folder_only(
    cascade: Any, tmp_path: Path, routing_of: Any
) -> None:
    program = tmp_path / "has-two"
    program.write_text("#!/bin/sh\ngrep -q 2\n")
    program.chmod(0o755)
    estimator = {"type": "Validator", "checks": [{"type": "Command", "argv": ["has-two"]}]}
    gateway, small, _ = await cascade(estimator, 1.0, commands_dir=tmp_path)
    small.text = "1 2 3"
    assert (await gateway.chat()).headers["x-motley-stage"] == "small"
    small.text = "1 3"
    assert (await gateway.chat()).headers["x-motley-stage"] == "large"
    document = json.loads(gateway.gateway.live._raw)
    document["estimator"]["checks"][0]["argv"] = ["../has-two"]
    assert not gateway.offer(document)
    assert "estimator.checks[0]: argv" in gateway.gateway.live.problem


async def test_of_several_choices_the_worst_decides(cascade: Any) -> None:
    gateway, small, _ = await cascade({"type": "Validator", "checks": [DIGITS]}, 0.5)
    plain = small.answer

    def two(path: str, body: dict[str, Any]) -> dict[str, Any]:
        made = dict(plain(path, body))
        other = copy.deepcopy(made["choices"][0]) | {"index": 1}
        other["message"]["content"] = "17"
        made["choices"].append(other)
        return made

    small.text, small.answer = "seventeen", two
    assert (await gateway.chat(n=2)).headers["x-motley-path"] == "small:0.0000,large"


async def test_the_most_frequent_of_the_samples_is_returned_with_its_share(cascade: Any) -> None:
    gateway, small, _ = await cascade(VOTES, 0.6)
    saying(small, ["paris", "Rome", "Paris.", "Oslo", "PARIS"])
    response = await gateway.chat(temperature=0, seed=7)
    answer = await response.json()
    assert response.headers["x-motley-path"] == "small:0.6000"
    assert answer["choices"][0]["message"]["content"].strip(".").lower() == "paris"
    assert len(small.seen) == 5
    assert sorted(body["seed"] for body in small.seen) == [7, 8, 9, 10, 11]
    assert {body["temperature"] for body in small.seen} == {0.8}
    assert answer["usage"]["prompt_tokens"] == 50
    assert await gateway.metric("motley_gateway_estimator_calls_total") == 4
    assert await gateway.metric("motley_gateway_estimator_tokens_total") == 4


async def test_samples_that_disagree_are_escalated_and_all_of_them_are_counted(
    cascade: Any,
) -> None:
    gateway, small, _ = await cascade(VOTES, 0.6)
    saying(small, ["paris", "rome", "oslo", "bern", "paris"])
    response = await gateway.chat()
    assert response.headers["x-motley-path"] == "small:0.4000,large"
    assert (await response.json())["usage"]["prompt_tokens"] == 60
    assert await gateway.metric('motley_gateway_discarded_tokens_total{stage="small"}') == 5


async def test_samples_that_did_not_come_speak_against_an_answer(cascade: Any) -> None:
    gateway, small, _ = await cascade({**VOTES, "samples": 4}, 0.75)
    texts = iter(["same", "", "", "same"])
    plain = small.answer

    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        small.text = next(texts)
        return dict(plain(path, body))

    small.answer = answer
    assert (await gateway.chat()).headers["x-motley-path"] == "small:0.5000,large"


async def test_a_stage_none_of_whose_samples_comes_is_passed_over(cascade: Any) -> None:
    gateway, small, _ = await cascade(VOTES, 0.0)
    small.status = 500
    assert (await gateway.chat()).headers["x-motley-path"] == "small:failed,large"


async def test_samples_that_are_all_plainly_wrong_are_escalated_as_that(cascade: Any) -> None:
    gateway, small, _ = await cascade(VOTES, 0.0)
    small.text = ""
    assert (await gateway.chat()).headers["x-motley-path"] == "small:empty,large"


@pytest.mark.parametrize(
    ("verdict", "path"),
    [
        (said("Yes", Yes=0.6, No=0.2), "small:0.7500"),
        (said("No", Yes=0.2, No=0.6), "small:0.2500,large"),
        (said("Yes"), "small:1.0000"),
        (said("No."), "small:0.0000,large"),
        (said("Perhaps"), "small:unscored,large"),
    ],
    ids=["yes by chance", "no by chance", "bare yes", "bare no", "neither"],
)
async def test_a_stage_is_asked_whether_its_own_answer_is_right(
    cascade: Any, verdict: dict[str, Any], path: str
) -> None:
    gateway, small, large = await cascade({"type": "SelfVerify"}, 0.7)
    judging(small, lambda _: verdict)
    response = await gateway.chat("what is 6 times 7?")
    assert response.headers["x-motley-path"] == path
    asked = small.seen[1]
    assert [each["role"] for each in asked["messages"]] == ["user", "assistant", "user"]
    assert asked["messages"][1]["content"] == "forty two" and asked["temperature"] == 0.0
    assert await gateway.metric('motley_gateway_estimator_calls_total{stage="small"}') == 1
    spent = (await response.json())["usage"]["prompt_tokens"]
    assert spent == (40 if not large.seen else 50)


async def test_another_stage_may_give_the_verdict(cascade: Any) -> None:
    gateway, small, large = await cascade({"type": "SelfVerify", "verifier": "large"}, 0.7)
    judging(large, lambda _: said("Yes", Yes=0.9, No=0.1))
    response = await gateway.chat()
    assert response.headers["x-motley-path"] == "small:0.9000"
    assert [is_verdict(body) for body in large.seen] == [True] and len(small.seen) == 1


async def test_a_verdict_that_does_not_come_escalates(cascade: Any) -> None:
    gateway, _, large = await cascade({"type": "SelfVerify", "verifier": "large"}, 0.0)
    plain = large._respond

    async def respond(request: Any, body: dict[str, Any]) -> Any:
        large.status = 500 if is_verdict(body) else 200
        return await plain(request, body)

    large._respond = respond
    # The verdict's failure leaves the replica out for a while; as the only one it is tried anyway.
    assert (await gateway.chat()).headers["x-motley-path"] == "small:unscored,large"


async def test_a_completion_is_verified_as_a_conversation(cascade: Any) -> None:
    gateway, small, _ = await cascade({"type": "SelfVerify"}, 0.7)
    judging(small, lambda _: said("Yes", Yes=0.8, No=0.1))
    response = await gateway.post("/v1/completions", prompt="6 times 7 is")
    assert response.headers["x-motley-stage"] == "small"
    assert small.seen[1]["messages"][0]["content"] == "6 times 7 is"


async def test_a_fitted_curve_turns_the_share_into_the_score(cascade: Any) -> None:
    line = {"kind": "isotonic", "features": ["agreement"], "points": [[0.4, 0.1], [0.8, 0.9]]}
    gateway, small, _ = await cascade({**VOTES, "calibrators": {"small": line}}, 0.55)
    saying(small, ["a", "a", "a", "b", "c"])
    assert (await gateway.chat()).headers["x-motley-path"] == "small:0.5000,large"


async def test_a_fit_over_votes_and_tokens_gets_both(cascade: Any) -> None:
    both = {"kind": "logistic", "features": ["agreement", "mean"], "intercept": 0.0}
    fitted = {**VOTES, "calibrators": {"small": {**both, "weights": [1.0, 1.0]}}}
    gateway, small, _ = await cascade(fitted, 0.0)
    expected = 1 / (1 + math.exp(-(1.0 + 0.9)))
    response = await gateway.chat()
    assert response.headers["x-motley-score"] == f"{expected:.4f}"
    assert all(body["logprobs"] for body in small.seen)


async def test_a_stream_waits_for_the_votes_even_where_optimism_was_asked_for(cascade: Any) -> None:
    gateway, small, _ = await cascade(VOTES, 0.5)
    response = await gateway.chat(stream=True, headers={"x-motley-streaming": "optimistic"})
    assert b"forty" in await response.read()
    assert response.headers["x-motley-path"] == "small:1.0000" and len(small.seen) == 5
    assert not any(body.get("stream") for body in small.seen)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"type": "Magic"}, "estimator.type"),
    ({"type": "Validator"}, "estimator.checks"),
    ({"type": "Validator", "checks": []}, "estimator.checks"),
    ({"type": "SelfConsistency", "samples": 1}, "estimator.samples"),
    ({"type": "SelfConsistency", "samples": 17}, "estimator.samples"),
    ({"type": "SelfConsistency", "temperature": 0}, "estimator.temperature"),
    ({"type": "SelfConsistency", "compare": "Soul"}, "estimator.compare"),
    ({"type": "SelfVerify", "verifier": "tiny"}, "estimator.verifier"),
]


@pytest.mark.parametrize(("estimator", "field"), WRONG)
def test_a_rule_that_cannot_be_run_is_refused_by_its_field(
    routing_of: Any, replica_of: Any, estimator: dict[str, Any], field: str
) -> None:
    class Engine:
        name, url = "e", "http://e"

    stages = ("small", [replica_of(Engine)]), ("large", [replica_of(Engine)])
    with pytest.raises(RoutingError) as caught:
        parse_routing(routing_of(*stages, estimator=estimator))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "estimator",
    [VOTES, {"type": "SelfVerify", "verifier": "large"}, {"type": "Validator", "checks": [DIGITS]}],
    ids=lambda each: each["type"],
)
def test_rules_survive_the_routing_document(
    routing_of: Any, replica_of: Any, estimator: dict[str, Any]
) -> None:
    class Engine:
        name, url = "e", "http://e"

    stages = ("small", [replica_of(Engine)]), ("large", [replica_of(Engine)])
    table = parse_routing(routing_of(*stages, estimator=estimator))
    assert parse_routing(routing_document(table)) == table
    assert table.estimator != EstimatorRule()


KEYS = [
    ("So it is 1,250 m.\nAnswer: 1.25e3 m", "Number", "1250"),
    ("no number at all", "Number", None),
    ("I think (B).", "Choice", "B"),
    ("Well. Answer:  The  Hague.", "Text", "the hague"),
]


@pytest.mark.parametrize(("text", "compare", "key"), KEYS)
def test_what_an_answer_says_is_compared_in_its_plain_form(
    text: str, compare: str, key: str | None
) -> None:
    assert key_of({"choices": [{"message": {"content": text}}]}, compare) == key


def test_tool_calls_are_compared_by_function_and_arguments_not_by_id() -> None:
    def call(identity: str, arguments: str) -> dict[str, Any]:
        function = {"name": "f", "arguments": arguments}
        made = {"id": identity, "type": "function", "function": function}
        return {"message": {"content": None, "tool_calls": [made]}}

    one, other = call("1", '{"a": 1, "b": 2}'), call("2", '{"b":2,"a":1}')
    assert text_of(one) == text_of(other) != text_of(call("3", '{"a": 2, "b": 2}'))


def test_the_chance_of_yes_sums_over_its_spellings() -> None:
    top = [("Yes", 0.3), (" yes", 0.2), ("No", 0.1), ("Maybe", 0.4)]
    listed = [{"token": t, "logprob": math.log(p)} for t, p in top]
    token = {"token": "Yes", "logprob": math.log(0.3), "top_logprobs": listed}
    choice = {"message": {"content": "Yes"}, "logprobs": {"content": [token]}}
    assert verified({"choices": [choice]}) == pytest.approx(0.5 / 0.6)
