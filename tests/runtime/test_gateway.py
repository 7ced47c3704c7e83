"""One stage: requests, streams, errors, retries, limits, keys."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from typing import Any

import aiohttp
import pytest


def events(raw: bytes) -> list[Any]:
    found = [line[6:] for line in raw.decode().splitlines() if line.startswith("data: ")]
    return [each if each == "[DONE]" else json.loads(each) for each in found]


@pytest.fixture
def pool(start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any) -> Any:
    async def start(
        *options: dict[str, Any], settings: dict[str, Any] | None = None, **fields: Any
    ) -> Any:
        engines = [await start_engine(f"r{i}", **each) for i, each in enumerate(options or ({},))]
        document = routing_of(("main", [replica_of(e) for e in engines]), **fields)
        gateway = await start_gateway(document, **(settings or {}))
        return gateway, engines

    return start


async def test_a_chat_answer_is_the_engines_own_with_headers_that_name_the_plan(pool: Any) -> None:
    gateway, [engine] = await pool()
    response = await gateway.chat("hi", model="support", temperature=0.3)
    assert response.status == 200
    assert await response.json() == engine.answer("chat/completions", {"model": "org/main"})
    assert response.headers["x-motley-plan"] == "aaaa1111"
    assert response.headers["x-motley-stage"] == response.headers["x-motley-path"] == "main"
    assert "x-motley-score" not in response.headers
    expected = {"model": "org/main", "temperature": 0.3}
    assert engine.seen == [{"messages": [{"role": "user", "content": "hi"}], **expected}]


async def test_a_completion_goes_to_the_engines_completion_path(pool: Any) -> None:
    gateway, [_engine] = await pool()
    body = {"prompt": "once upon", "model": "support"}
    async with gateway.http.post(f"{gateway.url}/v1/completions", json=body) as response:
        answer = await response.json()
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"] == "forty two"


async def test_a_stream_is_relayed_while_it_is_being_made(pool: Any) -> None:
    gateway, [engine] = await pool({"chunks": 3, "chunk_delay_s": 0.15})
    response = await gateway.chat(stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    first = await asyncio.wait_for(response.content.readany(), 30)
    assert engine.open_streams == 1, "the first piece must not wait for the last"
    whole = first + await response.read()
    texts = [e["choices"][0]["delta"]["content"] for e in events(whole)[:-1]]
    assert texts == ["r00 ", "r01 ", "r02 "]
    assert events(whole)[-1] == "[DONE]"
    assert await gateway.metric('motley_gateway_ttft_seconds_count{class="all"}') == 1


async def test_the_request_id_is_kept_or_made_and_reaches_the_engine(pool: Any) -> None:
    gateway, [engine] = await pool()
    response = await gateway.chat(headers={"x-request-id": "abc-1"})
    assert response.headers["x-request-id"] == engine.headers[0]["x-request-id"] == "abc-1"
    response = await gateway.chat(headers={"x-request-id": "x" * 500})
    assert len(response.headers["x-request-id"]) == 32


async def test_a_clients_key_never_reaches_an_engine(pool: Any) -> None:
    gateway, [engine] = await pool()
    await gateway.chat(headers={"authorization": "Bearer secret", "cookie": "a=b"})
    assert not {"authorization", "cookie"} & set(engine.headers[0])


async def test_models_lists_what_the_plan_serves(pool: Any) -> None:
    gateway, _ = await pool(served_model_names=["support", "support-alias"])
    async with gateway.http.get(f"{gateway.url}/v1/models") as response:
        listed = await response.json()
    assert [each["id"] for each in listed["data"]] == ["support", "support-alias"]


BAD_REQUESTS = [
    pytest.param(b"{", 400, "invalid_json", id="broken JSON"),
    pytest.param(b"[]", 400, "invalid_json", id="not an object"),
    pytest.param(b'"\xff"', 400, "invalid_json", id="invalid UTF-8"),
    pytest.param(b'{"messages": []}', 400, "invalid_value", id="no messages"),
    pytest.param(b'{"messages": [1], "stream": "yes"}', 400, "invalid_value", id="bad stream"),
    pytest.param(b'{"messages": [1], "model": 3}', 400, "invalid_value", id="model not text"),
    pytest.param(b'{"messages": [1], "model": "gpt"}', 404, "model_not_found", id="unknown model"),
    pytest.param(b"x" * 3000, 413, "body_too_large", id="a body above the limit"),
]


@pytest.mark.parametrize(("body", "status", "code"), BAD_REQUESTS)
async def test_a_bad_request_is_refused_in_openais_form_and_reaches_no_engine(
    pool: Any, body: bytes, status: int, code: str
) -> None:
    gateway, [engine] = await pool(settings={"limits": {"body_bytes": 2000}})
    url = f"{gateway.url}/v1/chat/completions"
    async with gateway.http.post(url, data=body) as response:
        assert response.status == status
        error = (await response.json())["error"]
    assert error["code"] == code
    assert {"message", "type", "param", "code"} == set(error)
    assert not engine.seen


async def test_unknown_paths_and_wrong_methods_are_refused(pool: Any) -> None:
    gateway, _ = await pool()
    async with gateway.http.get(f"{gateway.url}/v1/nothing") as response:
        assert response.status == 404
    async with gateway.http.get(f"{gateway.url}/v1/chat/completions") as response:
        assert response.status == 405


async def test_a_refusal_about_the_request_is_passed_on_as_the_engine_said_it(pool: Any) -> None:
    gateway, engines = await pool({"status": 400}, {"status": 400})
    response = await gateway.chat()
    assert response.status == 400
    assert "says no" in (await response.json())["error"]["message"]
    assert sum(len(engine.seen) for engine in engines) == 1, "another replica would say the same"


@pytest.mark.parametrize("trouble", [{"status": 500}, {"status": 503}, {"drops_connections": 99}])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_replica_is_retried_elsewhere_and_then_left_out(
    pool: Any, trouble: dict[str, Any], stream: bool
) -> None:
    gateway, [broken, sound] = await pool(trouble, {})
    for _ in range(6):
        response = await gateway.chat(stream=stream)
        assert response.status == 200
        await response.read()
    assert len(sound.seen) == 6
    assert len(broken.seen) <= 1, "the circuit is open for a second"
    assert await gateway.metric("motley_gateway_retries_total") == len(broken.seen)


async def test_a_lone_replica_that_drops_a_connection_is_asked_again(pool: Any) -> None:
    gateway, [engine] = await pool({"drops_connections": 1})
    response = await gateway.chat()
    assert response.status == 200
    assert len(engine.seen) == 2


ALL_FAILED = [
    pytest.param({"status": 500}, 502, id="every replica fails"),
    pytest.param({"status": 429}, 503, id="every replica is busy"),
    pytest.param({"delay_s": 3.0}, 504, id="no replica answers in time"),
]


@pytest.mark.parametrize(("trouble", "status"), ALL_FAILED)
@pytest.mark.parametrize("stream", [False, True])
async def test_when_no_replica_answers_the_error_says_how(
    pool: Any, trouble: dict[str, Any], status: int, stream: bool
) -> None:
    gateway, _ = await pool(trouble, trouble, settings={"limits": {"answer_s": 0.2}})
    response = await gateway.chat(stream=stream)
    assert response.status == status
    assert (await response.json())["error"]["type"] == "server_error"
    assert ("retry-after" in response.headers) == (status == 503)
    line = f'motley_gateway_requests_total{{class="all",stage="main",status="{status}"}}'
    assert await gateway.metric(line) == 1


async def test_an_upstream_that_dies_in_mid_stream_ends_it_with_an_error_event(pool: Any) -> None:
    gateway, [first, second] = await pool({"dies_after_chunks": 2}, {"dies_after_chunks": 2})
    response = await gateway.chat(stream=True)
    assert response.status == 200
    seen = events(await response.read())
    assert [e["choices"][0]["delta"]["content"][2:] for e in seen[:-1]] == ["0 ", "1 "]
    assert seen[-1]["error"]["code"] == "upstream_failed"
    assert len(first.seen) + len(second.seen) == 1, "a begun stream is never retried"
    assert await gateway.metric('motley_gateway_upstream_failures_total{kind="disconnected"') == 1


async def test_a_stream_that_stalls_is_ended_on_both_sides(pool: Any, eventually: Any) -> None:
    gateway, [engine] = await pool({"chunk_delay_s": 30.0}, settings={"limits": {"idle_s": 0.2}})
    response = await gateway.chat(stream=True)
    assert events(await response.read())[-1]["error"]["code"] == "upstream_failed"
    await eventually(lambda: engine.aborted == 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_engines_work(
    pool: Any, eventually: Any, stream: bool
) -> None:
    gateway, [engine] = await pool({"chunk_delay_s": 30.0, "delay_s": 0 if stream else 30.0})
    asking = asyncio.create_task(gateway.chat(stream=stream))
    await eventually(lambda: engine.seen)
    if stream:
        (await asking).close()
    else:
        asking.cancel()
    await eventually(lambda: engine.aborted == 1)
    await eventually(lambda: gateway.gateway.in_flight == 0)
    assert (
        await gateway.metric('motley_gateway_requests_total{class="all",stage="main",status="499')
        == 1
    )


async def test_planned_rates_decide_the_shares_of_300_requests(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any
) -> None:
    rates = {"r0": 6.0, "r1": 3.0, "r2": 1.0}
    engines = [await start_engine(name) for name in rates]
    replicas = [
        replica_of(e, rates={"all": rates[e.name]}, capacity={"all": 10.0}) for e in engines
    ]
    gateway = await start_gateway(routing_of(("main", replicas)))
    for _ in range(60):
        responses = await asyncio.gather(*(gateway.chat() for _ in range(5)))
        assert {response.status for response in responses} == {200}
        for response in responses:
            response.release()
    counts = {engine.name: len(engine.seen) for engine in engines}
    assert sum(counts.values()) == 300
    for name, rate in rates.items():
        # (n - 1) * borrow_limit is the bound by construction.
        assert abs(counts[name] - 30 * rate) <= 2 * 4, counts


async def test_classes_go_by_prompt_length_or_by_what_the_client_declares(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any
) -> None:
    short, long = await start_engine("short"), await start_engine("long")
    classes = [
        {"name": "short", "prompt_tokens": 10, "output_tokens": 10},
        {"name": "long", "prompt_tokens": 4000, "output_tokens": 10},
    ]
    replicas = [replica_of(e, rates={e.name: 1.0}, capacity={e.name: 2.0}) for e in (short, long)]
    gateway = await start_gateway(routing_of(("main", replicas), classes=classes))
    await gateway.chat("hello there")
    await gateway.chat("word " * 2000)
    assert (len(short.seen), len(long.seen)) == (1, 1)
    await gateway.chat("hello", headers={"x-motley-class": "long"})
    assert len(long.seen) == 2
    response = await gateway.chat("hello", headers={"x-motley-class": "huge"})
    assert response.status == 400


async def test_only_known_keys_are_served_and_the_directory_may_change(
    pool: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motley_runtime.gateway.auth._RESCAN_S", 0.0)
    (tmp_path / "alice").write_text("key-a\n")
    (tmp_path / "bob").write_text("sha256:" + hashlib.sha256(b"key-b").hexdigest())
    gateway, [engine] = await pool(settings={"api_keys_dir": tmp_path})
    wanted = {"key-a": 200, "key-b": 200, "key-c": 401, "": 401}
    for key, status in wanted.items():
        response = await gateway.chat(headers={"authorization": f"Bearer {key}"})
        assert response.status == status, key
    assert (await gateway.chat()).status == 401
    assert len(engine.seen) == 2
    async with gateway.http.get(f"{gateway.url}/ready") as response:
        assert response.status == 200, "probes carry no key"
    (tmp_path / "carol").write_text("key-c")
    response = await gateway.chat(headers={"authorization": "Bearer key-c"})
    assert response.status == 200


async def test_a_flood_of_headers_is_refused(pool: Any) -> None:
    gateway, [engine] = await pool(settings={"limits": {"head_bytes": 4000}})
    response = await gateway.chat(headers={"x-fill": "a" * 5000})
    assert response.status == 431
    port = int(gateway.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health HTTP/1.1\r\nx-endless: ")
    writer.write(b"a" * 9000)
    assert b"431" in await asyncio.wait_for(reader.read(), 30)
    writer.close()
    assert not engine.seen


async def test_a_client_that_trickles_its_headers_is_closed(pool: Any) -> None:
    gateway, _ = await pool(settings={"limits": {"head_s": 0.2}})
    port = int(gateway.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health HTTP/1.1\r\nx-slow: ")
    assert b"408" in await asyncio.wait_for(reader.read(), 30)
    writer.close()


async def test_a_slow_answer_outlives_the_time_limit_of_heads(pool: Any) -> None:
    gateway, _ = await pool({"delay_s": 0.5}, settings={"limits": {"head_s": 0.2}})
    assert (await gateway.chat()).status == 200


async def test_a_body_that_does_not_come_is_not_waited_for(pool: Any) -> None:
    gateway, _ = await pool(settings={"limits": {"body_s": 0.2}})
    port = int(gateway.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
    assert b"408" in (await asyncio.wait_for(reader.readline(), 30))
    writer.close()


async def test_a_hundred_streams_at_once_all_end_whole_and_nothing_is_left(pool: Any) -> None:
    gateway, engines = await pool({"chunk_delay_s": 0.01}, {"chunk_delay_s": 0.01})

    async def one() -> int:
        response = await gateway.chat(stream=True)
        return len(events(await response.read()))

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        gateway.http = http
        counts = Counter(await asyncio.gather(*(one() for _ in range(100))))
        assert counts == {5: 100}
        assert await gateway.metric("motley_gateway_in_flight") == 0
    assert abs(len(engines[0].seen) - 50) <= 4
