"""Traces: the client's context goes on to engines; spans of our own say where the time went."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from motley_runtime.gateway.app import Gateway
from motley_runtime.gateway.options import GatewaySettings
from motley_runtime.gateway.telemetry import tracing_to
from motley_runtime.gateway.tracing import context_lines

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID = PARENT.split("-")[1]
SECRET = "the secret word is rhubarb"


@pytest.mark.parametrize(
    ("parent", "is_kept"),
    [
        (PARENT, True),
        (PARENT.replace("00-", "cc-", 1) + "-later", True),  # a later version may have more
        (PARENT + "-more", False),
        (PARENT.upper(), False),
        (PARENT.replace("00-", "ff-", 1), False),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", False),
        (f"00-{TRACE_ID}-{'0' * 16}-01", False),
        ("00-1-2-3", False),
        ("", False),
    ],
)
def test_a_trace_parent_is_passed_on_if_it_is_one(parent: str, is_kept: bool) -> None:
    lines = context_lines({b"traceparent": parent.encode(), b"tracestate": b"a=1,b=2"})
    kept = f"traceparent: {parent[:55]}\r\ntracestate: a=1,b=2\r\n"
    assert lines == (kept.encode() if is_kept else b"")


async def test_without_an_endpoint_engines_get_the_clients_context_as_it_is(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any
) -> None:
    small = await start_engine("small", token_probability=0.1)
    large = await start_engine("large")
    document = routing_of(("small", [replica_of(small)]), ("large", [replica_of(large)]))
    gateway = await start_gateway(document)
    headers = {"traceparent": PARENT, "tracestate": "vendor=x"}
    for stream in (False, True):
        response = await gateway.chat(headers=headers, stream=stream)
        assert response.status == 200
        for engine in (small, large):
            assert engine.headers[-1]["traceparent"] == PARENT
            assert engine.headers[-1]["tracestate"] == "vendor=x"
    await gateway.chat(headers={"traceparent": "not one\x80", "tracestate": "vendor=x"})
    assert "traceparent" not in small.headers[-1] and "tracestate" not in small.headers[-1]


def test_an_endpoint_without_the_extra_says_what_to_install(monkeypatch: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "motley_runtime.gateway.otel", None)
    with pytest.raises(RuntimeError, match=r"pip install 'motley\[otel\]'"):
        tracing_to("http://collector:4318", 1.0)
    with pytest.raises(RuntimeError, match="--otlp-endpoint"):
        Gateway(GatewaySettings(otlp_endpoint="http://collector:4318"))


class Spans:
    """A gateway's spans, kept in memory."""

    def __init__(self) -> None:
        pytest.importorskip("opentelemetry.sdk")
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        from motley_runtime.gateway.otel import OtelTracing

        self._exporter = InMemorySpanExporter()
        self.tracing = OtelTracing(SimpleSpanProcessor(self._exporter))

    def all(self) -> list[Any]:
        return list(self._exporter.get_finished_spans())

    def tree(self) -> dict[str, list[tuple[str, str]]]:
        """(name, parent's name) of each span, by trace."""
        names = {span.context.span_id: span.name for span in self.all()}
        found: dict[str, list[tuple[str, str]]] = {}
        for span in self.all():
            above = names.get(span.parent.span_id, "client") if span.parent else ""
            found.setdefault(f"{span.context.trace_id:032x}", []).append((span.name, above))
        return found


@pytest.fixture
def spans() -> Spans:
    return Spans()


async def traced(start_gateway: Any, document: dict[str, Any], spans: Spans) -> Any:
    gateway = await start_gateway(document)
    gateway.gateway.tracing = spans.tracing
    return gateway


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cascade_shows_its_queue_its_stages_and_every_call(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, spans: Spans,
    stream: bool, eventually: Any,
) -> None:  # fmt: skip
    small = await start_engine("small", token_probability=0.1)
    broken = await start_engine("broken", status=500)
    large = await start_engine("large")
    replicas = [replica_of(broken, rates={"all": 9.0}, capacity={"all": 9.0})]
    replicas.append(replica_of(large, rates={"all": 0.01}))
    document = routing_of(("small", [replica_of(small)]), ("large", replicas))
    gateway = await traced(start_gateway, document, spans)
    response = await gateway.chat(SECRET, headers={"traceparent": PARENT}, stream=stream)
    assert response.status == 200 and await response.read()
    await eventually(lambda: TRACE_ID in spans.tree() and len(spans.all()) == 7)
    assert spans.tree() == {
        TRACE_ID: [
            ("motley.queue", "POST /v1/chat/completions"),
            ("motley.call", "motley.stage"),
            ("motley.stage", "POST /v1/chat/completions"),
            ("motley.call", "motley.stage"),
            ("motley.call", "motley.stage"),
            ("motley.stage", "POST /v1/chat/completions"),
            ("POST /v1/chat/completions", "client"),
        ]
    }
    root = next(span for span in spans.all() if span.name.startswith("POST"))
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["motley.path"] == "small:0.1000,large"
    failed = [s.status.description for s in spans.all() if not s.status.is_ok]
    calls = [s for s in spans.all() if s.name == "motley.call"]
    assert [s.attributes["motley.replica"] for s in calls] == ["small", "broken", "large"]
    assert [s.status.description for s in calls] == [None, "status", None], failed
    ids = [f"{span.context.span_id:016x}" for span in calls]
    told = [engine.headers[-1]["traceparent"].split("-") for engine in (small, broken, large)]
    assert [each[1] for each in told] == [TRACE_ID] * 3
    assert [each[2] for each in told] == ids, "engines are children of the calls to them"


async def test_no_span_holds_anything_of_a_prompt_or_an_answer(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, spans: Spans
) -> None:
    engine = await start_engine("one", text="rhubarb " * 4)
    gateway = await traced(start_gateway, routing_of(("main", [replica_of(engine)])), spans)
    await gateway.chat(SECRET)
    await gateway.chat(SECRET, stream=True)
    engine.status = 400
    await gateway.chat(SECRET)
    engine.garbage, engine.status = True, 200
    await gateway.chat(SECRET)
    shown = "".join(span.to_json() for span in spans.all())
    assert shown.count("POST /v1") >= 4 and "rhubarb" not in shown and "secret" not in shown


async def test_what_fails_is_marked_and_a_client_that_leaves_ends_every_span(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, spans: Spans,
    eventually: Any,
) -> None:  # fmt: skip
    engine = await start_engine("slow", delay_s=30.0)
    gateway = await traced(start_gateway, routing_of(("main", [replica_of(engine)])), spans)
    task = asyncio.create_task(gateway.chat())
    await eventually(lambda: engine.seen)
    task.cancel()
    await eventually(lambda: len(spans.all()) == 4)
    root = next(span for span in spans.all() if span.name.startswith("POST"))
    assert root.attributes["http.response.status_code"] == 499
    call = next(span for span in spans.all() if span.name == "motley.call")
    assert call.status.description == "CancelledError"


async def test_the_wait_for_a_pool_at_zero_is_a_span(
    start_gateway: Any, routing_of: Any, spans: Spans
) -> None:
    document = routing_of(("main", []), hold={"requests": 2, "seconds": 0.1})
    gateway = await traced(start_gateway, document, spans)
    assert (await gateway.chat()).status == 503
    names = [(span.name, span.status.description) for span in spans.all()]
    assert ("motley.hold", "waking") in names


async def test_spans_reach_a_collector_over_http_and_the_share_is_kept(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, serve_app: Any
) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    got: list[Any] = []

    async def collect(request: web.Request) -> web.Response:
        raw = await request.read()
        if request.headers.get("content-encoding") == "gzip":
            raw = __import__("gzip").decompress(raw)
        got.append(ExportTraceServiceRequest.FromString(raw))
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/traces", collect)
    engine = await start_engine("one")
    async with serve_app(app) as url:
        tracing = tracing_to(url, 0.0)
        gateway = await start_gateway(routing_of(("main", [replica_of(engine)])))
        gateway.gateway.tracing = tracing
        await gateway.chat()  # of no trace, and the share is none
        assert not int(engine.headers[-1]["traceparent"][-2:], 16) & 1
        await gateway.chat(headers={"traceparent": PARENT})
        assert int(engine.headers[-1]["traceparent"][-2:], 16) & 1
        await asyncio.to_thread(tracing.close)
    spans = [
        s for g in got for r in g.resource_spans for scope in r.scope_spans for s in scope.spans
    ]
    assert {span.trace_id.hex() for span in spans} == {TRACE_ID}
    assert {span.name for span in spans} >= {"POST /v1/chat/completions", "motley.call"}
    assert "motley-gateway" in json.dumps([str(g) for g in got])
