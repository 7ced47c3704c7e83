"""The gateway: a Deployment that follows the routing ConfigMap and passes the restricted profile."""

from __future__ import annotations

from typing import Any

from motley_operator.admission.resources import GATEWAY as GATEWAY_RESOURCES
from motley_operator.api.traffic import Gateway
from motley_operator.domain.names import GATEWAY, gateway_name, resource_labels, routing_name
from motley_operator.manifests.frame import Manifest, Owner, sealed

PORT = 8000
_KEYS_DIR = "/etc/motley/api-keys"
_STATE_DIR = "/var/lib/motley"  # the last good routing, over restarts of the container
_GRACE_SECONDS = 75  # the gateway drains for up to 60 s after 3 s of settling


def gateway_deployment(
    owner: Owner, spec: Gateway, image: str, priority_class: str | None, spans_to: str = ""
) -> Manifest:
    """The gateway's Deployment; an autoscaler may not own its replicas, the spec does.

    `spans_to` is the OTLP endpoint that it sends its spans to, where an admin names one.
    """
    name = gateway_name(owner.name)
    selector = owner.selector(GATEWAY)
    return sealed(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": owner.metadata(name, GATEWAY),
            "spec": {
                "replicas": spec.replicas,
                "revisionHistoryLimit": 2,
                "selector": {"matchLabels": selector},
                "strategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
                },
                "template": {
                    "metadata": {"labels": resource_labels(owner.kind, owner.name, GATEWAY)},
                    "spec": _pod_spec(owner, spec, image, priority_class, spans_to),
                },
            },
        }
    )


def _pod_spec(
    owner: Owner, spec: Gateway, image: str, priority_class: str | None, spans_to: str
) -> Manifest:
    pod: Manifest = {
        "serviceAccountName": gateway_name(owner.name),
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": owner.selector(GATEWAY)},
            }
        ],
        "containers": [_container(owner, spec, image, spans_to)],
        "volumes": [{"name": "state", "emptyDir": {"sizeLimit": "64Mi"}}],
    }
    if priority_class is not None:
        pod["priorityClassName"] = priority_class
    if spec.auth is not None:
        secret = {"secretName": spec.auth.secret_ref.name}
        pod["volumes"].append({"name": "api-keys", "secret": secret})
    return pod


def _container(owner: Owner, spec: Gateway, image: str, spans_to: str) -> dict[str, Any]:
    routing = f"{owner.namespace}/{routing_name(owner.name)}"
    args = ["gateway", "--routing-configmap", routing, "--port", str(PORT)]
    args += ["--state-dir", _STATE_DIR]
    if spans_to:
        args += ["--otlp-endpoint", spans_to]
    container: dict[str, Any] = {
        "name": "gateway",
        "image": image,
        "command": ["motley"],
        "args": args,
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "readinessProbe": _probe("/ready", 2, 2),
        "livenessProbe": _probe("/health", 10, 3),
        "startupProbe": _probe("/health", 1, 60),
        "resources": GATEWAY_RESOURCES,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [{"name": "state", "mountPath": _STATE_DIR}],
    }
    if spec.auth is not None:
        args += ["--api-keys-dir", _KEYS_DIR]
        mount = {"name": "api-keys", "mountPath": _KEYS_DIR, "readOnly": True}
        container["volumeMounts"].append(mount)
    return container


def _probe(path: str, period_seconds: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period_seconds,
        "failureThreshold": failures,
    }
