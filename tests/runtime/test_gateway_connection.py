"""The HTTP client towards engines: what it makes of bytes, whatever pieces they come in."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_runtime.gateway.errors import UpstreamError
from motley_runtime.gateway.options import Limits
from motley_runtime.gateway.pool import target_of
from motley_runtime.gateway.upstream import Call, HttpUpstream

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
BODY = b'{"choices": [1, 2, 3]}'
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 22\r\n\r\n" + BODY
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    b'A\r\n{"choices"\r\nc;note=x\r\n: [1, 2, 3]}\r\n0\r\n\r\n'
)
UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + BODY
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + LENGTH


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = [h for h in head.split(b"\r\n") if h.lower().startswith(b"content-length:")]
    return head, await reader.readexactly(int(length[0].split(b":")[1])) if length else b""


@asynccontextmanager
async def engine(talk: Talk) -> AsyncIterator[str]:
    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def client(**limits: Any) -> AsyncIterator[HttpUpstream]:
    made = HttpUpstream(Limits(**limits))
    try:
        yield made
    finally:
        await made.close()


def answering(*answers: bytes, pieces: int = 0) -> Talk:
    """Each request on a connection gets the next answer, in pieces of so many bytes."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await read_request(reader)
            for at in range(0, len(answer), pieces or len(answer)):
                writer.write(answer[at : at + (pieces or len(answer))])
                await writer.drain()
                await asyncio.sleep(0)

    return talk


def call(url: str, body: bytes = b"{}") -> Call:
    return Call(f"{url}/v1/chat/completions", body, "id-1")


@pytest.mark.parametrize("pieces", [0, 1, 7])
@pytest.mark.parametrize("answer", [LENGTH, CHUNKED, UNTIL_CLOSED, INTERIM])
async def test_an_answer_is_the_same_however_it_is_framed_and_cut(
    answer: bytes, pieces: int
) -> None:
    async with engine(answering(answer, pieces=pieces)) as url, client() as upstream:
        got = await upstream.fetch(call(url))
        assert (got.status, got.content_type, got.body) == (200, "application/json", BODY)
    async with engine(answering(answer, pieces=pieces)) as url, client() as upstream:
        async with upstream.stream(call(url)) as opened:
            rest = [chunk async for chunk in opened.rest]
        assert opened.first and opened.first + b"".join(rest) == BODY


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(1, len(CHUNKED) - 1), max_size=6))
def test_an_answer_cut_anywhere_is_the_same(cuts: list[int]) -> None:
    from motley_runtime.gateway.connection import Connection

    class Transport:
        def write(self, data: bytes) -> None: ...
        def abort(self) -> None: ...
        def is_closing(self) -> bool:
            return False

    async def run() -> bytes:
        connection = Connection()
        connection.connection_made(Transport())  # type: ignore[arg-type]
        connection.send(b"", b"", 1000, True)
        marks = [0, *sorted(set(cuts)), len(CHUNKED)]
        for start, end in itertools.pairwise(marks):
            connection.data_received(CHUNKED[start:end])
        body = await connection.answered(1.0)
        assert connection.end()
        return body

    assert asyncio.run(run()) == BODY


async def test_a_request_is_whole_and_says_what_an_engine_needs() -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(LENGTH)

    body = b'{"prompt": "' + b"x" * 3_000_000 + b'"}'
    async with engine(talk) as url, client() as upstream:
        await upstream.fetch(call(url, body))
        head, sent = seen[0]
        assert sent == body
        assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert f"host: {url[7:]}\r\n".encode() in head
        assert b"content-type: application/json\r\n" in head and b"x-request-id: id-1\r\n" in head


async def test_a_connection_is_kept_while_both_sides_want_it() -> None:
    opened = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await answering(LENGTH, CHUNKED, LENGTH)(reader, writer)

    async with engine(talk) as url, client() as upstream:
        for _ in range(3):
            assert (await upstream.fetch(call(url))).body == BODY
        assert opened == 1
        await asyncio.sleep(0.05)  # the engine has closed it meanwhile
        assert (await upstream.fetch(call(url))).body == BODY
        assert opened == 2


async def test_a_connection_is_not_used_again_after_connection_close_or_stray_bytes() -> None:
    for answer in (LENGTH.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1), LENGTH + b"x"):
        opened = 0

        async def talk(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes = answer
        ) -> None:
            nonlocal opened
            opened += 1
            await read_request(reader)
            writer.write(answer)
            await reader.read(1)

        async with engine(talk) as url, client() as upstream:
            for _ in range(2):
                try:
                    await upstream.fetch(call(url))
                except UpstreamError as error:
                    assert error.kind == "garbage"
            assert opened == 2


async def test_idle_connections_go_before_engines_close_theirs(monkeypatch: Any) -> None:
    monkeypatch.setattr("motley_runtime.gateway.pool._KEEPALIVE_S", 0.1)
    async with engine(answering(LENGTH, LENGTH)) as url, client() as upstream:
        await upstream.fetch(call(url))
        assert len(upstream._pool._idle) == 1
        await asyncio.sleep(0.35)
        assert upstream._pool._idle == {}


async def test_a_reader_that_leaves_closes_the_engines_connection() -> None:
    ended = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        assert await reader.read(1) == b""
        ended.set()

    async with engine(talk) as url, client() as upstream:
        async with upstream.stream(call(url)) as opened:
            assert opened.first == b"abc"
        await asyncio.wait_for(ended.wait(), 30)
        ended.clear()
        task = asyncio.create_task(upstream.fetch(call(url)))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait_for(ended.wait(), 30)
        assert not upstream._pool._used


async def test_a_stream_that_nobody_reads_is_paused_and_lost_no_byte() -> None:
    total = 4_000_000

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total + b"a" * total)
        await writer.drain()

    async with engine(talk) as url, client() as upstream, upstream.stream(call(url)) as opened:
        await asyncio.sleep(0.2)
        (connection,) = upstream._pool._used
        assert connection._is_paused and connection._size < 2_000_000
        size = len(opened.first) + sum([len(chunk) async for chunk in opened.rest])
    assert size == total


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", "disconnected"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n" + b"a" * 5000, "too_large"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, "garbage"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "garbage"),
        (b"hello\r\n\r\n", "garbage"),
    ],
)  # fmt: skip
async def test_what_is_no_answer_says_how(answer: bytes, kind: str) -> None:
    async with engine(answering(answer)) as url, client(answer_bytes=1000) as upstream:
        with pytest.raises(UpstreamError) as caught:
            await upstream.fetch(call(url))
        assert caught.value.kind == kind


async def test_nobody_there_and_no_answer_in_time_are_told_apart() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with engine(silent) as url, client(answer_s=0.1, first_byte_s=0.1) as upstream:
        with pytest.raises(UpstreamError) as caught:
            await upstream.fetch(call(url))
        assert caught.value.kind == "timeout"
        with pytest.raises(UpstreamError) as caught:
            async with upstream.stream(call(url)):
                pass
        assert caught.value.kind == "timeout"
    async with client() as upstream:
        with pytest.raises(UpstreamError) as caught:
            await upstream.fetch(call(url))
        assert caught.value.kind == "connect"
        assert not await upstream.is_well(url)


def test_an_address_is_read_off_its_url() -> None:
    for url, host, port, tls, authority, path in (
        ("http://a.b:80/v1/x", "a.b", 80, False, b"a.b:80", b"/v1/x"),
        ("https://a.b/p/v1?x=1", "a.b", 443, True, b"a.b", b"/p/v1?x=1"),
        ("http://[::1]:9/", "::1", 9, False, b"[::1]:9", b"/"),
        ("http://user:word@h", "h", 80, False, b"h", b"/"),
    ):
        target = target_of(url)
        found = (target.host, target.port, target.is_tls, target.authority, target.path)
        assert found == (host, port, tls, authority, path)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A key and a certificate for 127.0.0.1, vouched for by itself."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    asked = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -addext"
    command = [*asked.split(), "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    return key, cert


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate")
async def test_tls_is_spoken_with_those_whose_certificate_is_vouched_for(
    tmp_path: Path, monkeypatch: Any
) -> None:
    key, cert = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    server = await asyncio.start_server(answering(LENGTH), "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        async with client() as upstream:
            with pytest.raises(UpstreamError) as caught:
                await upstream.fetch(call(url))
            assert caught.value.kind == "connect"
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        async with client() as upstream:
            assert (await upstream.fetch(call(url))).body == BODY
