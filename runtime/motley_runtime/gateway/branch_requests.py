"""What a request asks of branches, and what its branches ask of an engine.

`x-motley-branches: 8/4` starts 8 branches and stops after 4, `8` stops after half of them, `off`
starts none. The body's `motley_branches` is an object with the fields of a routing file's
`branches`; of the header and the body the header goes first. What is left out is the stage's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from motley_planner.dispatch import (
    BranchRule,
    RoutingError,
    RoutingTable,
    Stage,
    parse_branches,
    unknown_field,
)
from motley_runtime.gateway.bodies import body_for
from motley_runtime.gateway.errors import GatewayError
from motley_runtime.gateway.handshakes import is_pairable
from motley_runtime.gateway.job import Job
from motley_runtime.gateway.openai_api import ParsedRequest
from motley_runtime.gateway.scoring import wants_logprobs

HEADER, FIELD = b"x-motley-branches", "motley_branches"
_FORM = re.compile(rb"(\d{1,3})(?:/(\d{1,3}))?")
_CHARACTERS = 64  # of a name that is said back
_SERVED_ONLY = "may be set by the resource only, not by a request"


def branches_asked(
    request: ParsedRequest, header: bytes | None, table: RoutingTable, most: int
) -> Mapping[str, BranchRule] | None:
    """The rules by stage that a request asks for; None where it leaves that to its stages.

    Takes its field out of the body. `most`: samples a request may ask for where its stage's rule
    has not more. Raises: GatewayError 400 naming the header or the field.
    """
    if header is None and FIELD not in request.body:
        return None
    asked = dict(_object(request.body.pop(FIELD, {})))
    name = FIELD
    if header is not None:
        name = HEADER.decode()
        asked |= _of_header(header)
    _check(asked)
    found = {}
    for stage in table.stages:
        try:
            rule = parse_branches(asked, FIELD, stage.branches or BranchRule(1, 1))
        except RoutingError as error:
            at = name if header is not None and error.field.count(".") == 1 else error.field
            raise _refusal(at, error.rule) from error
        limit = max(most, stage.branches.samples if stage.branches else 1)
        if rule.samples > limit:
            raise _refusal(name, f"asks for {rule.samples} samples; at most {limit} are given")
        found[stage.name] = rule
    if any(rule.samples > 1 for rule in found.values()) and not is_pairable(request):
        rule_text = "needs one prompt and one choice (no n, best_of, echo, or list of prompts)"
        raise _refusal(name, rule_text)
    return found


def rule_of(job: Job, stage: Stage) -> BranchRule | None:
    """The rule that a job branches by at a stage; None where it does not."""
    rule = stage.branches if job.branches is None else job.branches.get(stage.name)
    if rule is None or rule.samples < 2 or not is_pairable(job.request):
        return None
    return rule


def places_of(job: Job) -> int:
    """Places at work that a job takes: its most branches at a time."""
    if job.branches is None and all(s.branches is None for s in job.dispatcher.table.stages):
        return 1
    rules = (rule_of(job, stage) for stage in job.dispatcher.table.stages)
    return max((rule.samples for rule in rules if rule is not None), default=1)


def stream_body(job: Job, stage: Stage, rule: BranchRule, logprobs: int) -> dict[str, Any]:
    """A branch's body: a stream with usage, and log-probabilities where somebody needs them."""
    body = {**body_for(job, stage), "stream": True}
    options = body.get("stream_options")
    body["stream_options"] = {**(options or {}), "include_usage": True}
    needed = max(logprobs, int(rule.needs_logprobs))
    if not needed:
        return body
    if job.request.is_chat:
        body["logprobs"] = True
        top = body.get("top_logprobs")
        if needed > 1 and not (isinstance(top, int) and top >= needed):
            body["top_logprobs"] = needed
    elif not wants_logprobs(body) or body["logprobs"] < needed:
        body["logprobs"] = needed
    return body


def _of_header(given: bytes) -> dict[str, Any]:
    if given == b"off":
        return {"samples": 1}
    found = _FORM.fullmatch(given)
    if found is None:
        raise _refusal(HEADER.decode(), "must be off, N or N/M: branches, and how many end it")
    asked = {"samples": int(found[1])}
    return asked | ({"stop_after": int(found[2])} if found[2] else {})


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _refusal(FIELD, "must be an object")
    return value


def _check(asked: Mapping[str, Any]) -> None:
    """A client's URL would make the gateway connect anywhere; its pattern could stall it."""
    for key, kind in (("score", "Reward"), ("extract", "Regex")):
        part = asked.get(key)
        if isinstance(part, Mapping) and part.get("type") == kind:
            raise _refusal(f"{FIELD}.{key}.type", f"{kind} {_SERVED_ONLY}")
    unknown = unknown_field(asked)
    if unknown is not None:
        raise _refusal(f"{FIELD}.{unknown[:_CHARACTERS]}", "is not known; leave it out")


def _refusal(param: str, rule: str) -> GatewayError:
    return GatewayError(400, f"{param}: {rule}", "invalid_value", param)
