"""Other proxies in front of the mock engine, as tests/bench/gateway.py measures them.

What they do differs: nginx passes bytes on; the routers choose among replicas, litellm checks and
rewrites bodies; the gateway parses, admits, dispatches, counts and logs every request.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.bench.gateway_rig import KEY, Connection, Running, free_port, mock_on, pinned, request

START_S = 90.0
MODEL = "m"
Command = Callable[[str, Path, int, int], list[str]]  # program, folder, port, engine's port


def nginx(program: str, folder: Path, port: int, engine_port: int) -> list[str]:
    """One process that passes bytes on, with kept connections to the engine."""
    conf = folder / "nginx.conf"
    paths = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    conf.write_text(f"""
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log crit;
events {{ worker_connections 8192; }}
http {{ access_log off; {paths}
upstream engine {{ server 127.0.0.1:{engine_port}; keepalive 2048; }}
server {{ listen 127.0.0.1:{port} backlog=4096; keepalive_requests 1000000; client_max_body_size 8m;
location / {{ proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
proxy_buffering off; }} }} }}
""")
    return [program, "-c", str(conf), "-p", str(folder), "-e", str(folder / "error.log")]


def router(program: str, folder: Path, port: int, engine_port: int) -> list[str]:
    """vLLM's and SGLang's routers have the same flags."""
    launch = ["launch"] if Path(program).name == "sglang-router" else []
    return [
        program, *launch, "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin",
        "--worker-urls", f"http://127.0.0.1:{engine_port}", "--prometheus-port", str(free_port()),
    ]  # fmt: skip


def litellm(program: str, folder: Path, port: int, engine_port: int) -> list[str]:
    """LiteLLM's proxy with one model and no database."""
    config = {
        "model_list": [{
            "model_name": MODEL,
            "litellm_params": {
                "model": f"hosted_vllm/{MODEL}",
                "api_base": f"http://127.0.0.1:{engine_port}/v1",
                "api_key": "none",
            },
        }],
        "general_settings": {"master_key": KEY},
    }  # fmt: skip
    path = folder / "litellm.yaml"
    path.write_text(json.dumps(config))
    return [
        program, "--config", str(path), "--host", "127.0.0.1", "--port", str(port),
        "--num_workers", "1", "--telemetry", "False",
    ]  # fmt: skip


PEERS: dict[str, Command] = {
    "nginx": nginx,
    "vllm-router": router,
    "sglang-router": router,
    "litellm": litellm,
}


@asynccontextmanager
async def peer(name: str, program: str) -> AsyncIterator[Running]:
    """A peer on core 0 in front of a mock engine on the last one."""
    engine = await mock_on()
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w") as log:
        port = free_port()
        command = PEERS[name](program, Path(folder), port, engine.port)
        proxy = await asyncio.create_subprocess_exec(
            *command, stdout=log, stderr=log, preexec_fn=lambda: pinned(0)
        )
        try:
            await _answers(port, Path(folder) / "log")
            yield Running(proxy.pid, port, engine.port)
        finally:
            for process in (proxy, engine.process):
                if process.returncode is None:
                    process.kill()
            await asyncio.gather(proxy.wait(), engine.process.wait())


async def _answers(port: int, log: Path) -> None:
    """Waits until a request is answered."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        try:
            connection = await Connection.to(port)
            ok = await asyncio.wait_for(connection.ask(request(model=MODEL)), 5.0)
            connection.close()
            if ok:
                return
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass
        await asyncio.sleep(0.3)
    raise SystemExit(f"no answer within {START_S:g} s; the log ends: {log.read_text()[-2000:]}")
