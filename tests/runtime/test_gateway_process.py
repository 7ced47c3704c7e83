"""The real process: flags, SIGTERM, exit status, logs."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from motley_operator.cli import gateway as verb
from motley_runtime.gateway.options import settings_of

RUN = [sys.executable, "-m", "motley_runtime.gateway", "--host", "127.0.0.1", "--port", "0"]


class Process:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    async def line(self, message: str) -> dict[str, Any]:
        assert self.process.stderr is not None
        async with asyncio.timeout(15):
            async for raw in self.process.stderr:
                self.lines.append(json.loads(raw))
                if self.lines[-1]["message"] == message:
                    return self.lines[-1]
        raise AssertionError(f"no {message!r} in {self.lines}")


@pytest.fixture
async def start_process() -> AsyncIterator[Any]:
    started: list[asyncio.subprocess.Process] = []

    async def start(*flags: str) -> Process:
        process = await asyncio.create_subprocess_exec(*RUN, *flags, stderr=asyncio.subprocess.PIPE)
        started.append(process)
        return Process(process)

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


async def test_sigterm_takes_readiness_away_finishes_streams_and_exits_with_zero(
    start_process: Any, start_engine: Any, routing_of: Any, replica_of: Any, tmp_path: Path
) -> None:
    engine = await start_engine("r0", chunks=8, chunk_delay_s=0.15)
    path = tmp_path / "routing.json"
    path.write_text(json.dumps(routing_of(("main", [replica_of(engine)]))))
    gateway = await start_process("--routing-file", str(path), "--settle-seconds", "0.3")
    port = (await gateway.line("listening"))["port"]
    if not any(each["message"] == "routing in force" for each in gateway.lines):
        await gateway.line("routing in force")
    url = f"http://127.0.0.1:{port}"
    prompt = "SECRET-PROMPT"
    body = {"messages": [{"role": "user", "content": prompt}], "stream": True}
    chat = f"{url}/v1/chat/completions"
    async with aiohttp.ClientSession() as http, http.post(chat, json=body) as stream:
        assert stream.status == 200
        gateway.process.send_signal(signal.SIGTERM)
        await gateway.line("draining")
        async with http.get(f"{url}/ready") as response:
            assert response.status == 503
            assert (await response.json())["reasons"][0].startswith("draining")
        async with http.post(chat, json=body | {"stream": False}) as response:
            assert response.status == 200, "until endpoints follow, requests still come"
        raw = await stream.read()
    assert raw.count(b"r0") == 8 and raw.endswith(b"data: [DONE]\n\n")
    await gateway.line("stopped")
    assert await asyncio.wait_for(gateway.process.wait(), 10) == 0
    logged = [each for each in gateway.lines if each["message"] == "request"]
    assert [each["status"] for each in logged] == [200, 200]
    assert prompt not in json.dumps(gateway.lines)


async def test_requests_that_outlast_the_drain_are_cut_and_the_engine_is_told(
    start_process: Any,
    start_engine: Any,
    routing_of: Any,
    replica_of: Any,
    tmp_path: Path,
    eventually: Any,
) -> None:
    engine = await start_engine("r0", chunks=2, chunk_delay_s=60)
    path = tmp_path / "routing.json"
    path.write_text(json.dumps(routing_of(("main", [replica_of(engine)]))))
    gateway = await start_process(
        "--routing-file", str(path), "--settle-seconds", "0", "--drain-seconds", "1"
    )
    port = (await gateway.line("listening"))["port"]
    await gateway.line("routing in force")
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
    async with aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        async with http.post(url, json=body) as stream:
            assert stream.status == 200
            gateway.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(gateway.process.wait(), 10) == 0
    await eventually(lambda: engine.aborted == 1)


async def test_a_port_in_use_ends_the_process_with_status_two(
    start_process: Any, tmp_path: Path
) -> None:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = str(server.sockets[0].getsockname()[1])
    flags = ["--routing-file", str(tmp_path / "none"), "--port", port]
    process = await start_process(*flags)
    assert "in use" in (await process.line("gateway not started"))["reason"]
    assert await process.process.wait() == 2
    server.close()
    await server.wait_closed()


def test_the_verb_takes_the_gateways_flags() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    verb.add_parser(parser.add_subparsers())
    args = parser.parse_args(["gateway", "--routing-configmap", "team-a/support-routing"])
    settings = settings_of(args)
    assert settings.routing_configmap == ("team-a", "support-routing")
    assert (settings.port, settings.drain_s, settings.log_format) == (8000, 60.0, "json")
    for wrong in (["--routing-configmap", "x"], [], ["--routing-file", "a", "--port", "99999"]):
        with pytest.raises(SystemExit):
            parser.parse_args(["gateway", *wrong])
