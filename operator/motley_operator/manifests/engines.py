"""Pods of replicas of pools and cascades, and of a job's rollout replicas."""

from __future__ import annotations

from motley_operator.admission.merging import with_template
from motley_operator.manifests.frame import Manifest
from motley_operator.manifests.launch import Process
from motley_operator.manifests.pods import Seat, container_frame, frame_pod

# Values: peers.md 4.1 (KServe presets); a 70B model takes 10 to 30 minutes to load cold.
STARTUP_SECONDS = 1800
DRAIN_SECONDS = 10  # endpoints and gateways stop sending before the engine hears SIGTERM


def engine_pod(seat: Seat, process: Process) -> Manifest:
    """An inference engine's pod; the port opens after the model is loaded, hence the startup probe.

    Of a replica over several nodes only the first pod answers requests and probes.

    Raises nothing; fields a podTemplate may change: labels, annotations, tolerations, environment,
    volumes, CPU and memory, further containers.
    """
    launch = process.launch
    container = container_frame(seat, process)
    if seat.rank == 0:
        container["ports"] = [{"name": "http", "containerPort": launch.port}]
    if seat.rank == 0 and launch.health_path:
        probe = {"httpGet": {"path": launch.health_path, "port": "http"}, "timeoutSeconds": 5}
        container |= {
            "startupProbe": {
                **probe,
                "periodSeconds": 10,
                "failureThreshold": STARTUP_SECONDS // 10,
            },
            "readinessProbe": {**probe, "periodSeconds": 2, "failureThreshold": 2},
            "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6},
        }
    container["lifecycle"] = {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}}
    grace = max(
        launch.termination_grace_seconds, DRAIN_SECONDS + launch.shutdown_timeout_seconds + 5
    )
    restart = "Never" if len(seat.replica.nodes) > 1 else "Always"
    return with_template(frame_pod(seat, container, grace, restart), seat.stage.template)
