"""OpenAI's own Python client, and curl, against a gateway: what they send and expect must work."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

openai = pytest.importorskip("openai")


@pytest.fixture
async def pool(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any
) -> AsyncIterator[Any]:
    clients: list[Any] = []

    async def start(settings: dict[str, Any] | None = None, **engine: Any) -> Any:
        made = await start_engine("r0", **engine)
        gateway = await start_gateway(routing_of(("main", [replica_of(made)])), **(settings or {}))
        client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="key-a", max_retries=0)
        clients.append(client)
        return client, made, gateway

    yield start
    for client in clients:
        await client.close()


ASK: dict[str, Any] = {"model": "support", "messages": [{"role": "user", "content": "hi"}]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}


async def test_a_chat_is_answered(pool: Any) -> None:
    client, _, _ = await pool()
    raw = await client.chat.completions.with_raw_response.create(**ASK)
    answer = raw.parse()
    assert answer.choices[0].message.content == "forty two"
    assert answer.usage.total_tokens == 12 and answer.usage.prompt_tokens_details.cached_tokens == 1
    assert raw.headers["x-motley-stage"] == "main"


async def test_a_chat_is_streamed_with_its_usage(pool: Any) -> None:
    client, _, _ = await pool(chunks=3)
    stream = await client.chat.completions.create(
        **ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert [c.choices[0].delta.content for c in chunks if c.choices] == ["r00 ", "r01 ", "r02 "]
    assert chunks[-1].usage.completion_tokens == 3


async def test_tools_and_json_mode_reach_the_engine_and_calls_come_back(pool: Any) -> None:
    client, engine, _ = await pool(message={"content": None, "tool_calls": [CALL]})
    form = {"type": "json_object"}
    answer = await client.chat.completions.create(
        **ASK, tools=[TOOL], tool_choice="required", response_format=form, seed=7
    )
    assert answer.choices[0].message.tool_calls[0].function.arguments == '{"a":1}'
    seen = engine.seen[0]
    assert seen["tools"] == [TOOL] and seen["tool_choice"] == "required"
    assert seen["response_format"] == form and seen["seed"] == 7


async def test_completions_embeddings_responses_and_models_work(pool: Any) -> None:
    client, engine, _ = await pool()
    completion = await client.completions.create(model="support", prompt="once")
    assert completion.choices[0].text == "forty two"
    response = await client.responses.create(model="support", input="hi", instructions="be short")
    assert response.output_text == "forty two"
    embedded = await client.embeddings.create(
        model="support", input=["a", "b"], encoding_format="float"
    )
    assert embedded.data[0].embedding == [0.25, -1.0]
    assert [seen["model"] for seen in engine.seen] == ["org/main"] * 3
    assert [model.id async for model in client.models.list()] == ["support"]
    assert (await client.models.retrieve("support")).owned_by == "motley"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("gpt-5")


async def test_embeddings_in_base64_pass_through(pool: Any) -> None:
    client, engine, _ = await pool()
    packed = base64.b64encode(struct.pack("<2f", 0.5, 2.0)).decode()
    engine.changed = lambda answer: (
        answer | {"data": [{"object": "embedding", "index": 0, "embedding": packed}]}
    )
    embedded = await client.embeddings.create(model="support", input="a")
    assert list(embedded.data[0].embedding) == [0.5, 2.0]
    assert engine.seen[0]["encoding_format"] == "base64"


ERRORS = [
    pytest.param({"status": 500}, ASK, "InternalServerError", id="every replica fails"),
    pytest.param({"status": 400}, ASK, "BadRequestError", id="the engine refuses"),
    pytest.param({}, ASK | {"model": "gpt"}, "NotFoundError", id="unknown model"),
    pytest.param({}, ASK | {"messages": []}, "BadRequestError", id="no messages"),
]


@pytest.mark.parametrize(("engine", "ask", "error"), ERRORS)
async def test_errors_are_the_clients_own_exceptions(
    pool: Any, engine: Any, ask: Any, error: str
) -> None:
    client, _, _ = await pool(**engine)
    with pytest.raises(getattr(openai, error)) as raised:
        await client.chat.completions.create(**ask)
    assert raised.value.code


async def test_keys_and_rates_raise_what_the_client_expects(pool: Any, tmp_path: Any) -> None:
    (tmp_path / "alice").write_text("key-a\nrequests_per_minute=60\nburst=1\n")
    client, _, _ = await pool(settings={"api_keys_dir": tmp_path})
    await client.chat.completions.create(**ASK)
    with pytest.raises(openai.RateLimitError) as limited:
        await client.chat.completions.create(**ASK)
    assert limited.value.response.headers["retry-after"] == "1"
    answer = await client.with_options(max_retries=2).chat.completions.create(**ASK)
    assert answer.choices, "the client waits as it is told, and is served"
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="wrong").chat.completions.create(**ASK)


async def test_a_stream_that_breaks_raises_in_the_client(pool: Any) -> None:
    client, _, _ = await pool(dies_after_chunks=2)
    stream = await client.chat.completions.create(**ASK, stream=True)
    with pytest.raises(openai.APIError, match="stopped in mid-answer"):
        async for _ in stream:
            pass


async def test_a_stream_that_the_client_closes_is_aborted_at_the_engine(
    pool: Any, eventually: Any
) -> None:
    client, engine, gateway = await pool(chunks=1000, chunk_delay_s=0.05)
    stream = await client.chat.completions.create(**ASK, stream=True)
    await anext(aiter(stream))
    await stream.close()
    await eventually(lambda: engine.aborted == 1 and gateway.gateway.in_flight == 0)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_streams(pool: Any) -> None:
    _, _, gateway = await pool(chunks=2)
    process = await asyncio.create_subprocess_exec(
        "curl", "-sSN", f"{gateway.url}/v1/chat/completions", "-H", "content-type: application/json",
        "-d", json.dumps(ASK | {"stream": True}), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0
    assert out.count(b"data: ") == 3 and out.endswith(b"data: [DONE]\n\n")
