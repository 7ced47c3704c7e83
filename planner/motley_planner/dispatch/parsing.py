"""Reads a routing document, or says in one sentence what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from motley_planner.dispatch.branch_rules import parse_branches
from motley_planner.dispatch.estimators import EstimatorError
from motley_planner.dispatch.fields import RoutingError
from motley_planner.dispatch.fields import items as _items
from motley_planner.dispatch.fields import mapping as _mapping
from motley_planner.dispatch.fields import number as _number
from motley_planner.dispatch.fields import text as _text
from motley_planner.dispatch.fields import token as _token
from motley_planner.dispatch.fields import unique as _unique
from motley_planner.dispatch.policy import Policy
from motley_planner.dispatch.routing import (
    ADMISSIONS,
    DISPATCH_POLICIES,
    HANDOFFS,
    MOST_ALPHA,
    PRIORITIES,
    DispatchRule,
    Flow,
    Handoff,
    Hold,
    Replica,
    RequestClass,
    ResourceRef,
    RoutingTable,
    Stage,
    WorkflowRule,
)
from motley_planner.dispatch.rules import parse_calibrators, parse_estimator
from motley_planner.dispatch.watching import parse_relief, parse_watch

SHARE_TOLERANCE = 1e-3  # a solver's rounding, not a mistake: shares are normalised after the check


def parse_routing(document: object) -> RoutingTable:
    """The routing table a decoded `routing.json` describes.

    Unknown fields are ignored, so that an older gateway reads a newer operator's file of the
    same version.

    Raises: RoutingError naming the first field that is missing, mistyped or contradictory.
    """
    root = _mapping(document, "routing")
    if root.get("version") != 1:
        raise RoutingError("version", f"must be 1, is {root.get('version')!r}")
    resource = _mapping(root.get("resource"), "resource")
    names = tuple(
        _text(name, f"served_model_names[{i}]")
        for i, name in enumerate(_items(root.get("served_model_names"), "served_model_names", 1))
    )
    classes = tuple(
        _class(item, f"classes[{i}]")
        for i, item in enumerate(_items(root.get("classes"), "classes", 1))
    )
    class_names = _unique([each.name for each in classes], "classes")
    stages = tuple(
        _stage(item, f"stages[{i}]", class_names)
        for i, item in enumerate(_items(root.get("stages"), "stages", 1))
    )
    _unique([stage.name for stage in stages], "stages")
    table = RoutingTable(
        plan_hash=_token(root.get("plan_hash"), "plan_hash"),
        resource=ResourceRef(
            kind=_text(resource.get("kind"), "resource.kind"),
            namespace=_text(resource.get("namespace"), "resource.namespace"),
            name=_text(resource.get("name"), "resource.name"),
        ),
        served_model_names=names,
        classes=classes,
        stages=stages,
        policies=_policies(root.get("policies", []), stages, [c.name for c in classes]),
        dispatch=_dispatch(root.get("routing")),
        hold=_hold(root.get("hold")),
        gateways=_count(root.get("gateways", 1), "gateways"),
        workflows=_workflows(root.get("workflows")),
    )
    return _with_rules(table, root)


def _with_rules(table: RoutingTable, root: Mapping[str, Any]) -> RoutingTable:
    """The table with what decides on answers."""
    names, given = [stage.name for stage in table.stages], root.get("estimator")
    try:
        return replace(
            table,
            estimator=parse_estimator(given, names),
            calibrators=parse_calibrators(given, names),
            watch=parse_watch(root.get("watch"), names),
            relief=parse_relief(root.get("relief"), names, table.policies),
        )
    except EstimatorError as error:
        field, _, rule = str(error).partition(": ")
        raise RoutingError(field, rule) from error


def _hold(value: object) -> Hold | None:
    if value is None:
        return None
    item = _mapping(value, "hold")
    requests = _count(item.get("requests"), "hold.requests")
    return Hold(requests, _number(item.get("seconds"), "hold.seconds"))


def _count(value: object, at: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RoutingError(at, f"must be a whole number above 0, is {value!r}")
    return value


def _class(value: object, at: str) -> RequestClass:
    item = _mapping(value, at)
    return RequestClass(
        name=_text(item.get("name"), f"{at}.name"),
        prompt_tokens=_number(item.get("prompt_tokens"), f"{at}.prompt_tokens"),
        output_tokens=_number(item.get("output_tokens"), f"{at}.output_tokens"),
    )


def _stage(value: object, at: str, classes: frozenset[str]) -> Stage:
    item = _mapping(value, at)
    phases = {
        phase: tuple(
            _replica(entry, f"{at}.{phase}[{i}]", classes)
            for i, entry in enumerate(_items(given, f"{at}.{phase}"))
        )
        for phase, given in (
            ("replicas", item.get("replicas")),
            ("prefill", item.get("prefill", [])),
            ("decode", item.get("decode", [])),
        )
    }
    _unique([each.name for phase in phases.values() for each in phase], f"{at}.replicas")
    branches = item.get("branches")
    return Stage(
        name=_token(item.get("name"), f"{at}.name"),
        model=_text(item.get("model"), f"{at}.model"),
        flows=tuple(
            _flow(entry, f"{at}.flows[{i}]", classes, phases)
            for i, entry in enumerate(_items(item.get("flows", []), f"{at}.flows"))
        ),
        handoff=_handoff(item.get("handoff"), f"{at}.handoff", bool(item.get("flows"))),
        branches=None if branches is None else parse_branches(branches, f"{at}.branches"),
        priority=_priority(item.get("priority", ""), f"{at}.priority"),
        adapters={
            _text(name, f"{at}.adapters"): _text(model, f"{at}.adapters.{name}")
            for name, model in _mapping(item.get("adapters", {}), f"{at}.adapters").items()
        },
        **phases,
    )


def _priority(value: object, at: str) -> str:
    if value not in ("", *PRIORITIES):
        raise RoutingError(at, f"must be one of {', '.join(PRIORITIES)}, is {value!r}")
    return str(value)


def _flow(
    value: object, at: str, classes: frozenset[str], phases: Mapping[str, tuple[Replica, ...]]
) -> Flow:
    item = _mapping(value, at)
    name = _text(item.get("class"), f"{at}.class")
    if name not in classes:
        raise RoutingError(f"{at}.class", "names a class that is not in classes")
    ends = []
    for end, phase in (("from", "prefill"), ("to", "decode")):
        group = item.get(end)
        if not any(r.group == group and name in r.capacity for r in phases[phase]):
            rule = f"no {phase} replica of group {group!r} has a capacity for class {name!r}"
            raise RoutingError(f"{at}.{end}", rule)
        ends.append(str(group))
    return Flow(name, ends[0], ends[1], _number(item.get("rate"), f"{at}.rate"))


def _handoff(value: object, at: str, is_needed: bool) -> Handoff | None:
    if value is None and not is_needed:
        return None
    item = _mapping(value, at)
    protocol = _text(item.get("protocol"), f"{at}.protocol")
    if protocol not in HANDOFFS:
        listed = ", ".join(HANDOFFS)
        raise RoutingError(f"{at}.protocol", f"must be one of {listed}, is {protocol!r}")
    port = item.get("bootstrap_port", 8998)
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        raise RoutingError(f"{at}.bootstrap_port", f"must be a port, is {port!r}")
    return Handoff(protocol, port)


def _replica(value: object, at: str, classes: frozenset[str]) -> Replica:
    item = _mapping(value, at)
    url = _text(item.get("url"), f"{at}.url").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise RoutingError(f"{at}.url", f"must be an http(s) URL, is {url!r}")
    rates = _by_class(item.get("rates", {}), f"{at}.rates", classes)
    capacity = _by_class(item.get("capacity", {}), f"{at}.capacity", classes)
    for name, rate in rates.items():
        if rate > 0 and capacity.get(name, 0.0) <= 0:
            raise RoutingError(f"{at}.rates.{name}", "a planned rate needs a capacity above 0")
    admissible = {name: amount for name, amount in capacity.items() if amount > 0}
    zone, group = item.get("trust_zone", ""), item.get("group", "")
    for field, text in (("trust_zone", zone), ("group", group)):
        if not isinstance(text, str):
            raise RoutingError(f"{at}.{field}", "must be a string")
    tokens = _number(item.get("kv_tokens", 0), f"{at}.kv_tokens")
    name = _text(item.get("name"), f"{at}.name")
    return Replica(name, url, rates, admissible, zone, group, tokens)


def _by_class(value: object, at: str, classes: frozenset[str]) -> dict[str, float]:
    amounts = {name: _number(each, f"{at}.{name}") for name, each in _mapping(value, at).items()}
    for name in amounts:
        if name not in classes:
            raise RoutingError(f"{at}.{name}", "names a class that is not in classes")
    return amounts


def _policies(
    value: object, stages: tuple[Stage, ...], classes: Sequence[str]
) -> tuple[Policy, ...]:
    raw = _items(value, "policies", 1 if len(stages) > 1 else 0)
    found = [_policy(item, f"policies[{i}]", stages) for i, item in enumerate(raw)]
    _unique([policy.id for policy in found], "policies")
    total = math.fsum(policy.share for policy in found)
    if found and abs(total - 1.0) > SHARE_TOLERANCE:
        raise RoutingError("policies", f"shares must sum to 1, sum to {total:g}")
    common = any(policy.share > 0 and not policy.classes for policy in found)
    for name in {name for policy in found for name in policy.classes}.difference(classes):
        raise RoutingError("policies", f"name the class {name!r} that is not in classes")
    for name in classes if found and not common else ():
        if not any(policy.share > 0 and name in policy.classes for policy in found):
            raise RoutingError("policies", f"none is for the class {name!r}")
    return tuple(replace(each, share=each.share / total) for each in found)


def _policy(value: object, at: str, stages: tuple[Stage, ...]) -> Policy:
    item = _mapping(value, at)
    given = _mapping(item.get("thresholds", {}), f"{at}.thresholds")
    thresholds = {name: _number(each, f"{at}.thresholds.{name}") for name, each in given.items()}
    names = {stage.name for stage in stages}
    for name in thresholds:
        if name not in names:
            raise RoutingError(f"{at}.thresholds.{name}", "names a stage that is not in stages")
    for stage in stages[:-1]:
        if stage.name not in thresholds:
            raise RoutingError(f"{at}.thresholds", f"lacks the threshold of stage {stage.name!r}")
    quality = item.get("quality")
    return Policy(
        _text(item.get("id"), f"{at}.id"),
        _number(item.get("share"), f"{at}.share"),
        thresholds,
        tuple(
            _text(name, f"{at}.classes")
            for name in _items(item.get("classes", []), f"{at}.classes")
        ),
        None if quality is None else min(1.0, _number(quality, f"{at}.quality")),
    )


def _dispatch(value: object) -> DispatchRule:
    if value is None:
        return DispatchRule()
    item = _mapping(value, "routing")
    policy = _text(item.get("policy"), "routing.policy")
    if policy not in DISPATCH_POLICIES:
        listed = ", ".join(DISPATCH_POLICIES)
        raise RoutingError("routing.policy", f"must be one of {listed}, is {policy!r}")
    alpha = _number(item.get("alpha", DispatchRule().alpha), "routing.alpha")
    if alpha > 1.0:
        raise RoutingError("routing.alpha", f"must be from 0 to 1, is {alpha:g}")
    return DispatchRule(policy, min(alpha, MOST_ALPHA))


def _workflows(value: object) -> WorkflowRule:
    if value is None:
        return WorkflowRule()
    given = _mapping(value, "workflows").get("admission", WorkflowRule().admission)
    if given not in ADMISSIONS:
        rule = f"must be one of {', '.join(ADMISSIONS)}, is {given!r}"
        raise RoutingError("workflows.admission", rule)
    return WorkflowRule(given)
