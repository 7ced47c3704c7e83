"""Services: a headless one for each stage's pods, and the stable one in front of the gateway."""

from __future__ import annotations

from motley_operator.domain.names import GATEWAY, SERVING, STAGE, gateway_name, stage_service
from motley_operator.manifests.frame import Manifest, Owner, sealed


def headless_service(owner: Owner, stage: str, component: str, port: int) -> Manifest:
    """DNS names for the pods of a stage, also before they are ready (rendezvous needs them)."""
    return sealed(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": owner.metadata(stage_service(owner.name, stage), component),
            "spec": {
                "clusterIP": "None",
                "publishNotReadyAddresses": True,
                "selector": {**owner.selector(component), STAGE: stage, SERVING: "true"},
                "ports": [{"name": "http", "port": port, "protocol": "TCP", "targetPort": port}],
            },
        }
    )


def gateway_service(owner: Owner, port: int) -> Manifest:
    """The address clients call; it never changes while the resource lives."""
    return sealed(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": owner.metadata(gateway_name(owner.name), GATEWAY),
            "spec": {
                "type": "ClusterIP",
                "selector": owner.selector(GATEWAY),
                "ports": [{"name": "http", "port": port, "protocol": "TCP", "targetPort": "http"}],
            },
        }
    )
