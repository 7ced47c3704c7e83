"""Who reaches whom under NetworkPolicies, by the API's own semantics and none of Motley's code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """A pod as a policy sees it."""

    namespace: str
    labels: dict[str, str]


def of(pod: Document) -> Peer:
    """A pod of a resource in team-a."""
    return Peer("team-a", pod["metadata"]["labels"])


def matches(selector: Document, labels: dict[str, str]) -> bool:
    """A label selector, as far as it is used here; another operator is a KeyError."""
    equal = all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items())
    rules = selector.get("matchExpressions", ())
    return equal and all({"In": labels.get(r["key"]) in r["values"]}[r["operator"]] for r in rules)


def reaches(source: Peer, target: Peer, port: int, policies: list[Document]) -> bool:
    """Whether the policies let `source` open a connection to `target`."""
    about = [
        p
        for p in policies
        if p["metadata"]["namespace"] == target.namespace
        and matches(p["spec"]["podSelector"], target.labels)
    ]
    rules = [rule for policy in about for rule in policy["spec"].get("ingress", ())]
    return not about or any(_allows(rule, source, target.namespace, port) for rule in rules)


def _allows(rule: Document, source: Peer, home: str, port: int) -> bool:
    if "ports" in rule and port not in [p["port"] for p in rule["ports"]]:
        return False
    return "from" not in rule or any(_is(peer, source, home) for peer in rule["from"])


def _is(peer: Document, source: Peer, home: str) -> bool:
    if "namespaceSelector" in peer:
        named = {"kubernetes.io/metadata.name": source.namespace}
        inside = matches(peer["namespaceSelector"], named)
    else:
        inside = source.namespace == home
    return inside and matches(peer.get("podSelector", {}), source.labels)
