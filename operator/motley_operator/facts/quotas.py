"""ResourceQuotas and LimitRanges as facts: what concerns pods, as numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from motley_operator.admission.containers import number, numbers
from motley_operator.admission.quantities import read_quantity
from motley_operator.domain.quotas import LimitRangeFacts, LimitRule, QuotaFacts, Scope

_PODS = ("pods", "count/pods", "cpu", "memory", "ephemeral-storage")
_PREFIXES = ("requests.", "limits.", "hugepages-")


def parse_quota(document: Mapping[str, Any]) -> QuotaFacts:
    """The facts of one ResourceQuota; what it says of other objects than pods is left out.

    `requests.storage` is of volume claims.
    """
    metadata, spec = document["metadata"], document.get("spec") or {}
    status = document.get("status") or {}
    scopes = [Scope(name) for name in spec.get("scopes") or ()]
    for each in (spec.get("scopeSelector") or {}).get("matchExpressions") or ():
        operator = each.get("operator") or "Exists"
        scopes.append(Scope(each["scopeName"], operator, tuple(sorted(each.get("values") or ()))))
    return QuotaFacts(
        namespace=metadata.get("namespace") or "default",
        name=metadata["name"],
        hard=_of_pods(spec.get("hard") or {}),
        enforced=_of_pods(status.get("hard") or {}),
        used=_of_pods(status.get("used") or {}),
        scopes=tuple(scopes),
    )


def parse_limit_range(document: Mapping[str, Any]) -> LimitRangeFacts:
    """The facts of one LimitRange, with the defaults that the API server derives from limits.

    Of containers: default = max where there is none, defaultRequest = default, else min.
    Source: SetDefaults_LimitRangeItem, pkg/apis/core/v1/defaults.go.
    """
    metadata, spec = document["metadata"], document.get("spec") or {}
    return LimitRangeFacts(
        namespace=metadata.get("namespace") or "default",
        name=metadata["name"],
        rules=tuple(_rule(item) for item in spec.get("limits") or ()),
    )


def default_priority_class(classes: Iterable[Mapping[str, Any]]) -> str:
    """The class of pods that name none: of several global defaults the one of the least value.

    Source: plugin/pkg/admission/priority (getDefaultPriorityClass).
    """
    defaults = [d for d in classes if d.get("globalDefault")]
    least = min(defaults, key=lambda d: int(d.get("value") or 0), default=None)
    return str(least["metadata"]["name"]) if least is not None else ""


def _rule(item: Mapping[str, Any]) -> LimitRule:
    of_containers = item.get("type") == "Container"
    most, least = numbers(item.get("max")), numbers(item.get("min"))
    default = {**most, **numbers(item.get("default"))} if of_containers else {}
    requested = numbers(item.get("defaultRequest"))
    ratios = item.get("maxLimitRequestRatio") or {}
    return LimitRule(
        type=str(item.get("type") or ""),
        max=most,
        min=least,
        default=default,
        default_request={**least, **default, **requested} if of_containers else {},
        ratio={name: read_quantity(text) for name, text in ratios.items()},
    )


def _of_pods(amounts: Mapping[str, Any]) -> dict[str, int]:
    return {
        name: number(name, text)
        for name, text in sorted(amounts.items())
        if (name in _PODS or name.startswith(_PREFIXES)) and name != "requests.storage"
    }
