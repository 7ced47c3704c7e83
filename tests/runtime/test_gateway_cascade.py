"""Two and three stages: accept, escalate, mixtures, usage, streams."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from typing import Any

import pytest

from motley_runtime.gateway.openai_api import add_usage
from motley_runtime.gateway.scoring import score
from motley_runtime.gateway.streams import UsageRewriter


def events(raw: bytes) -> list[Any]:
    found = [line[6:] for line in raw.decode().splitlines() if line.startswith("data: ")]
    return [each if each == "[DONE]" else json.loads(each) for each in found]


def policy(id: str, share: float, **thresholds: float) -> dict[str, Any]:
    return {"id": id, "share": share, "thresholds": thresholds}


@pytest.fixture
def cascade(start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any) -> Any:
    async def start(
        *policies: dict[str, Any], small: Any = None, large: Any = None, **fields: Any
    ) -> Any:
        first = await start_engine("small", **({"token_probability": 0.8} | (small or {})))
        second = await start_engine("large", **({"text": "exactly forty two"} | (large or {})))
        stages = [("small", [replica_of(first)]), ("large", [replica_of(second)])]
        given = list(policies) or [policy("p", 1.0, small=0.62)]
        gateway = await start_gateway(routing_of(*stages, policies=given, **fields))
        return gateway, first, second

    return start


THRESHOLDS = [
    pytest.param(0.79, "small", id="below the score"),
    # 0.8 goes through log and exp, which lands within a rounding of it.
    pytest.param(0.8 - 1e-9, "small", id="a rounding below the score"),
    pytest.param(0.8 + 1e-9, "large", id="a rounding above the score"),
    pytest.param(0.95, "large", id="above the score"),
    pytest.param(0.0, "small", id="zero accepts everything"),
]


@pytest.mark.parametrize(("threshold", "stage"), THRESHOLDS)
@pytest.mark.parametrize("path", ["chat/completions", "completions"])
async def test_an_answer_is_returned_if_its_score_reaches_the_threshold(
    cascade: Any, threshold: float, stage: str, path: str
) -> None:
    gateway, _, large = await cascade(policy("p", 1.0, small=threshold))
    body = {"messages": [{"role": "user", "content": "x"}], "prompt": "x"}
    async with gateway.http.post(f"{gateway.url}/v1/{path}", json=body) as response:
        answer = await response.json()
        headers = response.headers
    assert headers["x-motley-stage"] == stage
    assert headers["x-motley-score"] == "0.8000"
    assert headers["x-motley-path"] == (
        "small:0.8000" if stage == "small" else "small:0.8000,large"
    )
    assert answer["model"] == f"org/{stage}"
    assert answer["choices"][0]["logprobs"] is None, "only the gateway had asked for them"
    assert len(large.seen) == (stage == "large")
    escalated = await gateway.metric(
        'motley_gateway_escalations_total{reason="score",stage="small"}'
    )
    assert escalated == len(large.seen)


async def test_only_stages_before_the_last_are_asked_for_log_probabilities(cascade: Any) -> None:
    gateway, small, large = await cascade(policy("p", 1.0, small=0.9))
    await gateway.chat(stream=True, stream_options={"include_usage": True})
    assert small.seen[0]["logprobs"] is True
    assert "stream" not in small.seen[0] and "stream_options" not in small.seen[0]
    assert "logprobs" not in large.seen[0] and large.seen[0]["stream"] is True


async def test_a_client_that_asked_for_log_probabilities_gets_them(cascade: Any) -> None:
    gateway, *_ = await cascade()
    answer = await (await gateway.chat(logprobs=True)).json()
    assert answer["choices"][0]["logprobs"]["content"][0]["logprob"] == pytest.approx(math.log(0.8))


async def test_usage_is_the_sum_over_the_stages_that_were_called(cascade: Any) -> None:
    gateway, *_ = await cascade(policy("p", 1.0, small=0.9))
    answer = await (await gateway.chat()).json()
    assert answer["usage"] == {
        "prompt_tokens": 20,
        "completion_tokens": 2 + 3,
        "total_tokens": 25,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    assert await gateway.metric("motley_gateway_discarded_tokens_total") == 2


async def test_an_accepted_answer_is_streamed_as_a_client_expects_it(cascade: Any) -> None:
    gateway, *_ = await cascade()
    response = await gateway.chat(stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-motley-stage"] == "small"
    *chunks, usage, done = events(await response.read())
    assert done == "[DONE]"
    assert usage["choices"] == [] and usage["usage"]["total_tokens"] == 12
    assert {each["object"] for each in chunks} == {"chat.completion.chunk"}
    deltas = [each["choices"][0]["delta"] for each in chunks]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content", "") for delta in deltas) == "forty two"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_an_escalated_stream_is_relayed_as_it_comes_with_summed_usage(cascade: Any) -> None:
    gateway, _, large = await cascade(
        policy("p", 1.0, small=0.9), large={"chunks": 3, "chunk_delay_s": 0.1}
    )
    response = await gateway.chat(stream=True, stream_options={"include_usage": True})
    assert response.headers["x-motley-path"] == "small:0.8000,large"
    first = await asyncio.wait_for(response.content.readany(), 30)
    assert large.open_streams == 1
    seen = events(first + await response.read())
    assert [e["choices"][0]["delta"]["content"] for e in seen[:3]] == [
        "large0 ",
        "large1 ",
        "large2 ",
    ]
    assert seen[-2]["usage"] == {
        "prompt_tokens": 20,
        "completion_tokens": 5,
        "total_tokens": 26,
        "prompt_tokens_details": {"cached_tokens": 1},
    }


MIXTURE = [policy("p17", 0.7, small=0.9), policy("p18", 0.3, small=0.5)]


async def test_a_mixture_is_drawn_in_exactly_the_plans_proportions(cascade: Any) -> None:
    gateway, _, _ = await cascade(*MIXTURE)
    for _ in range(100):
        (await gateway.chat()).release()
    escalated = await gateway.metric("motley_gateway_escalations_total")
    # Within one request of 70 for the sequence and one more for its random starting point.
    assert abs(escalated - 70) <= 1
    assert await gateway.metric('motley_gateway_policy_requests_total{policy="p17"}') == escalated


FAILURES = [
    pytest.param({"status": 500}, id="an error"),
    pytest.param({"status": 400}, id="a refusal"),
    pytest.param({"drops_connections": 99}, id="a dropped connection"),
    pytest.param({"garbage": True}, id="garbage"),
]


@pytest.mark.parametrize("trouble", FAILURES)
async def test_a_stage_that_cannot_answer_is_passed_over(cascade: Any, trouble: Any) -> None:
    gateway, *_ = await cascade(small=trouble)
    response = await gateway.chat()
    assert response.status == 200
    assert response.headers["x-motley-path"] == "small:failed,large"
    assert await gateway.metric('motley_gateway_escalations_total{reason="failure"') == 1


async def test_a_threshold_above_one_saves_the_call_that_could_not_win(cascade: Any) -> None:
    gateway, small, large = await cascade(policy("p", 1.0, small=1.5))
    response = await gateway.chat()
    assert response.headers["x-motley-path"] == "large"
    assert (len(small.seen), len(large.seen)) == (0, 1)


async def test_the_quality_floor_is_not_sold_when_the_last_stage_fails(cascade: Any) -> None:
    gateway, *_ = await cascade(policy("p", 1.0, small=0.9), large={"status": 500})
    assert (await gateway.chat()).status == 502


async def test_three_stages_are_tried_in_order(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any
) -> None:
    engines = [
        await start_engine(name, token_probability=p)
        for name, p in (("s0", 0.3), ("s1", 0.6), ("s2", 0.9))
    ]
    stages = [(engine.name, [replica_of(engine)]) for engine in engines]
    document = routing_of(*stages, policies=[policy("p", 1.0, s0=0.5, s1=0.5)])
    gateway = await start_gateway(document)
    response = await gateway.chat()
    assert response.headers["x-motley-path"] == "s0:0.3000,s1:0.6000"
    assert [len(engine.seen) for engine in engines] == [1, 1, 0]


async def test_tool_calls_survive_the_turn_into_a_stream(cascade: Any) -> None:
    gateway, small, _ = await cascade()
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    original = small.answer

    def with_call(path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = original(path, body)
        answer["choices"][0]["message"] |= {"content": None, "tool_calls": [call]}
        return answer | {}

    small.answer = with_call
    seen = events(await (await gateway.chat(stream=True)).read())
    calls = [e["choices"][0]["delta"].get("tool_calls") for e in seen[:-1]]
    assert [each for each in calls if each] == [[{"index": 0, **call}]]


def test_a_score_is_the_geometric_mean_token_probability_of_the_least_certain_choice() -> None:
    def choice(*probabilities: float) -> dict[str, Any]:
        return {"logprobs": {"content": [{"logprob": math.log(p)} for p in probabilities]}}

    assert score({"choices": [choice(0.9, 0.4)]}) == pytest.approx(math.sqrt(0.36))
    assert score({"choices": [choice(0.9), choice(0.5, 0.5)]}) == pytest.approx(0.5)
    assert score({"choices": [choice(0.9), {"logprobs": None}]}) is None
    assert score({"choices": [choice()]}) is None
    assert score({"choices": []}) is None


def test_usage_is_rewritten_however_the_stream_is_cut_into_chunks() -> None:
    stream = (
        b'data: {"choices":[{"delta":{"content":"the \\"usage\\" of"}}],"usage":null}\r\n\r\n'
        b'data: {"choices":[],"usage":{"total_tokens":3}}\r\n\r\ndata: [DONE]\r\n\r\n'
    )
    results = Counter()
    for size in range(1, len(stream) + 1):
        rewriter = UsageRewriter({"total_tokens": 4})
        pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
        results[b"".join(rewriter.feed(piece) for piece in pieces) + rewriter.rest()] += 1
    [(whole, count)] = results.items()
    assert count == len(stream)
    assert events(whole)[1]["usage"] == {"total_tokens": 7}
    assert events(whole)[0]["choices"][0]["delta"]["content"] == 'the "usage" of'


def test_usage_sums_nested_numbers_and_keeps_what_only_one_side_has() -> None:
    left = {"a": 1, "d": {"x": 1}, "n": None}
    right = {"a": 2, "b": 3, "d": {"x": 2, "y": 5}, "n": {"z": 1}}
    assert add_usage(left, right) == {"a": 3, "b": 3, "d": {"x": 3, "y": 5}, "n": {"z": 1}}


@pytest.mark.parametrize(
    ("threshold", "left_out", "status"),
    [(1.01, "small", 200), (0.5, "small", 503), (0.5, "large", 200)],
)
async def test_a_gateway_is_ready_when_the_stages_that_are_asked_first_serve(
    threshold: float,
    left_out: str,
    status: int,
    start_engine: Any,
    start_gateway: Any,
    routing_of: Any,
    replica_of: Any,
) -> None:
    """A plan may skip the small model: nobody waits for a replica that is not planned."""
    engine = await start_engine("only", text="exactly forty two")
    stages = [(n, [] if n == left_out else [replica_of(engine)]) for n in ("small", "large")]
    gateway = await start_gateway(routing_of(*stages, policies=[policy("p", 1.0, small=threshold)]))
    async with gateway.http.get(f"{gateway.url}/ready") as response:
        assert response.status == status, await response.text()
    if threshold > 1.0:
        assert (await gateway.chat()).headers["x-motley-stage"] == "large"
