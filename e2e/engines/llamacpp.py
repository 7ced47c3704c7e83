"""A small engine: llama.cpp on one thread, OpenAI's API, llama-server's flags, vLLM's metric names.

    python -m e2e.engines.llamacpp --model FILE.gguf --alias NAME --port 8080 --parallel 4

llama.cpp's own server (the library in the package xllamacpp) computes, on a port of its own; this
program stands before it: it passes requests and streams on byte by byte, closes the connection
behind it when a client leaves (llama.cpp then stops generating), and counts under vLLM's names.
On SIGTERM it refuses what is new and lets what runs finish.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from e2e.engines.metrics import EngineMetrics

READ_BYTES = 2**16
DRAIN_S = 30.0


def main(argv: list[str] | None = None) -> int:
    """Serves until SIGTERM; 2 where the model or the library is not there."""
    options = _parser().parse_args(argv)
    try:
        import xllamacpp
    except ImportError:
        print("llamacpp: pip install xllamacpp (llama.cpp as a library)", file=sys.stderr)
        return 2
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.alias} if options.alias else set()
    params.n_parallel = options.parallel
    params.n_ctx = options.ctx_size
    params.kv_unified = options.kv_unified
    # More threads than cores spin and starve each other: 1 to 4 tokens/s instead of 70.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.n_threads_http = 8
    params.port = 0
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        print(f"llamacpp: {options.model}: {error}", file=sys.stderr)
        return 2
    front = Front(server.listening_address, options.alias or options.model, options.parallel)
    asyncio.run(front.serve(options.host, options.port))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llamacpp", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", "-m", required=True, help="a GGUF file")
    parser.add_argument("--alias", default="", help="the model's name in answers")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--parallel", type=int, default=4, help="requests at a time")
    parser.add_argument("--ctx-size", type=int, default=4096, help="tokens of all together")
    parser.add_argument("--kv-unified", action="store_true", help="one context for all requests")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--n-gpu-layers", type=int, default=0, help="taken and not used: a CPU")
    parser.add_argument("--metrics", action="store_true", help="taken; they are always served")
    return parser


@dataclass(slots=True)
class Front:
    """What stands before llama.cpp's own server."""

    upstream: str
    model: str
    parallel: int
    metrics: EngineMetrics = field(init=False)
    is_draining: bool = False
    _session: aiohttp.ClientSession | None = None

    def __post_init__(self) -> None:
        self.metrics = EngineMetrics(self.model, self.parallel)

    async def serve(self, host: str, port: int) -> None:
        """Serves until SIGTERM, then lets running requests finish."""
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        app = web.Application(client_max_size=16 * 2**20)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/health", self._health)
        app.router.add_route("*", "/{path:.*}", self._pass)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
            self._session = session
            await runner.setup()
            await web.TCPSite(runner, host, port).start()
            print(f"llamacpp: serving {self.model} on http://{host}:{port}", flush=True)
            await ended.wait()
            self.is_draining = True
            deadline = time.monotonic() + DRAIN_S
            while self.metrics.in_flight and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
            await runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=self.metrics.text(), content_type="text/plain")

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"}, status=503 if self.is_draining else 200)

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        """One request and its answer, whole or as a stream; both sides end together."""
        assert self._session is not None
        body = await request.read()
        is_work = request.method == "POST"
        url = self.upstream + request.path_qs
        headers = {"content-type": request.headers.get("content-type", "application/json")}
        with self.metrics.request(is_work) as watch:
            async with self._session.request(
                request.method, url, data=body, headers=headers
            ) as got:
                kept = {"content-type": got.headers.get("content-type", "application/json")}
                answer = web.StreamResponse(status=got.status, headers=kept)
                await answer.prepare(request)
                is_stream = "event-stream" in kept["content-type"]
                last = b""
                async for chunk in got.content.iter_any():
                    watch.chunk()
                    last = last[-READ_BYTES:] + chunk if is_stream else last + chunk
                    await answer.write(chunk)
                await answer.write_eof()
                if got.status == 200:
                    watch.done(_told(last, is_stream))
                return answer


def _told(text: bytes, is_stream: bool) -> dict[str, Any]:
    """Usage, timings and choices of an answer, as far as its end tells them."""
    told: dict[str, Any] = {}
    for part in text.split(b"\n\n") if is_stream else [text]:
        try:
            found = json.loads(part.removeprefix(b"data: "))
        except ValueError:
            continue
        if isinstance(found, dict):
            told |= {key: value for key, value in found.items() if value}
    return told


if __name__ == "__main__":
    sys.exit(main())
