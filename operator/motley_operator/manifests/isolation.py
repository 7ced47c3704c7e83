"""NetworkPolicies of one resource: who may reach its engines, and on which port its gateway is reached.

Engines trust whoever reaches their port: weights can be exchanged, profilers started, adapters
loaded. A policy sees ports and not paths, so whoever may scrape an engine's metrics reaches the rest of
its port too; that is why the namespaces are named by an admin and there are none by default.
"""

from __future__ import annotations

from collections.abc import Sequence

from motley_operator.domain.names import COMPONENT, GATEWAY, ROLLOUT, SERVE, TRAINER, gateway_name
from motley_operator.manifests.frame import Manifest, Owner, sealed

_ENGINES = (SERVE, ROLLOUT, TRAINER)


def engine_isolation(
    owner: Owner, ports: Sequence[int], metrics_namespaces: Sequence[str]
) -> Manifest:
    """Engines are reached by each other on any port, by their gateway and by who scrapes on theirs.

    The kubelet's probes pass: traffic from a pod's own node is never refused.
    """
    outside: list[Manifest] = [{"podSelector": {"matchLabels": owner.selector(GATEWAY)}}]
    if metrics_namespaces:
        outside.append({"namespaceSelector": _named(metrics_namespaces)})
    opened = [{"port": port, "protocol": "TCP"} for port in sorted(set(ports))]
    ingress = [
        {"from": [{"podSelector": _engines(owner)}]},
        {"from": outside, "ports": opened},
    ]
    return _policy(owner, f"{owner.name}-engines", SERVE, _engines(owner), ingress)


def gateway_isolation(owner: Owner, port: int) -> Manifest:
    """The gateway is reached by everyone, on its one port."""
    ingress: list[Manifest] = [{"ports": [{"port": port, "protocol": "TCP"}]}]
    selector = {"matchLabels": owner.selector(GATEWAY)}
    return _policy(owner, gateway_name(owner.name), GATEWAY, selector, ingress)


def _engines(owner: Owner) -> Manifest:
    labels = {k: v for k, v in owner.selector(SERVE).items() if k != COMPONENT}
    expression = {"key": COMPONENT, "operator": "In", "values": list(_ENGINES)}
    return {"matchLabels": labels, "matchExpressions": [expression]}


def _named(namespaces: Sequence[str]) -> Manifest:
    key = "kubernetes.io/metadata.name"
    values = sorted(set(namespaces))
    return {"matchExpressions": [{"key": key, "operator": "In", "values": values}]}


def _policy(
    owner: Owner, name: str, component: str, selector: Manifest, ingress: Sequence[Manifest]
) -> Manifest:
    return sealed(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": owner.metadata(name, component),
            "spec": {
                "podSelector": selector,
                "policyTypes": ["Ingress"],
                "ingress": list(ingress),
            },
        }
    )
