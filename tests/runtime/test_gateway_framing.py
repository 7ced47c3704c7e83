"""Requests that are framed wrongly, on raw sockets: what their client is told, and what is left."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
BODY = json.dumps({"messages": [{"role": "user", "content": "hello"}]}).encode()
WHOLE = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY


@pytest.fixture
async def behind(start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any) -> Any:
    async def start(**engine_options: Any) -> Any:
        engine = await start_engine("r0", **engine_options)
        return await start_gateway(routing_of(("main", [replica_of(engine)]))), engine

    return start


async def said(gateway: Any, *parts: bytes, is_closed: bool = False) -> bytes:
    """What the gateway answers to these bytes, its side's end included."""
    port = int(gateway.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.03)
        if is_closed:
            writer.write_eof()
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.transport.abort()


def told(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)["error"]["code"]


@pytest.mark.parametrize(
    "parts",
    [
        (CHUNKED + b"zz\r\nab",),
        (CHUNKED, b"zz\r\nab"),
        (CHUNKED + b"ffffffffffffffffff\r\nab",),
        (CHUNKED + b"2\r\n{}", b"too long\r\n"),
    ],
    ids=["no number", "no number, later", "overflow", "longer than it says"],
)
async def test_broken_chunks_are_refused(behind: Any, eventually: Any, parts: Any) -> None:
    gateway, engine = await behind()
    assert told(await said(gateway, *parts)) == (400, "bad_body")
    await eventually(lambda: gateway.gateway.in_flight == 0)
    assert not engine.seen and (await gateway.chat()).status == 200


async def test_an_announced_length_is_refused_before_the_body_comes(behind: Any) -> None:
    gateway, engine = await behind()
    most = 8 * 2**20
    for length in (most + 1, 10**30):
        asked = HEAD + b"content-length: %d\r\n\r\n" % length
        answer = await said(gateway, asked)
        assert length > 2**63 or told(answer) == (413, "body_too_large")
        assert answer.split()[1] in (b"413", b"400"), "beyond 64 bits it is no length"
    asked = HEAD + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % (most + 1)
    assert told(await said(gateway, asked)) == (413, "body_too_large")
    assert not engine.seen


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ((WHOLE,), "half_closed"),
        ((WHOLE[:-5],), "half_closed"),
        ((HEAD,), "bad_head"),
    ],
    ids=["a whole request", "half a body", "half a head"],
)
async def test_a_half_closed_connection_is_told_so_and_its_work_ends(
    behind: Any, eventually: Any, parts: Any, code: str
) -> None:
    gateway, engine = await behind(delay_s=30.0)
    assert told(await said(gateway, *parts, is_closed=True)) == (400, code)
    await eventually(lambda: gateway.gateway.in_flight == 0)
    await eventually(lambda: engine.aborted == len(engine.seen))


async def test_nothing_is_written_into_an_answer_that_has_begun(
    behind: Any, eventually: Any
) -> None:
    gateway, engine = await behind(chunks=100, chunk_delay_s=0.02)
    body = json.dumps({**json.loads(BODY), "stream": True}).encode()
    asked = HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
    answer = await said(gateway, asked, b"", b"", b"\x00garbage\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK") and b"HTTP/1.1 400" not in answer
    await eventually(lambda: gateway.gateway.in_flight == 0 and engine.open_streams == 0)


async def test_garbage_after_a_request_is_not_taken_for_its_body(
    behind: Any, eventually: Any
) -> None:
    gateway, engine = await behind(delay_s=0.3)
    assert await said(gateway, WHOLE, b"\x00garbage\r\n\r\n") == b""
    await eventually(lambda: gateway.gateway.in_flight == 0 and engine.aborted == 1)
