"""`python -m tests.bench.peers [--write]`: the gateway beside other proxies, in one run.

    --nginx PATH --vllm-router PATH --sglang-router PATH --litellm PATH

tell where the peers' released programs are, else PATH is searched; those not found are left out.
Nothing of them is needed to build or test Motley. Each proxy runs on core 0 with one worker, the mock
engine and the load of tests/bench/gateway.py on core 1. CPU is of the proxy's process and its
children. What they do differs: nginx passes bytes on; the routers choose among replicas, litellm
checks and rewrites bodies; the gateway parses, admits, dispatches, counts and logs every request.
Rounds are interleaved, and the table has the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import page
from tests.bench.gateway import (
    KEY,
    Connection,
    Running,
    added_p50_ms,
    free_port,
    mock_on,
    per_cpu_second,
    request,
    running,
)

HEAD = (
    "| proxy | added P50, 1 client, ms | requests per CPU s, 64 clients | CPU us per chunk | "
    "first byte P50, ms | P99, ms | failed streams |\n|---|---|---|---|---|---|---|"
)
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
            *command, stdout=log, stderr=log, preexec_fn=lambda: os.sched_setaffinity(0, {0})
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


@dataclass(frozen=True, slots=True)
class Round:
    """What one round measured of one proxy."""

    added_ms: float
    per_cpu_s: float
    us_per_chunk: float
    first_ms: tuple[float, ...]
    failures: int


async def measured(at: Running, scale: float) -> Round:
    """One round: calls one at a time, 64 clients, 80 streams."""
    added = await added_p50_ms(at, max(20, int(400 * scale)), MODEL)
    rate = await per_cpu_second(at, 64, max(640, int(6400 * scale)), MODEL)
    chunks, count = max(20, int(150 * scale)), 80
    connections = [await Connection.to(at.port) for _ in range(count)]
    before, raw = at.cpu_s(), request(chunks, MODEL)
    found = await asyncio.gather(*(c.first_byte(raw) for c in connections), return_exceptions=True)
    spent = at.cpu_s() - before
    for connection in connections:
        connection.close()
    first = tuple(1000 * each for each in found if isinstance(each, float))
    return Round(added, rate, 1e6 * spent / (count * chunks), first, count - len(first))


async def table(programs: dict[str, str], rounds: int, scale: float) -> str:
    """The table, with the gateway first."""
    found: dict[str, list[Round]] = {}
    for _ in range(rounds):
        async with running() as at:
            found.setdefault("Motley's gateway", []).append(await measured(at, scale))
        for name, program in programs.items():
            async with peer(name, program) as at:
                found.setdefault(name, []).append(await measured(at, scale))
    lines = []
    for name, each in found.items():
        first = sorted(ms for one in each for ms in one.first_ms)
        lines.append(
            f"| {name} | {statistics.median(r.added_ms for r in each):.2f} "
            f"| {statistics.median(r.per_cpu_s for r in each):,.0f} "
            f"| {statistics.median(r.us_per_chunk for r in each):.0f} "
            f"| {first[len(first) // 2]:.1f} | {first[int(0.99 * len(first))]:.1f} "
            f"| {sum(r.failures for r in each)} |"
        )
    return "\n".join([HEAD, *lines])


def main(arguments: list[str]) -> int:
    """Prints the table, and writes it where asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    for name in PEERS:
        parser.add_argument(f"--{name}", default=shutil.which(name) or "", help="its program")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds")
    parser.add_argument("--scale", type=float, default=1.0, help="measure less (0.1) or all (1)")
    parser.add_argument("--write", action="store_true", help="write the table into the page")
    args = parser.parse_args(arguments)
    programs = {n: getattr(args, n.replace("-", "_")) for n in PEERS}
    for name in [n for n, program in programs.items() if not program]:
        print(f"{name} is not installed: left out", file=sys.stderr)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    text = asyncio.run(table({n: p for n, p in programs.items() if p}, args.rounds, args.scale))
    print(text)
    if args.write:
        page.put("peers", text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
