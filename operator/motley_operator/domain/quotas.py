"""Limits that a namespace sets on its pods, and what a pod takes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

Amounts = Mapping[str, int]  # by resource; CPU in milli-cores, the rest in units


@dataclass(frozen=True, slots=True)
class PodUse:
    """What one pod counts for in quotas, by the names that quotas use, and whose scope it is in."""

    amounts: tuple[tuple[str, int], ...]  # such as ("requests.cpu", 4000), sorted
    priority_class: str = ""
    scopes: frozenset[str] = frozenset()  # Terminating | NotTerminating | BestEffort | ...


@dataclass(frozen=True, slots=True)
class Scope:
    """One condition on pods that a quota counts: a scope, and for PriorityClass a rule."""

    name: str  # PriorityClass, or one of PodUse.scopes
    operator: str = "Exists"  # In | NotIn | Exists | DoesNotExist
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QuotaFacts:
    """One ResourceQuota: what pods may take in all, and what the server says they take."""

    namespace: str
    name: str
    hard: Amounts
    enforced: Amounts = field(default_factory=dict)  # what the server has taken over of `hard`
    used: Amounts = field(default_factory=dict)
    scopes: tuple[Scope, ...] = ()  # a pod counts that is in all of them


@dataclass(frozen=True, slots=True)
class LimitRule:
    """One entry of a LimitRange, for containers or for whole pods."""

    type: str  # Container | Pod
    max: Amounts = field(default_factory=dict)
    min: Amounts = field(default_factory=dict)
    default: Amounts = field(default_factory=dict)  # limits of containers that set none
    default_request: Amounts = field(default_factory=dict)
    ratio: Mapping[str, Fraction] = field(default_factory=dict)  # largest limit / request


@dataclass(frozen=True, slots=True)
class LimitRangeFacts:
    """One LimitRange."""

    namespace: str
    name: str
    rules: tuple[LimitRule, ...]
