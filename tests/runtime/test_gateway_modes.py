"""What a cascade may do with one answer: deadlines, hard failures, optimistic streams, mixtures."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from motley_runtime.gateway.deadlines import Latencies


def events(raw: bytes) -> list[Any]:
    found = [line[6:] for line in raw.decode().splitlines() if line.startswith("data: ")]
    return [each if each == "[DONE]" else json.loads(each) for each in found]


def policy(id: str, share: float, classes: tuple[str, ...] = (), **thresholds: float) -> Any:
    return {"id": id, "share": share, "thresholds": thresholds, "classes": list(classes)}


@pytest.fixture
def cascade(start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any) -> Any:
    async def start(
        *policies: Any, small: Any = None, large: Any = None, settings: Any = None, **fields: Any
    ) -> Any:
        first = await start_engine("small", **({"token_probability": 0.8} | (small or {})))
        second = await start_engine("large", **({"text": "exactly forty two"} | (large or {})))
        stages = [("small", [replica_of(first)]), ("large", [replica_of(second)])]
        given = list(policies) or [policy("p", 1.0, small=0.9)]
        document = routing_of(*stages, policies=given, **fields)
        return await start_gateway(document, **(settings or {})), first, second

    return start


def within(milliseconds: float) -> dict[str, str]:
    return {"x-motley-deadline-ms": str(milliseconds)}


async def test_a_request_is_escalated_only_if_the_next_stage_is_expected_in_time(
    cascade: Any,
) -> None:
    gateway, _, large = await cascade(large={"delay_s": 0.4})
    taught = await gateway.chat(headers=within(10_000))
    assert taught.headers["x-motley-path"] == "small:0.8000,large", "unknown times are tried"
    response = await gateway.chat(headers=within(300))
    assert response.headers["x-motley-path"] == "small:0.8000,deadline"
    assert (response.headers["x-motley-stage"], len(large.seen)) == ("small", 1)
    answer = await response.json()
    assert answer["choices"][0]["message"]["content"] == "forty two"
    assert answer["choices"][0]["logprobs"] is None and answer["usage"]["total_tokens"] == 12
    assert await gateway.metric('motley_gateway_early_returns_total{stage="small"}') == 1
    assert await gateway.metric("motley_gateway_discarded_tokens_total") == 2, "of the first only"
    response = await gateway.chat(headers=within(10_000))
    assert response.headers["x-motley-stage"] == "large"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_escalation_that_turns_out_late_gives_way_to_the_best_answer_so_far(
    cascade: Any, eventually: Any, stream: bool
) -> None:
    gateway, _, large = await cascade(large={"delay_s": 5.0})
    response = await gateway.chat(headers=within(300), stream=stream)
    assert response.status == 200
    assert response.headers["x-motley-path"] == "small:0.8000,large:late,deadline"
    raw = await response.read()
    assert b"forty two" in raw and raw.endswith(b"data: [DONE]\n\n") == stream
    await eventually(lambda: large.aborted == 1)


async def test_a_deadline_does_not_cut_what_nothing_can_replace(cascade: Any) -> None:
    gateway, *_ = await cascade(policy("p", 1.0, small=1.5), large={"delay_s": 0.1})
    response = await gateway.chat(headers=within(1))
    assert (response.status, response.headers["x-motley-path"]) == (200, "large")


async def test_a_gateway_may_have_a_deadline_of_its_own(cascade: Any) -> None:
    gateway, *_ = await cascade(large={"delay_s": 3.0}, settings={"deadline_s": 0.2})
    assert (await gateway.chat()).headers["x-motley-stage"] == "small"
    response = await gateway.chat(headers=within("soon"))  # type: ignore[arg-type]
    assert response.status == 400
    assert (await response.json())["error"]["param"] == "x-motley-deadline-ms"


def test_a_prediction_covers_nearly_all_answers_and_follows_a_change() -> None:
    import random

    chance, latencies = random.Random(3), Latencies()
    assert latencies.predicted_s("s", "c") is None and latencies.allows("s", "c", 0.0)
    times = [chance.uniform(0.8, 1.2) for _ in range(2000)]
    covered = 0
    for number, seconds in enumerate(times):
        covered += number >= 100 and latencies.allows("s", "c", seconds) is False
        latencies.observe("s", "c", seconds)
    assert covered / 1900 > 0.9, "the prediction is longer than nine in ten answers"
    assert 1.1 < (latencies.predicted_s("s", "c") or 0) < 1.5
    for _ in range(60):
        latencies.observe("s", "c", 5.0)
    assert 4.9 < (latencies.predicted_s("s", "c") or 0) < 6.0


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}
SCHEMA = {"schema": {"type": "object", "required": ["x"]}}
WRONG = [
    pytest.param({"choice": {"finish_reason": "length"}}, {}, "truncated", id="cut off"),
    pytest.param({"choice": {"finish_reason": "content_filter"}}, {}, "filtered", id="filtered"),
    pytest.param({"message": {"content": ""}}, {}, "empty", id="nothing said"),
    pytest.param({"message": {"refusal": "I cannot"}}, {}, "refused", id="a refusal"),
    pytest.param(
        {"message": {"content": None, "tool_calls": [CALL]}}, {}, "bad-tool-call", id="broken call"
    ),
    pytest.param({}, {"response_format": {"type": "json_object"}}, "not-json", id="no JSON"),
    pytest.param(
        {"text": '{"y": 1}'},
        {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
        "not-json",
        id="a field of the schema is missing",
    ),
]


@pytest.mark.parametrize(("trouble", "fields", "shown"), WRONG)
async def test_an_answer_that_is_plainly_wrong_is_escalated_whatever_its_score(
    cascade: Any, trouble: Any, fields: Any, shown: str
) -> None:
    gateway, *_ = await cascade(
        policy("p", 1.0, small=0.0), small=trouble, large={"text": '{"x": 1}'}
    )
    response = await gateway.chat(**fields)
    assert response.headers["x-motley-path"] == f"small:{shown},large"
    labels = f'{{reason="{shown}",stage="small"}}'
    assert await gateway.metric(f"motley_gateway_escalations_total{labels}") == 1
    assert (await response.json())["usage"]["prompt_tokens"] == 20


@pytest.mark.parametrize(
    ("small", "fields"),
    [
        ({"choice": {"finish_reason": "length"}}, {"max_tokens": 2}),
        ({"text": '{"x": [1]}'}, {"response_format": {"type": "json_object"}}),
        ({"text": '{"x": 1}'}, {"response_format": {"type": "json_schema", "json_schema": SCHEMA}}),
        ({}, {"response_format": {"type": "text"}}),
    ],
)
async def test_an_answer_in_the_form_that_was_asked_for_is_returned(
    cascade: Any, small: Any, fields: Any
) -> None:
    gateway, *_ = await cascade(policy("p", 1.0, small=0.5), small=small)
    assert (await gateway.chat(**fields)).headers["x-motley-stage"] == "small"


OPTIMISTIC = {"x-motley-streaming": "optimistic"}


async def test_an_optimistic_stream_begins_after_the_tokens_held_back(
    cascade: Any, eventually: Any
) -> None:
    gateway, small, large = await cascade(
        policy("p", 1.0, small=0.5),
        small={"chunks": 6, "chunk_delay_s": 0.1},
        settings={"optimistic_tokens": 2},
    )
    response = await gateway.chat(stream=True, headers=OPTIMISTIC)
    assert response.headers["x-motley-path"] == "small:0.8000"
    first = await asyncio.wait_for(response.content.readany(), 30)
    assert first.count(b"data: ") == 2 and small.open_streams == 1
    seen = events(first + await response.read())
    assert [e["choices"][0]["delta"]["content"] for e in seen[:-1]] == [
        f"small{i} " for i in range(6)
    ]
    assert seen[-1] == "[DONE]" and not large.seen
    assert all(e["choices"][0]["logprobs"] is None for e in seen[:-1]), "only the gateway asked"


async def test_an_optimistic_stream_that_starts_badly_is_aborted_and_escalated(
    cascade: Any, eventually: Any
) -> None:
    gateway, small, _ = await cascade(
        policy("p", 1.0, small=0.9),
        small={"chunks": 50, "chunk_delay_s": 0.1},
        settings={"optimistic_tokens": 3, "streaming": "optimistic"},
    )
    response = await gateway.chat(stream=True, stream_options={"include_usage": True})
    assert response.headers["x-motley-path"] == "small:0.8000,large"
    seen = events(await response.read())
    assert seen[0]["choices"][0]["delta"]["content"] == "large0 "
    assert seen[-2]["usage"]["completion_tokens"] == 4 + 3, "the tokens held back count"
    await eventually(lambda: small.open_streams == 0 and small.aborted == 1)
    assert await gateway.metric("motley_gateway_discarded_tokens_total") == 3


async def test_an_optimistic_stream_shorter_than_what_is_held_back_is_scored_whole(
    cascade: Any,
) -> None:
    gateway, *_ = await cascade(policy("p", 1.0, small=0.5), small={"chunks": 3})
    response = await gateway.chat(stream=True, headers=OPTIMISTIC)
    seen = events(await response.read())
    assert response.headers["x-motley-stage"] == "small" and len(seen) == 4


async def test_what_must_be_judged_whole_is_buffered_all_the_same(cascade: Any) -> None:
    gateway, small, _ = await cascade(policy("p", 1.0, small=0.5), small={"text": "{}"})
    for fields in ({"response_format": {"type": "json_object"}}, {"n": 2}):
        response = await gateway.chat(stream=True, headers=OPTIMISTIC, **fields)
        assert response.headers["x-motley-stage"] == "small"
    assert not any(seen.get("stream") for seen in small.seen)


@pytest.mark.parametrize("after", [0, 2])
async def test_an_optimistic_stream_that_dies_while_held_back_is_escalated(
    cascade: Any, after: int
) -> None:
    gateway, *_ = await cascade(policy("p", 1.0, small=0.5), small={"dies_after_chunks": after})
    response = await gateway.chat(stream=True, headers=OPTIMISTIC)
    assert response.headers["x-motley-path"] == "small:failed,large"
    assert events(await response.read())[-1] == "[DONE]"


async def test_an_optimistic_stream_that_dies_later_tells_the_client(cascade: Any) -> None:
    gateway, *_ = await cascade(
        policy("p", 1.0, small=0.5),
        small={"dies_after_chunks": 3, "chunk_delay_s": 0.02},
        settings={"optimistic_tokens": 1},
    )
    response = await gateway.chat(stream=True, headers=OPTIMISTIC)
    assert events(await response.read())[-1]["error"]["code"] == "upstream_failed"


async def test_classes_may_be_sent_past_a_stage(cascade: Any) -> None:
    classes = [
        {"name": "easy", "prompt_tokens": 10, "output_tokens": 10},
        {"name": "hard", "prompt_tokens": 4000, "output_tokens": 10},
    ]
    given = [policy("e", 0.5, ("easy",), small=0.5), policy("h", 0.5, ("hard",), small=2.0)]
    both = {"rates": {"easy": 1, "hard": 1}, "capacity": {"easy": 2, "hard": 2}}
    gateway, small, large = await cascade()
    stages = [
        {"name": n, "model": f"org/{n}", "replicas": [{"name": n, "url": e.url, **both}]}
        for n, e in (("small", small), ("large", large))
    ]
    document = {
        "version": 1, "plan_hash": "h2", "classes": classes, "stages": stages, "policies": given,
        "resource": {"kind": "ModelCascade", "namespace": "a", "name": "b"},
        "served_model_names": ["support"],
    }  # fmt: skip
    assert gateway.offer(document), gateway.gateway.live.problem
    for name, path in (("easy", "small:0.8000"), ("hard", "large")) * 3:
        response = await gateway.chat(headers={"x-motley-class": name})
        assert response.headers["x-motley-path"] == path
    assert (len(small.seen), len(large.seen)) == (3, 3)


async def test_a_mixture_of_three_is_within_one_request_of_the_plan_at_every_moment(
    cascade: Any,
) -> None:
    shares = {"a": 0.55, "b": 0.3, "c": 0.15}
    thresholds = {"a": 0.1, "b": 0.2, "c": 0.3}
    gateway, *_ = await cascade(*(policy(n, s, small=thresholds[n]) for n, s in shares.items()))
    start = Counter({name: 0.0 for name in shares})
    worst = 0.0
    for number in range(1, 121):
        (await gateway.chat()).release()
        if number % 10:
            continue
        for name, share in shares.items():
            line = f'motley_gateway_policy_requests_total{{policy="{name}"}}'
            start[name] = await gateway.metric(line)
            worst = max(worst, abs(start[name] - share * number))
    assert sum(start.values()) == 120
    # Below 1 - 1/(2n - 2) = 0.75 from its own start; as much again for the random starting point.
    assert worst <= 1.5, start


async def test_requests_that_cannot_be_scored_go_to_the_last_stage_and_draw_no_policy(
    cascade: Any,
) -> None:
    gateway, small, large = await cascade()
    for path in ("/v1/embeddings", "/v1/responses"):
        response = await gateway.post(path, input="hello", model="support")
        assert (response.status, response.headers["x-motley-path"]) == (200, "large")
    assert (len(small.seen), len(large.seen)) == (0, 2)
    assert await gateway.metric("motley_gateway_policy_requests_total") == 0
