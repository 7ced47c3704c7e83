"""The gateway as a raw ASGI application.

One request: read and bound it, tell its class, draw its policy, run the cascade, count it. The
work runs beside a watch on the client's connection, and is cancelled when that closes, which
closes the connection to the engine too.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson

from motley_planner.dispatch import Dispatcher
from motley_runtime.gateway.admission import class_of, client_of, dispatcher_of, model_known
from motley_runtime.gateway.auth import ApiKeys
from motley_runtime.gateway.calls import Caller
from motley_runtime.gateway.cascade import Cascade, Job
from motley_runtime.gateway.errors import GatewayError, UpstreamError
from motley_runtime.gateway.exchange import (
    ClientGone,
    Receive,
    Reply,
    Scope,
    Send,
    read_body,
    until_disconnect,
)
from motley_runtime.gateway.live_routing import LiveRouting
from motley_runtime.gateway.metrics import Metrics
from motley_runtime.gateway.openai_api import CHAT, COMPLETIONS, parse_request
from motley_runtime.gateway.options import GatewaySettings
from motley_runtime.gateway.probes import models_body, readiness
from motley_runtime.gateway.upstream import AiohttpUpstream

log = logging.getLogger("motley.gateway")

_JSON = b"application/json"
_CLIENT_GONE = 499  # nginx's status for "client closed request"; only metrics and logs see it
_ID_CHARACTERS = 128
_METHODS = {CHAT: "POST", COMPLETIONS: "POST", "/v1/models": "GET"}
_PROBES = ("/health", "/ready", "/metrics")


class Gateway:
    """One gateway: its routing, its metrics and the application in front of them."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.live = LiveRouting(self.metrics)
        self.is_draining = False
        self.in_flight = 0
        self._keys = ApiKeys(settings.api_keys_dir) if settings.api_keys_dir else None
        self._cascade: Cascade | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Holds the connections to engines while it is entered."""
        limits = self.settings.limits
        upstream = AiohttpUpstream(limits)
        self._cascade = Cascade(Caller(upstream, self.metrics, limits.attempts), self.metrics)
        try:
            yield
        finally:
            self._cascade = None
            await upstream.close()

    def begin_drain(self) -> None:
        """Stops being ready; requests are still answered until the server closes."""
        self.is_draining = True
        self.metrics.draining.set(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        if scope["type"] != "http":
            raise ValueError(f"the gateway speaks HTTP only, not {scope['type']}")
        headers = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id"))
        extra = [(b"x-request-id", request_id.encode())]
        if self.is_draining:
            extra.append((b"connection", b"close"))
        reply = Reply(send, extra)
        try:
            await self._route(scope, receive, reply, request_id)
        except ClientGone:
            pass
        except GatewayError as error:
            await _refuse(reply, error)
        except Exception:
            log.exception("unexpected error", extra={"fields": {"request_id": request_id}})
            if not reply.is_started:
                await _refuse(reply, GatewayError(500, "the gateway failed", "internal_error"))

    async def _route(self, scope: Scope, receive: Receive, reply: Reply, request_id: str) -> None:
        path, method = scope["path"], scope["method"]
        _check_head(scope, self.settings.limits.head_bytes)
        if path in _PROBES:
            await self._probe(path, reply)
            return
        expected = _METHODS.get(path)
        if expected is None:
            raise GatewayError(404, f"no such path: {path[:200]}", "unknown_path")
        if method != expected:
            raise GatewayError(405, f"{path} takes {expected} only", "method_not_allowed")
        headers = dict(scope["headers"])
        client = client_of(self._keys, headers)
        dispatcher = dispatcher_of(self.live)
        if path == "/v1/models":
            await reply.whole(200, _JSON, orjson.dumps(models_body(dispatcher.table)))
            return
        self.in_flight += 1
        self.metrics.in_flight.inc()
        try:
            await self._complete(
                path, receive, reply, _Context(dispatcher, headers, request_id, client)
            )
        finally:
            self.in_flight -= 1
            self.metrics.in_flight.dec()

    async def _probe(self, path: str, reply: Reply) -> None:
        if path == "/metrics":
            await reply.whole(200, self.metrics.content_type, self.metrics.render())
        elif path == "/health":
            await reply.whole(200, _JSON, b'{"status":"ok"}')
        else:
            is_ready, body = readiness(self.live, self.is_draining, self.in_flight)
            await reply.whole(200 if is_ready else 503, _JSON, orjson.dumps(body))

    async def _complete(self, path: str, receive: Receive, reply: Reply, context: _Context) -> None:
        limits, table = self.settings.limits, context.dispatcher.table
        began_s = time.monotonic()
        raw = await read_body(receive, limits.body_bytes, limits.body_s)
        request = parse_request(path, raw)
        model_known(table, request.model)
        class_name = class_of(table, request, context.headers.get(b"x-motley-class"))
        policy = context.dispatcher.draw_policy(class_name)
        reply.add_header(b"x-motley-plan", table.plan_hash.encode())
        if policy is not None:
            self.metrics.policies.labels(policy.id).inc()
        job = Job(request, context.request_id, context.dispatcher, class_name, policy)
        assert self._cascade is not None, "requests are served inside running() only"
        status = _CLIENT_GONE
        try:
            await _unless_gone(self._cascade.run(job, reply), receive)
            status = reply.status
        except UpstreamError:
            status = 502
        except GatewayError as error:
            status = error.status
            raise
        except ClientGone:
            raise
        except Exception:
            status = 500
            raise
        finally:
            self._record(job, status, began_s, context.client)

    def _record(self, job: Job, status: int, began_s: float, client: str | None) -> None:
        duration_s = time.monotonic() - began_s
        self.metrics.requests.labels(job.stage, str(status), job.class_name).inc()
        self.metrics.duration_s.labels(job.class_name).observe(duration_s)
        fields = {
            "request_id": job.request_id,
            "status": status,
            "class": job.class_name,
            "policy": job.policy.id if job.policy else None,
            "path": ",".join(job.visits),
            "plan": job.dispatcher.table.plan_hash,
            "client": client,
            "stream": job.request.is_stream,
            "duration_s": round(duration_s, 4),
        }
        if job.request.is_stream and job.first_bytes_s is not None:
            fields["ttft_s"] = round(job.first_bytes_s - began_s, 4)
            self.metrics.ttft_s.labels(job.class_name).observe(job.first_bytes_s - began_s)
        log.info("request", extra={"fields": fields})


class _Context:
    """What is known of a request before its body is read."""

    __slots__ = ("client", "dispatcher", "headers", "request_id")

    def __init__(
        self,
        dispatcher: Dispatcher,
        headers: Mapping[bytes, bytes],
        request_id: str,
        client: str | None,
    ) -> None:
        self.dispatcher, self.headers = dispatcher, headers
        self.request_id, self.client = request_id, client


async def _unless_gone(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Runs the work to its end, or cancels it when the client closes its connection.

    Raises: ClientGone; whatever the work raises.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(until_disconnect(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        working.result()
    finally:
        for task in (working, watching):
            if not task.done():
                task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _refuse(reply: Reply, error: GatewayError) -> None:
    headers = []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    if error.status in (408, 413, 431):
        headers.append((b"connection", b"close"))
    await reply.whole(error.status, _JSON, error.body(), headers)


def _check_head(scope: Scope, limit_bytes: int) -> None:
    size = len(scope["raw_path"]) + sum(len(n) + len(v) + 4 for n, v in scope["headers"])
    if size > limit_bytes:
        raise GatewayError(431, f"headers are larger than {limit_bytes} bytes", "headers_too_large")


def _request_id(given: bytes | None) -> str:
    """The client's request id where it is short and plain, else a new one."""
    if given and len(given) <= _ID_CHARACTERS and given.isascii():
        text = given.decode()
        if text.isprintable():
            return text
    return uuid.uuid4().hex
