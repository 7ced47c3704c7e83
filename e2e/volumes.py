"""Claims that are bound at once; no container of the local cluster ever mounts them."""

from __future__ import annotations

from typing import Any


def bound_claim(namespace: str, name: str, volume: str) -> list[dict[str, Any]]:
    """A volume that many nodes could write, and the claim that it is bound to."""
    size = {"storage": "100Gi"}
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": common
            | {
                "capacity": size,
                "persistentVolumeReclaimPolicy": "Retain",
                "nfs": {"server": "nfs.example", "path": "/shared"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace},
            "spec": common | {"volumeName": volume, "resources": {"requests": size}},
        },
    ]
