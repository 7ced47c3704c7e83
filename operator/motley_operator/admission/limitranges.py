"""LimitRanges: what they fill in, and which pods they refuse, in the API server's own words.

Source: plugin/pkg/admission/limitranger of Kubernetes 1.35 (MergePodResourceRequirements,
PodValidateLimitFunc).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from motley_operator.admission.containers import Container, Sized
from motley_operator.domain.quotas import LimitRangeFacts, LimitRule


def filled_in(pod: Sized, ranges: Iterable[LimitRangeFacts]) -> Sized:
    """The pod with the defaults of its namespace: limits and requests that a container lacks."""
    for limits in ranges:
        for rule in limits.rules:
            if rule.type == "Container":
                pod = pod.with_containers(_with_defaults(c, rule) for c in pod.containers)
    return pod


def _with_defaults(container: Container, rule: LimitRule) -> Container:
    return replace(
        container,
        requests={**rule.default_request, **container.requests},
        limits={**rule.default, **container.limits},
    )


def refused_by(pod: Sized, ranges: Sequence[LimitRangeFacts]) -> str | None:
    """The first rule that refuses a pod with all defaults filled in; None where none does.

    Such as "LimitRange team-a/small: maximum nvidia.com/gpu usage per Container".
    """
    for container in pod.containers:
        for name, limit in container.limits.items():
            if container.requests.get(name, 0) > limit:
                where = _defaulting(name, limit, ranges)
                return f"{where}the {name} limit of a container is below its request"
    for limits in ranges:
        for rule in limits.rules:
            words = next(_broken(pod, rule), None)
            if words is not None:
                return f"LimitRange {limits.namespace}/{limits.name}: {words}"
    return None


def _defaulting(name: str, limit: int, ranges: Sequence[LimitRangeFacts]) -> str:
    for limits in ranges:
        if any(rule.default.get(name) == limit for rule in limits.rules):
            return f"LimitRange {limits.namespace}/{limits.name}: by its default "
    return ""


def _broken(pod: Sized, rule: LimitRule) -> Iterator[str]:
    if rule.type == "Container":
        for container in pod.containers:
            yield from _outside(container.requests, container.limits, rule)
    elif rule.type == "Pod":
        yield from _outside(pod.all_requests, pod.all_limits, rule)


def _outside(
    requests: Mapping[str, int], limits: Mapping[str, int], rule: LimitRule
) -> Iterator[str]:
    each = f"usage per {rule.type}"
    for name, least in rule.min.items():
        if name not in requests or requests[name] < least or limits.get(name, least) < least:
            yield f"minimum {name} {each}"
    for name, most in rule.max.items():
        if name not in limits:
            yield f"maximum {name} {each}, and none is set"
        elif limits[name] > most or requests.get(name, 0) > most:
            yield f"maximum {name} {each}"
    for name, ratio in rule.ratio.items():
        request, limit = requests.get(name, 0), limits.get(name, 0)
        if not request or not limit or Fraction(limit, request) > ratio:
            yield f"maximum ratio of {name} limit to request per {rule.type}"
