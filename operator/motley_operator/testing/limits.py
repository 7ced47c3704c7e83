"""ResourceQuotas and LimitRanges of a world: they admit pods as the API server does."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from motley_operator.admission.containers import sized
from motley_operator.admission.counting import charged, not_set, use_of
from motley_operator.admission.limitranges import filled_in, refused_by
from motley_operator.domain.facts import PodFacts
from motley_operator.domain.quotas import LimitRangeFacts, QuotaFacts
from motley_operator.facts.pods import parse_pod
from motley_operator.facts.quotas import parse_limit_range, parse_quota


class Forbidden(AssertionError):
    """The API server would have answered 403: nobody should have asked."""


@dataclass(slots=True)
class Limits:
    """What admins set; `used` is always what the pods take, as after the server's own count."""

    documents: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)

    def set_quota(self, name: str, hard: Mapping[str, Any], **spec: Any) -> None:
        """A ResourceQuota in team-a; the next of the same name replaces it."""
        self._set("ResourceQuota", name, {"hard": dict(hard), **spec})

    def set_range(self, name: str, *limits: Mapping[str, Any]) -> None:
        """A LimitRange in team-a."""
        self._set("LimitRange", name, {"limits": [dict(each) for each in limits]})

    def _set(self, kind: str, name: str, spec: Mapping[str, Any]) -> None:
        metadata = {"namespace": "team-a", "name": name}
        self.documents[kind, "team-a", name] = {"metadata": metadata, "spec": copy.deepcopy(spec)}

    def quotas(self, pods: Iterable[PodFacts]) -> tuple[QuotaFacts, ...]:
        """The quotas with what the pods take of them."""
        there = list(pods)
        found = []
        for (kind, _, _), document in sorted(self.documents.items()):
            if kind == "ResourceQuota":
                quota = parse_quota(document)
                found.append(replace(quota, enforced=quota.hard, used=taken(quota, there)))
        return tuple(found)

    def ranges(self) -> tuple[LimitRangeFacts, ...]:
        """The limit ranges."""
        return tuple(
            parse_limit_range(document)
            for (kind, _, _), document in sorted(self.documents.items())
            if kind == "LimitRange"
        )

    def admit(self, document: Mapping[str, Any], pods: Iterable[PodFacts]) -> PodFacts:
        """The pod as it is stored.

        Raises: Forbidden where a rule refuses it.
        """
        namespace = document["metadata"]["namespace"]
        ranges = [r for r in self.ranges() if r.namespace == namespace]
        pod = filled_in(sized(document["spec"]), ranges)
        use = use_of(pod, document["spec"])
        rule = refused_by(pod, ranges)
        for quota in self.quotas(pods):
            if quota.namespace == namespace:
                rule = rule or not_set(quota, pod, use) or _exceeded(quota, charged(quota, use))
        if rule:
            raise Forbidden(f"{document['metadata']['name']}: {rule}")
        return replace(parse_pod(document), use=use)


def taken(quota: QuotaFacts, pods: Iterable[PodFacts]) -> dict[str, int]:
    """What the pods of the quota's namespace take of it."""
    total: dict[str, int] = dict.fromkeys(quota.hard, 0)
    for pod in pods:
        if pod.namespace == quota.namespace and pod.use is not None:
            for name, amount in charged(quota, pod.use, pod.terminal).items():
                total[name] += amount
    return total


def _exceeded(quota: QuotaFacts, amounts: Mapping[str, int]) -> str | None:
    for name, amount in amounts.items():
        if quota.used[name] + amount > quota.hard[name]:
            return f"exceeded quota: {quota.name}, requested: {name}={amount}, limited: {name}"
    return None
