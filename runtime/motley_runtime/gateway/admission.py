"""Who asks, for which model, in which class and how urgently: all that is decided before dispatch."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping

from motley_planner.dispatch import Dispatcher, RoutingTable, classify
from motley_runtime.gateway.auth import ApiKeys
from motley_runtime.gateway.branch_requests import HEADER as BRANCHES
from motley_runtime.gateway.branch_requests import branches_asked
from motley_runtime.gateway.clients import ANYBODY, Client
from motley_runtime.gateway.errors import GatewayError
from motley_runtime.gateway.job import Job
from motley_runtime.gateway.live_routing import LiveRouting
from motley_runtime.gateway.openai_api import ParsedRequest, max_output_tokens, prompt_tokens
from motley_runtime.gateway.options import GatewaySettings
from motley_runtime.gateway.prefixes import prompt_key

RawHeaders = Mapping[bytes, bytes]

_PRIORITIES = 1000  # -1000 to 1000
_DEADLINE_MS = 86_400_000  # a day
_SINCE_1970_MS = 1e12  # September 2001: what is larger is a time, what is smaller a duration


def client_of(keys: ApiKeys | None, headers: RawHeaders) -> Client:
    """The client that asks; anybody where the gateway has no keys. Raises: GatewayError 401."""
    return ANYBODY if keys is None else keys.client(headers.get(b"authorization"))


def dispatcher_of(live: LiveRouting) -> Dispatcher:
    """The dispatcher in force. Raises: GatewayError 503 before the first plan."""
    if live.current is None:
        raise GatewayError(503, "the gateway has no plan yet", "no_plan", retry_after_s=2)
    return live.current


def job_of(
    settings: GatewaySettings,
    request: ParsedRequest,
    client: Client,
    headers: RawHeaders,
    dispatcher: Dispatcher,
) -> Job:
    """The job a request makes: model, class, deadline and the rest. Raises: GatewayError 400, 404."""
    table = dispatcher.table
    model_known(table, request.model)
    class_name = class_of(table, request, headers.get(b"x-motley-class"))
    mode = _streaming(headers.get(b"x-motley-streaming"), settings.streaming)
    wants_key = settings.affinity == "prefix" and (
        table.hold is not None or any(len(s.every_replica) > 1 for s in table.stages)
    )
    session = headers.get(b"x-session-id")
    adapter = request.model if request.model in table.stages[-1].adapters else None
    return Job(
        request=request,
        request_id="",
        dispatcher=dispatcher,
        class_name=class_name,
        policy=None,
        client=client,
        priority=_priority(headers.get(b"x-motley-priority"), client),
        trust_zones=_zones(headers.get(b"x-motley-trust-zones"), client),
        prompt_key=prompt_key(request, session, adapter) if wants_key else None,
        adapter=adapter or "",
        deadline_s=_deadline(headers.get(b"x-motley-deadline-ms"), settings.deadline_s),
        is_optimistic=mode == "optimistic" and _is_told_by_its_beginning(request),
        branches=branches_asked(request, headers.get(BRANCHES), table, settings.most_branches),
    )


def model_known(table: RoutingTable, model: str | None) -> None:
    """Checks the model a client names; one that names none gets the only thing served here.

    Raises: GatewayError 404.
    """
    if model is not None and model not in table.model_names:
        served = ", ".join(table.model_names)
        message = f"model {model[:200]!r} is not served here; served: {served}"
        raise GatewayError(404, message, "model_not_found", "model")


def class_of(table: RoutingTable, request: ParsedRequest, declared: bytes | None) -> str:
    """The class a request declares in x-motley-class, else the one of nearest prompt length.

    Raises: GatewayError 400 for a declared class the plan does not have.
    """
    if declared is not None:
        name = declared.decode("latin-1")
        if all(name != each.name for each in table.classes):
            known = ", ".join(each.name for each in table.classes)
            message = f"x-motley-class {name[:200]!r} is not a class of this plan; classes: {known}"
            raise GatewayError(400, message, "unknown_class")
        return name
    if len(table.classes) == 1:
        return table.classes[0].name
    return classify(table.classes, prompt_tokens(request), max_output_tokens(request)).name


def _priority(given: bytes | None, client: Client) -> int:
    """The client's priority; a request may lower it, and raise it where nobody has one."""
    if given is None:
        return client.priority
    value = int(_number(given, "x-motley-priority", _PRIORITIES))
    return value if client is ANYBODY else min(value, client.priority)


def _zones(given: bytes | None, client: Client) -> frozenset[str] | None:
    """The trust zones of a request: its own within its client's."""
    if given is None:
        return client.trust_zones
    named = frozenset(zone.strip() for zone in given.decode("latin-1").split(","))
    return named if client.trust_zones is None else named & client.trust_zones


def _deadline(given: bytes | None, default_s: float | None) -> float | None:
    if given is not None:
        left_ms = _left_ms(given)
        return asyncio.get_running_loop().time() + max(0.0, left_ms) / 1000.0
    return None if default_s is None else asyncio.get_running_loop().time() + default_s


def _left_ms(given: bytes) -> float:
    """Milliseconds left: as they are, or until a time that is given since 1970."""
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    left_ms = value - time.time() * 1000.0 if value >= _SINCE_1970_MS else value
    if math.isnan(left_ms) or abs(left_ms) > _DEADLINE_MS:
        text = f"x-motley-deadline-ms must be a number from {-_DEADLINE_MS} to {_DEADLINE_MS}, or "
        text += "milliseconds since 1970 that are within a day from now"
        raise GatewayError(400, text, "invalid_header", "x-motley-deadline-ms")
    return left_ms


def _streaming(given: bytes | None, default: str) -> str:
    if given is None:
        return default
    mode = given.decode("latin-1")
    if mode not in ("buffer", "optimistic"):
        text = "x-motley-streaming must be buffer or optimistic"
        raise GatewayError(400, text, "invalid_header", "x-motley-streaming")
    return mode


def _is_told_by_its_beginning(request: ParsedRequest) -> bool:
    """Whether an answer's first tokens can be judged: not of a form, nor of several choices."""
    body = request.body
    return not body.get("response_format") and body.get("n") in (None, 1)


def _number(given: bytes, name: str, most: float) -> float:
    try:
        value = float(given)
    except ValueError:
        value = float("nan")
    if not -most <= value <= most:
        text = f"{name} must be a number from {-most} to {most}"
        raise GatewayError(400, text, "invalid_header", name)
    return value
