"""Requests of every wrong kind, many at once: the right status, and nothing left behind.

10,000 to a pool, and 3,000 to a cascade with KV credits, API keys, classes and branches. Each is
written as raw bytes, by a seeded generator that knows which statuses are right; a prompt holds a
mark that no log line may show.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MARK = "PROMPT-MARK-77"
LIMITS = {"body_bytes": 20_000, "head_bytes": 4_000, "body_s": 0.3, "head_s": 0.3}
CHAT = "/v1/chat/completions"
Made = tuple[bytes, set[int]]  # what is written, and the statuses that are right; 0: none


def post(body: bytes, path: str = CHAT, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


# Where something is nested, levels around it, and the path.
USER = '{"role":"user","content":"x"}'
DEEP = [
    (f'{{"messages":[{USER}],"metadata":$}}', 1, CHAT),
    (f'{{"messages":[{USER}],"tools":[{{"function":$}}]}}', 3, CHAT),
    (f'{{"messages":[{USER},$]}}', 2, CHAT),
    ('{"messages":[{"role":"user","content":$}]}', 3, CHAT),
    (f'{{"messages":[{USER}],"response_format":{{"schema":$}}}}', 2, CHAT),
    ('{"prompt":$}', 1, "/v1/completions"),
    ('{"input":$}', 1, "/v1/embeddings"),
    ('{"input":$,"instructions":"x"}', 1, "/v1/responses"),
]


def sound(chance: random.Random, **fields: Any) -> bytes:
    words = f"{MARK} " * chance.randrange(1, 40)
    body = {"messages": [{"role": "user", "content": words}], "model": "support", **fields}
    return json.dumps(body).encode()


def valid(chance: random.Random) -> Made:
    return post(sound(chance, stream=chance.random() < 0.5)), {200}


def other_paths(chance: random.Random) -> Made:
    path = chance.choice(["/v1/completions", "/v1/embeddings", "/v1/responses"])
    return post(json.dumps({"prompt": MARK, "input": MARK}).encode(), path), {200}


def broken_json(chance: random.Random) -> Made:
    raw = sound(chance)
    return post(raw[: chance.randrange(len(raw))]), {400}


def invalid_utf8(chance: random.Random) -> Made:
    raw = bytearray(sound(chance))
    raw[raw.index(MARK.encode()) + chance.randrange(5)] = chance.choice([0xFF, 0xC0, 0x80])
    return post(bytes(raw)), {400}


def deep(chance: random.Random) -> Made:
    """Up to 9,000 levels, as often few as many, somewhere in the body: 250 in all are served."""
    depth = chance.choice([chance.randrange(1, 300), chance.randrange(1, 1200)])
    depth = chance.choice([depth, depth, chance.randrange(1, 9_001)])
    opened, closed = (b"[", b"]") if chance.random() < 0.5 else (b'{"a":', b"}")
    inner = f'"{MARK}"'.encode()
    place, levels, path = chance.choice(DEEP)
    body = place.encode().replace(b"$", opened * depth + inner + closed * depth)
    allowed = {200} if depth + levels <= 250 else {400}
    return post(body, path), allowed if len(body) <= LIMITS["body_bytes"] else {413}


def odd_values(chance: random.Random) -> Made:
    odd = [None, True, 0, -1, 1e300, "", "x", [], [[]], {}, {"a": []}, "\u0000", "é" * 9]
    keys = ["messages", "model", "stream", "stream_options", "max_tokens", "tools", "logprobs", "n"]
    body = json.loads(sound(chance))
    for key in chance.sample(keys, chance.randrange(1, 4)):
        body[key] = chance.choice(odd)
    return post(json.dumps(body).encode()), {200, 400, 404}


def huge(chance: random.Random) -> Made:
    return post(sound(chance, fill="x" * chance.randrange(20_001, 60_000))), {413}


def huge_in_chunks(chance: random.Random) -> Made:
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    return head + b"2000\r\n" + b"x" * 0x2000 + b"\r\n" + b"6000\r\n" + b"x" * 0x6000, {413}


def headers_flood(chance: random.Random) -> Made:
    many = [f"x-{i}: {'a' * chance.randrange(50)}" for i in range(chance.randrange(400, 900))]
    return post(sound(chance), CHAT, *many), {431}


def odd_headers(chance: random.Random) -> Made:
    names = ["class", "deadline-ms", "priority", "streaming", "trust-zones"]
    values = ["", "nan", "1e999", "-5", "\xff\xfe", "a,b", "x" * 300]
    return post(sound(chance), CHAT, f"x-motley-{chance.choice(names)}: {chance.choice(values)}"), {
        200,
        400,
        503,
    }


def wrong_path(chance: random.Random) -> Made:
    path = chance.choice(["/", "/v1/%ff%fe", "/v1/chat", "/../etc", "/v1/models/x", "//"])
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode(), {404}


def wrong_method(chance: random.Random) -> Made:
    method = chance.choice(["GET", "PUT", "DELETE", "PATCH"])
    return f"{method} {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode(), {405}


def not_http(chance: random.Random) -> Made:
    return bytes(chance.choices(range(128, 256), k=40)) + b"\r\n\r\n", {400}


def two_lengths(chance: random.Random) -> Made:
    body = sound(chance)
    return post(body, CHAT, "transfer-encoding: chunked"), {400}


def endless_head(chance: random.Random) -> Made:
    return b"GET /health HTTP/1.1\r\nx: " + b"a" * chance.randrange(5_000, 9_000), {431, 400}


def half_a_body(chance: random.Random) -> Made:
    return post(sound(chance))[:-5], {408}


def leaves_early(chance: random.Random) -> Made:
    return post(sound(chance, stream=True)), {0}


def probes(chance: random.Random) -> Made:
    path = chance.choice(["/health", "/ready", "/metrics", "/v1/models"])
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode(), {200}


def branched(chance: random.Random) -> Made:
    """Asks for branches, mostly rightly; a seed may be as large as JSON's readers take."""
    seed = chance.choice([None, 0, -1, 7, 2**63 - 1, 2**63, 2**64 - 1, 2**70, "x", True])
    field = chance.choice(
        [{"samples": 3}, {"samples": 2, "stop_after": 2, "choose": "Vote"}, {"samples": 2**70}, 5]
    )
    header = chance.choice(["2/1", "3", "off", "0", "9/9/9", "99"])
    fields: dict[str, Any] = {"seed": seed, "stream": chance.random() < 0.5}
    if chance.random() < 0.5:
        fields["motley_branches"] = field
        return post(sound(chance, **fields)), {200, 400}
    return post(sound(chance, **fields), CHAT, f"x-motley-branches: {header}"), {200, 400}


def of_a_class(chance: random.Random) -> Made:
    name = chance.choice(["short", "long", "none"])
    body = sound(chance, max_tokens=chance.choice([1, 50, 10**9]), stream=chance.random() < 0.5)
    return post(body, CHAT, f"x-motley-class: {name}"), {400} if name == "none" else {200}


COMMON: list[Callable[[random.Random], Made]] = [
    valid, other_paths, broken_json, invalid_utf8, deep, odd_values, huge, huge_in_chunks,
    headers_flood, odd_headers, wrong_path, wrong_method, not_http, two_lengths, endless_head,
    leaves_early, probes,
]  # fmt: skip
RARE = [half_a_body]  # each waits for a time-out
CASCADE = [*COMMON, branched, branched, branched, of_a_class, of_a_class]
KEYS = {"alice": "key-a\nweight=3\n", "bob": "key-b\nconcurrency=2\n"}


def with_key(made: Made, chance: random.Random) -> Made:
    """A request with a key, mostly a right one; what limits and credits may add to its statuses."""
    name = chance.choice(["key-a", "key-a", "key-a", "key-b", "key-?"])
    line = f"host: x\r\nauthorization: Bearer {name}\r\n".encode()
    statuses = made[1] | {503} if made[1] != {0} else made[1]
    if made[1] != {0} and name != "key-a":
        statuses = statuses | ({401} if name == "key-?" else {429})
    return made[0].replace(b"host: x\r\n", line, 1), statuses


async def ask(port: int, made: Made) -> int:
    """The status of the answer; 0 where the client left."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(made[0])
        if made[1] == {0}:
            await asyncio.sleep(0.005)
            return 0
        line = await asyncio.wait_for(reader.readline(), 10)
        return int(line.split()[1])
    finally:
        writer.transport.abort()


async def fuzzed(
    gateway: Any,
    count: int,
    kinds: list[Callable[[random.Random], Made]] = COMMON,
    change: Callable[[Made, random.Random], Made] = lambda made, chance: made,
) -> Counter[str]:
    port, chance = int(gateway.url.rsplit(":", 1)[1]), random.Random(20)
    wrong: Counter[str] = Counter()
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            kind = RARE[0] if number % 100 == 99 else chance.choice(kinds)
            made = change(kind(chance), chance)
            status = await ask(port, made)
            if status not in made[1]:
                wrong[f"{kind.__name__} -> {status}"] += 1

    await asyncio.gather(*(worker() for _ in range(16)))
    return wrong


def standing() -> tuple[int, int]:
    """Tasks of this loop and open files of this process."""
    gc.collect()
    return len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))


async def nothing_is_left(
    app: Any, engines: list[Any], before: tuple[int, int], eventually: Any, caplog: Any
) -> None:
    await eventually(lambda: app.in_flight == 0)
    await eventually(lambda: sum(engine.open_streams for engine in engines) == 0)
    assert (app.share.at_work, app.share.waiting, app.live.at_work) == (0, 0, {})
    assert app.live.current is not None and app.live.current.in_flight() == 0, "credits are back"
    # Connections to engines are pooled, a few more or less, and go when they are idle for 3 s.
    await eventually(lambda: all(a <= b + 2 for a, b in zip(standing(), before, strict=True)), 8)
    records = "\n".join(str(vars(record)) for record in caplog.records)
    assert MARK not in records and "unexpected error" not in records


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files by /proc")
async def test_fuzzed_requests_get_the_right_status_and_leave_nothing_behind(
    start_engine: Any,
    start_gateway: Any,
    routing_of: Any,
    replica_of: Any,
    eventually: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="motley.gateway")
    engines = [await start_engine(name, chunk_delay_s=0.001) for name in ("r0", "r1")]
    document = routing_of(("main", [replica_of(engine) for engine in engines]))
    gateway = await start_gateway(document, limits=LIMITS)
    app = gateway.gateway
    assert not await fuzzed(gateway, 40)  # opens what stays open: pools, lazily made tasks
    await eventually(lambda: app.in_flight == 0)
    await asyncio.sleep(0.1)
    before = standing()

    assert not await fuzzed(gateway, 10_000)

    await nothing_is_left(app, engines, before, eventually, caplog)
    assert (await gateway.chat()).status == 200
    assert sum(len(engine.seen) for engine in engines) > 500


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files by /proc")
async def test_a_fuzzed_cascade_with_credits_keys_classes_and_branches_gives_everything_back(
    start_engine: Any,
    start_gateway: Any,
    routing_of: Any,
    replica_of: Any,
    eventually: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="motley.gateway")
    for name, text in KEYS.items():
        (tmp_path / name).write_text(text)
    engines = [await start_engine(f"r{i}", chunk_delay_s=0.001) for i in range(4)]
    engines[1].token_probability = 0.01  # half of what the first stage says is escalated
    rates = {"rates": {"short": 1.0, "long": 1.0}, "capacity": {"short": 2.0, "long": 2.0}}
    planned = [replica_of(engine, kv_tokens=2_000, **rates) for engine in engines]
    document = routing_of(("small", planned[:2]), ("large", planned[2:]))
    sizes = {"short": 100, "long": 3_000}
    document["classes"] = [
        {"name": name, "prompt_tokens": size, "output_tokens": 50} for name, size in sizes.items()
    ]
    document["stages"][1]["branches"] = {"samples": 3, "stop_after": 2}
    gateway = await start_gateway(
        document, limits=LIMITS, api_keys_dir=tmp_path, sharing={"in_flight": 12, "wait_s": 2.0}
    )
    app = gateway.gateway
    assert not await fuzzed(gateway, 40, CASCADE, with_key)
    await eventually(lambda: app.in_flight == 0)
    await asyncio.sleep(0.1)
    before = standing()

    assert not await fuzzed(gateway, 3_000, CASCADE, with_key)

    await nothing_is_left(app, engines, before, eventually, caplog)
    queues = app._cascade._caller._credits.queues
    assert {name: queue.used for name, queue in queues.items()} == {e.name: 0.0 for e in engines}
    line = 'motley_gateway_branches_total{outcome="%s",stage="large"}'
    assert await gateway.metric(line % "completed") > 100, "branches ran"
    assert await gateway.metric("motley_gateway_escalations_total{") > 100, "stages were passed"
    assert await gateway.metric('motley_gateway_refused_requests_total{reason="concurrency"}') > 0
