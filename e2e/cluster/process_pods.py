"""What a kubelet says of a pod, and asks it: status, conditions, readiness probe."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from datetime import UTC, datetime

from e2e.demo_api import Api, Document

PROBE_TIMEOUT_S = 1.0
CONDITIONS = (
    "PodScheduled",
    "PodReadyToStartContainers",
    "Initialized",
    "ContainersReady",
    "Ready",
)


@dataclass(frozen=True, slots=True)
class State:
    """How a pod that runs is doing."""

    address: str
    is_ready: bool
    restarts: int


def answers(address: str, container: Document, probe: Document | None) -> bool:
    """Whether a container's HTTP probe succeeds; without a probe it does."""
    if probe is None:
        return True
    get = probe["httpGet"]
    ports = {one.get("name"): one["containerPort"] for one in container.get("ports", [])}
    port = ports.get(get["port"], get["port"])
    connection = http.client.HTTPConnection(address, port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", get["path"])
        return 200 <= connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def pod_status(pod: Document, state: State) -> Document:
    """The status of a running pod."""
    ready = {"ContainersReady": state.is_ready, "Ready": state.is_ready}
    containers = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": state.is_ready,
            "started": True,
            "restartCount": state.restarts,
            "state": {"running": {"startedAt": _now()}},
        }
        for container in pod["spec"]["containers"]
    ]
    return {
        "phase": "Running",
        "startTime": _now(),
        "hostIP": "127.0.0.1",
        "podIP": state.address,
        "podIPs": [{"ip": state.address}],
        "conditions": [condition(kind, ready.get(kind, True), "") for kind in CONDITIONS],
        "containerStatuses": containers,
    }


def condition(kind: str, is_true: bool, reason: str) -> Document:
    """A condition of a pod (no reason) or of a node, as of now."""
    found = {"type": kind, "status": str(is_true), "lastTransitionTime": _now()}
    return {**found, "lastHeartbeatTime": _now(), "reason": reason} if reason else found


def patch_status(api: Api, path: str, status: Document) -> None:
    """Writes a status as kubelets do."""
    patch = "application/strategic-merge-patch+json"
    api.request("PATCH", f"{path}/status", {"status": json.loads(json.dumps(status))}, patch)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
