"""What quotas count of a pod, which quotas count it, and what they ask it to set.

Source: pkg/quota/v1/evaluator/core/pods.go of Kubernetes 1.35.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from motley_operator.admission.containers import Container, Sized, sized
from motley_operator.domain.quotas import PodUse, QuotaFacts, Scope

_NATIVE = ("cpu", "memory", "ephemeral-storage")
COUNT = "count/pods"
# A quota on one of these wants every container to set it.
_MUST_BE_SET = {
    "cpu": ("requests", "cpu"),
    "requests.cpu": ("requests", "cpu"),
    "limits.cpu": ("limits", "cpu"),
    "memory": ("requests", "memory"),
    "requests.memory": ("requests", "memory"),
    "limits.memory": ("limits", "memory"),
}


def pod_use(spec: Mapping[str, Any]) -> PodUse:
    """What a pod with this spec counts for while it lives; equal values are one object."""
    return use_of(sized(spec), spec)


def use_of(pod: Sized, spec: Mapping[str, Any]) -> PodUse:
    """The same of a pod with defaults filled in."""
    amounts = {"pods": 1, COUNT: 1}
    for name, amount in pod.all_requests.items():
        amounts[f"requests.{name}"] = amount
        if name in _NATIVE or name.startswith("hugepages-"):
            amounts[name] = amount
    for name, amount in pod.all_limits.items():
        if name in _NATIVE:
            amounts[f"limits.{name}"] = amount
    ends = spec.get("activeDeadlineSeconds") is not None
    scopes = {"Terminating" if ends else "NotTerminating"}
    scopes.add("BestEffort" if _is_best_effort(pod) else "NotBestEffort")
    if _crosses_namespaces(spec.get("affinity") or {}):
        scopes.add("CrossNamespacePodAffinity")
    priority_class = str(spec.get("priorityClassName") or "")
    return _one(PodUse(tuple(sorted(amounts.items())), priority_class, frozenset(scopes)))


@lru_cache(maxsize=8192)
def _one(use: PodUse) -> PodUse:
    """Thousands of pods are of a few sizes: each is kept once."""
    return use


def is_counted(quota: QuotaFacts, use: PodUse) -> bool:
    """Whether the pod is in all scopes of the quota; a scope that is no pod's matches none."""
    return all(_is_in(scope, use) for scope in quota.scopes)


def _is_in(scope: Scope, use: PodUse) -> bool:
    if scope.name != "PriorityClass":
        return scope.name in use.scopes
    named = bool(use.priority_class)
    if scope.operator == "In":
        return named and use.priority_class in scope.values
    if scope.operator == "NotIn":
        return use.priority_class not in scope.values
    return named if scope.operator == "Exists" else not named


def charged(quota: QuotaFacts, use: PodUse, terminal: bool = False) -> dict[str, int]:
    """What a pod takes of a quota, by the quota's resources.

    A pod that has finished counts as an object only.
    """
    if not is_counted(quota, use):
        return {}
    return {
        name: amount
        for name, amount in use.amounts
        if amount and name in quota.hard and (not terminal or name == COUNT)
    }


def not_set(quota: QuotaFacts, pod: Sized, use: PodUse) -> str | None:
    """What a quota asks every container to set and one does not, such as "limits.cpu"."""
    if not is_counted(quota, use):
        return None
    for name, (kind, resource) in _MUST_BE_SET.items():
        stated = pod.limits if kind == "limits" else pod.requests
        if name not in quota.hard or resource in stated:
            continue
        if any(resource not in _amounts(c, kind) for c in pod.containers):
            return name
    return None


def _amounts(container: Container, kind: str) -> Mapping[str, int]:
    return container.limits if kind == "limits" else container.requests


def _is_best_effort(pod: Sized) -> bool:
    stated = [pod.requests, pod.limits]
    stated += [amounts for c in pod.containers for amounts in (c.requests, c.limits)]
    return not any(amounts.get(name) for amounts in stated for name in ("cpu", "memory"))


def _crosses_namespaces(affinity: Mapping[str, Any]) -> bool:
    for kind in ("podAffinity", "podAntiAffinity"):
        rules = affinity.get(kind) or {}
        terms = list(rules.get("requiredDuringSchedulingIgnoredDuringExecution") or ())
        weighted = rules.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        terms += [each.get("podAffinityTerm") or {} for each in weighted]
        if any(term.get("namespaces") or "namespaceSelector" in term for term in terms):
            return True
    return False
