"""The gateway: a Deployment that follows the routing ConfigMap and passes the restricted profile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from motley_operator.admission.resources import GATEWAY as GATEWAY_RESOURCES
from motley_operator.api.traffic import Gateway
from motley_operator.domain.names import GATEWAY, gateway_name, resource_labels, routing_name
from motley_operator.manifests.frame import Manifest, Owner, pull_secrets, sealed
from motley_operator.manifests.places import off_excluded_nodes

PORT = 8000
_KEYS_DIR = "/etc/motley/api-keys"
_COMMANDS_DIR = "/etc/motley/commands"
_STATE_DIR = "/var/lib/motley"  # the last good routing, over restarts of the container
_GRACE_SECONDS = 75  # the gateway drains for up to 60 s after 3 s of settling


@dataclass(frozen=True, slots=True)
class GatewayExtras:
    """What some gateways have besides.

    A ConfigMap of programs and questions of their own (cascades); the OTLP endpoint that their
    spans go to and the Secrets that they pull their image with, where an admin names some.
    """

    commands: str | None = None
    canaries_per_hour: int | None = None
    spans_to: str = ""
    pull_secrets: tuple[str, ...] = ()


def gateway_deployment(
    owner: Owner,
    spec: Gateway,
    image: str,
    priority_class: str | None,
    extras: GatewayExtras | None = None,
) -> Manifest:
    """The gateway's Deployment; an autoscaler may not own its replicas, the spec does."""
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
                    "spec": _with_extras(
                        _pod_spec(owner, spec, image, priority_class), extras or GatewayExtras()
                    ),
                },
            },
        }
    )


def _pod_spec(owner: Owner, spec: Gateway, image: str, priority_class: str | None) -> Manifest:
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
        "affinity": off_excluded_nodes(),
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": owner.selector(GATEWAY)},
            }
        ],
        "containers": [_container(owner, spec, image)],
        "volumes": [{"name": "state", "emptyDir": {"sizeLimit": "64Mi"}}],
    }
    if priority_class is not None:
        pod["priorityClassName"] = priority_class
    if spec.auth is not None:
        secret = {"secretName": spec.auth.secret_ref.name}
        pod["volumes"].append({"name": "api-keys", "secret": secret})
    return pod


def _with_extras(pod: Manifest, extras: GatewayExtras) -> Manifest:
    """The pod with these; the builder's own dicts, not yet given away."""
    container = pod["containers"][0]
    pod |= pull_secrets(extras.pull_secrets)
    if extras.spans_to:
        container["args"] += ["--otlp-endpoint", extras.spans_to]
    if extras.canaries_per_hour is not None:
        container["args"] += ["--canaries-per-hour", str(extras.canaries_per_hour)]
    if extras.commands is not None:
        container["args"] += ["--commands-dir", _COMMANDS_DIR]
        source = {"name": extras.commands, "defaultMode": 0o555}
        pod["volumes"].append({"name": "commands", "configMap": source})
        mount = {"name": "commands", "mountPath": _COMMANDS_DIR, "readOnly": True}
        container["volumeMounts"].append(mount)
    return pod


def _container(owner: Owner, spec: Gateway, image: str) -> dict[str, Any]:
    routing = f"{owner.namespace}/{routing_name(owner.name)}"
    args = ["gateway", "--routing-configmap", routing, "--port", str(PORT)]
    args += ["--state-dir", _STATE_DIR]
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
