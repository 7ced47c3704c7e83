"""The frame of an engine or trainer pod: where it goes, what it asks for, how it is told apart.

Rules. A pod is made once and its spec is never edited. It is pinned to the planned node by required
affinity on `metadata.name`, so the scheduler still checks that it fits (places.py). It tolerates a lost node
for seconds. `preemptionPolicy` is not written: admission sets it from the PriorityClass and refuses
a pod that says something else (plugin/pkg/admission/priority), so a class for engines should have
`preemptionPolicy: Never`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from motley_operator.admission.resources import GPU_RESOURCES, engine_resources
from motley_operator.api.shapes import NodeShape
from motley_operator.domain import names
from motley_operator.domain.claims import CLAIM, claim_of, is_coming
from motley_operator.domain.names import CONTAINER
from motley_operator.manifests.frame import Manifest, Owner, pull_secrets
from motley_operator.manifests.launch import ADAPTERS_PATH, MODEL_PATH, Process
from motley_operator.manifests.places import UNDISTURBED, placed, shape_tolerations
from motley_operator.manifests.stages import SHARED_ROOT, StageSpec
from motley_operator.settings import LOSS_TOLERATION_SECONDS
from motley_planner.domain.plan import PlannedReplica
from motley_planner.domain.snapshot import PodNeed

CACHE = "/cache"


@dataclass(frozen=True, slots=True)
class Seat:
    """One pod of one planned replica."""

    owner: Owner
    stage: StageSpec
    replica: PlannedReplica
    rank: int
    vendor: str
    plan_hash: str
    need: PodNeed
    tolerations: Sequence[Mapping[str, Any]] = ()
    shape: NodeShape | None = None  # of the node: it is to come, or came for us
    pull_secrets: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Pod name."""
        fragments = len(self.replica.nodes)
        return names.pod_name(self.owner.name, self.replica.name, self.rank, fragments)

    @property
    def host(self) -> str:
        """Host name below the stage's headless Service."""
        return names.host_name(self.replica.name, self.rank, len(self.replica.nodes))


def host_address(owner: Owner, replica: PlannedReplica, rank: int = 0) -> str:
    """DNS name of one pod of a replica."""
    host = names.host_name(replica.name, rank, len(replica.nodes))
    return f"{host}.{names.stage_service(owner.name, replica.stage)}.{owner.namespace}.svc"


def frame_pod(seat: Seat, container: Manifest, grace_seconds: int, restart: str) -> Manifest:
    """The pod around its one container."""
    spec: Manifest = {
        "hostname": seat.host,
        "subdomain": names.stage_service(seat.owner.name, seat.replica.stage),
        "restartPolicy": restart,
        "terminationGracePeriodSeconds": grace_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        **placed(seat.replica.nodes[seat.rank], seat.shape),
        "tolerations": [
            *_tolerations(seat.vendor),
            *map(dict, seat.tolerations),
            *shape_tolerations(seat.shape),
        ],
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": _volumes(seat),
        **pull_secrets(seat.pull_secrets),
    }
    if seat.stage.priority_class is not None:
        spec["priorityClassName"] = seat.stage.priority_class
    return {"apiVersion": "v1", "kind": "Pod", "metadata": _metadata(seat, container), "spec": spec}


def container_frame(seat: Seat, process: Process) -> Manifest:
    """The container without probes and environment of its own."""
    container: Manifest = {
        "name": CONTAINER,
        "image": process.image,
        "args": process.args,
        "env": environment(seat, process.env),
        "resources": engine_resources(seat.vendor, seat.replica.gpus_on(seat.rank), seat.need),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(seat),
    }
    if process.command:
        container["command"] = process.command
    return container


def environment(seat: Seat, values: Mapping[str, str]) -> list[Manifest]:
    """Environment of a container: who it is, where caches go, the token by reference only."""
    env: list[Manifest] = [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "HF_HOME", "value": f"{CACHE}/huggingface"},
        {"name": "XDG_CACHE_HOME", "value": CACHE},
    ]
    if seat.stage.weights is not None:
        env.append({"name": "HF_HUB_OFFLINE", "value": "1"})
    else:
        env += hub_token(seat.stage)
    return env + [{"name": name, "value": values[name]} for name in sorted(values)]


def hub_token(stage: StageSpec) -> list[Manifest]:
    """The variable that holds the hub's token, where there is one; the pod refers to the Secret."""
    source = stage.model.source.hugging_face
    if source is None or source.token_secret_ref is None:
        return []
    key = {"name": source.token_secret_ref.name, "key": source.token_secret_ref.key}
    return [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": key}}]


def _metadata(seat: Seat, container: Manifest) -> Manifest:
    replica, role = seat.replica, seat.replica.role
    metadata = seat.owner.metadata(seat.name, role)
    metadata["labels"] |= {
        names.STAGE: replica.stage,
        names.ROLE: role,
        names.REPLICA: replica.name,
        names.COLUMN: replica.column,
        names.RANK: str(seat.rank),
        names.SERVING: "true",
    }
    unit: Manifest = {
        "gpu": replica.gpu,
        "tensor_parallel": replica.tensor_parallel,
        "operating_batch": replica.operating_batch,
        "model": replica.model,
        "precision": replica.precision,
        "role": role,
        "stage": replica.stage,
        "fragments": len(replica.nodes),
    }
    if replica.pipeline:
        unit["pipeline"] = [[f.gpu, f.tensor_parallel, f.layers] for f in replica.pipeline]
    if replica.phase != "both":
        unit |= {"phase": replica.phase, "kv_scale": replica.kv_scale}
    if is_coming(node := replica.nodes[seat.rank]):
        metadata["labels"][CLAIM] = claim_of(node)
    metadata["annotations"] = {
        **UNDISTURBED,
        names.PLAN_HASH: seat.plan_hash,
        names.INPUTS_HASH: seat.stage.inputs_hash,
        names.IMAGE: container["image"],
        names.UNIT: json.dumps(unit, sort_keys=True),
    }
    return metadata


def _tolerations(vendor: str) -> list[Manifest]:
    lost = [
        {
            "key": f"node.kubernetes.io/{state}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": LOSS_TOLERATION_SECONDS,
        }
        for state in ("not-ready", "unreachable")
    ]
    return [*lost, {"key": GPU_RESOURCES[vendor], "operator": "Exists", "effect": "NoSchedule"}]


def _volumes(seat: Seat) -> list[Manifest]:
    # Tensor parallel ranks exchange tensors through /dev/shm (peers.md: 2 to 16 GiB).
    shm = f"{max(4, 2 * seat.replica.gpus_on(seat.rank))}Gi"
    volumes: list[Manifest] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shm}},
        {"name": "cache", "emptyDir": {}},
    ]
    weights = seat.stage.weights
    if weights is not None:
        claim = {"claimName": weights.claim_name, "readOnly": True}
        volumes.append({"name": "weights", "persistentVolumeClaim": claim})
    volumes += [
        {"name": f"adapter-{i}", "persistentVolumeClaim": {"claimName": name, "readOnly": True}}
        for i, name in enumerate(_adapter_claims(seat))
    ]
    if seat.stage.shared is not None:
        claim = {"claimName": seat.stage.shared.claim_name}
        volumes.append({"name": "shared", "persistentVolumeClaim": claim})
    return volumes


def _adapter_claims(seat: Seat) -> list[str]:
    """Claims that adapters are on, each once."""
    claims = (each.source.persistent_volume_claim for each in seat.stage.adapters)
    return sorted({claim.claim_name for claim in claims if claim is not None})


def _mounts(seat: Seat) -> list[Manifest]:
    mounts: list[Manifest] = [
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "cache", "mountPath": CACHE},
    ]
    weights, shared = seat.stage.weights, seat.stage.shared
    if weights is not None:
        mount = {"name": "weights", "mountPath": MODEL_PATH, "readOnly": True}
        mounts.append(mount | ({"subPath": weights.sub_path} if weights.sub_path else {}))
    names = _adapter_claims(seat)
    for adapter in seat.stage.adapters:
        claim = adapter.source.persistent_volume_claim
        if claim is not None:
            path = f"{ADAPTERS_PATH}/{adapter.name}"
            name = f"adapter-{names.index(claim.claim_name)}"
            mount = {"name": name, "mountPath": path, "readOnly": True}
            mounts.append(mount | ({"subPath": claim.sub_path} if claim.sub_path else {}))
    if shared is not None:
        mount = {"name": "shared", "mountPath": SHARED_ROOT}
        mounts.append(mount | ({"subPath": shared.sub_path} if shared.sub_path else {}))
    return mounts
