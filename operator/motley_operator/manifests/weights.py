"""The Job that fetches a model's weights onto a volume, once, before the first engine needs them.

One Job for each folder of a resource. It has an account of its own that may patch one ConfigMap, the
one that its progress goes to; the hub's token it has by reference. A Job's template cannot be edited,
so its name says what it was made of: an edit of that is another Job, and the old one goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motley_operator.api.models import ModelCache
from motley_operator.domain.names import (
    CONTAINER,
    STAGES,
    WEIGHTS,
    resource_labels,
    weights_name,
)
from motley_operator.manifests.frame import Manifest, Owner, digest, pull_secrets, sealed
from motley_operator.manifests.places import off_excluded_nodes
from motley_operator.manifests.pods import hub_token
from motley_operator.manifests.stages import StageSpec

BACKOFF_LIMIT = 6  # 10 s, 20 s, ... 5 min between attempts: a quarter of an hour in all
PROGRAM = (Path(__file__).with_name("fetching.py")).read_text()
_ROOT = "/weights"
_USER = 65532
_RBAC = "rbac.authorization.k8s.io"
_RESOURCES = {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "8Gi"}}


@dataclass(frozen=True, slots=True)
class Fetched:
    """The image that a stage's weights are fetched with, and the Secrets that it is pulled with."""

    image_of: Callable[[StageSpec], str]
    pull_secrets: Sequence[str] = ()


def weights_objects(owner: Owner, stages: Sequence[StageSpec], fetched: Fetched) -> list[Manifest]:
    """Jobs of the stages whose weights are cached, and what these need."""
    folders: dict[tuple[str, str], list[StageSpec]] = {}
    for stage in stages:
        if stage.model.cache is not None and stage.weights is not None:
            at = (stage.weights.claim_name, stage.weights.sub_path or "")
            folders.setdefault(at, []).append(stage)
    made: list[Manifest] = []
    names = []
    for together in folders.values():
        name = weights_name(owner.name, _digest(together[0]))
        names.append(name)
        metadata = owner.metadata(name, WEIGHTS)
        made.append(sealed({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}))
        made.append(_job(owner, name, together, fetched))
    return [*_access(owner, names), *made] if made else []


def _digest(stage: StageSpec) -> str:
    """Of everything that a person wrote about the Job."""
    cache, source = stage.model.cache, stage.model.source.hugging_face
    assert cache is not None
    image = cache.image or stage.engine.image
    written = [part.model_dump(mode="json") if part else None for part in (cache, source)]
    return digest((stage.model.id, written, image, _given(stage)))[:8]


def _job(owner: Owner, name: str, stages: Sequence[StageSpec], fetched: Fetched) -> Manifest:
    stage = stages[0]
    cache = stage.model.cache
    assert cache is not None
    metadata = owner.metadata(name, WEIGHTS)
    metadata["annotations"] = {STAGES: ",".join(each.name for each in stages)}
    return sealed(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata,
            "spec": {
                "backoffLimit": BACKOFF_LIMIT,
                "template": {
                    "metadata": {"labels": resource_labels(owner.kind, owner.name, WEIGHTS)},
                    "spec": _pod_spec(owner, name, stage, fetched),
                },
            },
        }
    )


def _pod_spec(owner: Owner, name: str, stage: StageSpec, fetched: Fetched) -> Manifest:
    cache, given = stage.model.cache, _given(stage)["spec"].get("imagePullSecrets", ())
    assert cache is not None
    image = cache.image or fetched.image_of(stage)
    pod: Manifest = {
        "restartPolicy": "Never",
        "serviceAccountName": weights_name(owner.name),
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        "affinity": off_excluded_nodes(),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(owner, name, stage, image)],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {
                "name": "weights",
                "persistentVolumeClaim": {"claimName": cache.persistent_volume_claim.claim_name},
            },
        ],
        **pull_secrets(fetched.pull_secrets, given),
    }
    if stage.priority_class is not None:
        pod["priorityClassName"] = stage.priority_class
    return pod


def _container(owner: Owner, name: str, stage: StageSpec, image: str) -> Manifest:
    mounts = [{"name": "tmp", "mountPath": "/tmp"}, _mount(stage.model.cache)]
    return {
        "name": WEIGHTS,
        "image": image,
        "command": ["python3", "-c", PROGRAM],
        "env": _environment(owner, name, stage),
        "resources": _RESOURCES,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def _mount(cache: ModelCache | None) -> Manifest:
    assert cache is not None
    path = cache.persistent_volume_claim.sub_path
    return {"name": "weights", "mountPath": _ROOT} | ({"subPath": path} if path else {})


def _environment(owner: Owner, name: str, stage: StageSpec) -> list[Manifest]:
    source = stage.model.source.hugging_face
    progress = f"/api/v1/namespaces/{owner.namespace}/configmaps/{name}"
    values = {
        "HOME": "/tmp",
        "HF_HOME": "/tmp/huggingface",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "MOTLEY_MODEL": stage.model.id,
        "MOTLEY_REVISION": (source.revision if source is not None else None) or "",
        "MOTLEY_ROOT": _ROOT,
        "MOTLEY_FOLDER": stage.folder,
        "MOTLEY_PROGRESS": f"https://kubernetes.default.svc{progress}",
    }
    ours = [*hub_token(stage), *({"name": key, "value": values[key]} for key in sorted(values))]
    taken = {each["name"] for each in ours}
    return [*(each for each in _given(stage)["env"] if each["name"] not in taken), *ours]


def _given(stage: StageSpec) -> Mapping[str, Any]:
    """What of the stage's podTemplate holds for the Job: proxies and mirrors, and pull secrets."""
    spec = (stage.template or {}).get("spec") or {}
    env = [
        dict(each)
        for container in spec.get("containers") or ()
        if container.get("name") == CONTAINER
        for each in container.get("env") or ()
    ]
    secrets = spec.get("imagePullSecrets")
    return {"env": env, "spec": {"imagePullSecrets": secrets} if secrets else {}}


def _access(owner: Owner, names: Sequence[str]) -> list[Manifest]:
    """What the Jobs' pods may do: patch the ConfigMaps that say how far they are."""
    name = weights_name(owner.name)
    metadata = owner.metadata(name, WEIGHTS)
    rule = {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": list(names),
        "verbs": ["patch"],
    }
    account = {"kind": "ServiceAccount", "name": name, "namespace": owner.namespace}
    return [
        sealed(
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": metadata,
                "automountServiceAccountToken": False,
            }
        ),
        sealed(
            {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": [rule]}
        ),
        sealed(
            {
                "apiVersion": f"{_RBAC}/v1",
                "kind": "RoleBinding",
                "metadata": metadata,
                "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
                "subjects": [account],
            }
        ),
    ]
