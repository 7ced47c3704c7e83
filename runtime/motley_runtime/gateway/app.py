"""The gateway as a raw ASGI application.

One request: read and bound it, tell its class, wait for its turn, draw its policy, run the cascade,
count it. A watch on the client's connection cancels the work when that closes, which closes the
connection to the engine too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import orjson

from motley_planner.dispatch import Dispatcher
from motley_runtime.gateway.admission import client_of, dispatcher_of, job_of, model_known
from motley_runtime.gateway.auth import ApiKeys
from motley_runtime.gateway.branch_requests import places_of
from motley_runtime.gateway.branch_scores import RewardPool
from motley_runtime.gateway.branches import Branches
from motley_runtime.gateway.calls import Caller
from motley_runtime.gateway.cascade import Cascade
from motley_runtime.gateway.credits import Credits
from motley_runtime.gateway.errors import GatewayError, NothingThere, UpstreamError
from motley_runtime.gateway.estimators import check_rules
from motley_runtime.gateway.exchange import (
    CLIENT,
    ClientGone,
    ClientWatch,
    Receive,
    Reply,
    Scope,
    Send,
    check_length,
    read_body,
    unless_gone,
)
from motley_runtime.gateway.fair_share import FairShare
from motley_runtime.gateway.job import Job
from motley_runtime.gateway.last_good import LastGood
from motley_runtime.gateway.live_routing import LiveRouting
from motley_runtime.gateway.metrics import Metrics
from motley_runtime.gateway.observing import Place, observing
from motley_runtime.gateway.openai_api import PATHS, parse_request
from motley_runtime.gateway.options import GatewaySettings
from motley_runtime.gateway.prefixes import PrefixIndex
from motley_runtime.gateway.probes import model_body, models_body, readiness
from motley_runtime.gateway.recording import record
from motley_runtime.gateway.relief import Relief
from motley_runtime.gateway.steps import Steps
from motley_runtime.gateway.telemetry import tracing_to
from motley_runtime.gateway.tracing import now_ns
from motley_runtime.gateway.upstream import HttpUpstream
from motley_runtime.gateway.waking import Waking

log = logging.getLogger("motley.gateway")

_JSON = b"application/json"
_CLIENT_GONE = 499  # nginx's status for "client closed request"; only metrics and logs see it
_ID_CHARACTERS = 128
_MODELS = "/v1/models"
_METHODS = {**dict.fromkeys(PATHS, "POST"), _MODELS: "GET"}
_PROBES = ("/health", "/ready", "/metrics")


class Gateway:
    """One gateway: its routing, its metrics and the application in front of them."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.live = LiveRouting(
            self.metrics,
            affinity=PrefixIndex() if settings.affinity == "prefix" else None,
            trust_zones=settings.trust_zones,
            last_good=LastGood(settings.state_dir) if settings.state_dir else None,
            check=partial(check_rules, commands_dir=settings.commands_dir),
        )
        self.live.restore()
        self.is_draining = False
        self.in_flight = 0
        self.share = FairShare(settings.sharing, self.metrics)
        self.steps = Steps(self.metrics)
        self.waking = Waking(self.live, self.metrics)
        self.tracing = tracing_to(settings.otlp_endpoint, settings.otlp_share)
        self.relief = Relief(self.metrics.quality)
        self._keys = ApiKeys(settings.api_keys_dir) if settings.api_keys_dir else None
        self._cascade: Cascade | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Holds the connections to engines while it is entered."""
        settings = self.settings
        upstream = HttpUpstream(settings.limits)
        credits = Credits(self.metrics, settings.sharing.wait_s)
        caller = Caller(upstream, self.metrics, settings.limits, credits)
        judge = RewardPool(upstream, self.metrics, settings.trust_zones)
        branches = Branches(caller, judge, self.metrics)
        self._cascade = Cascade(
            caller, self.metrics, branches, settings.optimistic_tokens, settings.commands_dir
        )
        self.waking.is_well = upstream.is_well

        def is_busy() -> bool:
            return self.is_draining or self.share.waiting > 0 or credits.waiting > 0

        place = Place(settings, self.live, self.metrics.quality, is_busy)
        try:
            async with observing(place, self._cascade, caller):
                yield
        finally:
            await self.waking.close()
            self._cascade = None
            await upstream.close()
            await asyncio.to_thread(self.tracing.close)

    def begin_drain(self) -> None:
        """Stops being ready; requests are still answered until the server closes."""
        self.is_draining = True
        self.metrics.draining.set(1)
        self.waking.send_away()

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
            await self._route(scope, receive, reply, headers, request_id)
        except ClientGone:
            pass
        except UpstreamError:
            pass  # told to the client in its stream, and counted
        except GatewayError as error:
            await _refuse(reply, error)
        except Exception:
            log.exception("unexpected error", extra={"fields": {"request_id": request_id}})
            if not reply.is_started:
                await _refuse(reply, GatewayError(500, "the gateway failed", "internal_error"))

    async def _route(
        self,
        scope: Scope,
        receive: Receive,
        reply: Reply,
        headers: Mapping[bytes, bytes],
        request_id: str,
    ) -> None:
        path, method = scope["path"], scope["method"]
        _check_head(scope, self.settings.limits.head_bytes)
        if path in _PROBES:
            await self._probe(path, reply)
            return
        expected = "GET" if path.startswith(_MODELS + "/") else _METHODS.get(path)
        if expected is None:
            raise GatewayError(404, f"no such path: {path[:200]}", "unknown_path")
        if method != expected:
            raise GatewayError(405, f"{path[:200]} takes {expected} only", "method_not_allowed")
        client = client_of(self._keys, headers)
        if path.startswith(_MODELS):
            await self._models(path, dispatcher_of(self.live), reply)
            return
        if self.live.current is not None:
            self.share.gateways = self.live.current.table.gateways
        self.share.charge(client)
        self.in_flight += 1
        self.metrics.in_flight.inc()
        try:
            limits = self.settings.limits
            check_length(headers, limits.body_bytes)
            raw = await read_body(receive, limits.body_bytes, limits.body_s)
            dispatcher = dispatcher_of(self.live)
            job = job_of(self.settings, parse_request(path, raw), client, headers, dispatcher)
            job.request_id = request_id
            self.steps.arrived(job, headers)
            job.trace = self.tracing.begin(headers, f"{method} {path}")
            del raw
            await self._answer(job, scope[CLIENT], reply)
        finally:
            self.in_flight -= 1
            self.metrics.in_flight.dec()

    async def _models(self, path: str, dispatcher: Dispatcher, reply: Reply) -> None:
        if path == _MODELS:
            body = models_body(dispatcher.table)
        else:
            name = path.removeprefix(_MODELS + "/")
            model_known(dispatcher.table, name)
            body = model_body(name, dispatcher.table)
        await reply.whole(200, _JSON, orjson.dumps(body))

    async def _probe(self, path: str, reply: Reply) -> None:
        if path == "/metrics":
            await reply.whole(200, self.metrics.content_type, self.metrics.render())
        elif path == "/health":
            await reply.whole(200, _JSON, b'{"status":"ok"}')
        else:
            is_ready, body = readiness(self.live, self.is_draining, self.in_flight)
            await reply.whole(200 if is_ready else 503, _JSON, orjson.dumps(body))

    async def _answer(self, job: Job, client: ClientWatch, reply: Reply) -> None:
        began_s = time.monotonic()
        reply.add_header(b"x-motley-plan", job.dispatcher.table.plan_hash.encode())
        status = _CLIENT_GONE
        try:
            await unless_gone(self._run(job, reply), client)
            status = reply.status
        except UpstreamError:
            status = 502
            raise
        except GatewayError as error:
            status = error.status
            raise
        except ClientGone:
            raise
        except Exception:
            status = 500
            raise
        finally:
            record(job, status, began_s, self.metrics)
            self.steps.ended(job, time.monotonic() - began_s, status == 200)

    async def _run(self, job: Job, reply: Reply) -> None:
        """Runs the job, and holds it where no replica is there; as long as the table lets it."""
        is_missing = False
        while True:
            if is_missing or self.waking.wants(job.dispatcher):
                with job.trace.span("motley.hold"):
                    await self.waking.hold(job)
                reply.set_header(b"x-motley-plan", job.dispatcher.table.plan_hash.encode())
            try:
                with self.live.working(job.dispatcher):
                    await self._run_now(job, reply)
                return
            except NothingThere:
                if reply.is_started or job.dispatcher.table.hold is None:
                    raise
                is_missing = True

    async def _run_now(self, job: Job, reply: Reply) -> None:
        """Waits for the job's turn, draws its policy and runs it through the stages."""
        asked_ns, asked_s = now_ns(), time.monotonic()
        async with self.share.place(job.client, job.priority, places_of(job)):
            job.queued_s = time.monotonic() - asked_s
            job.trace.waited("motley.queue", asked_ns)
            if job.request.is_scored:
                job.policy = job.dispatcher.draw_policy(job.class_name)
                relief = job.dispatcher.table.relief
                if relief is not None and job.policy is not None:
                    job.policy = self.relief.followed(job, relief)
            if job.policy is not None:
                self.metrics.policies.labels(job.policy.id).inc()
            assert self._cascade is not None, "requests are served inside running() only"
            await self._cascade.run(job, reply)


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
    return os.urandom(16).hex()
