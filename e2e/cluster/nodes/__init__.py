"""Node objects with GPUs, as a cloud's nodes with GPU feature discovery look to the API server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

GIB_KI = 1024 * 1024
DEMO = Path(__file__).parent / "demo.yaml"

Node = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of machine. Products and memory are the words of NVIDIA's GPU feature discovery."""

    gpu_product: str
    gpu_count: int
    gpu_memory_mib: int
    cpu_cores: int
    memory_gib: int
    ephemeral_gib: int
    instance_type: str


# Instance types, cores and memory: Amazon EC2's accelerated-computing pages. GPU memory: what
# nvidia-smi reports for the product, which is what the label says.
SHAPES: Mapping[str, Shape] = {
    "b200": Shape("NVIDIA-B200", 8, 183359, 192, 2048, 3500, "p6-b200.48xlarge"),
    "h200": Shape("NVIDIA-H200", 8, 143771, 192, 2048, 3500, "p5en.48xlarge"),
    "h100": Shape("NVIDIA-H100-80GB-HBM3", 8, 81559, 192, 2048, 3500, "p5.48xlarge"),
    "a100-80": Shape("NVIDIA-A100-SXM4-80GB", 8, 81920, 96, 1152, 3500, "p4de.24xlarge"),
    "a100-40": Shape("NVIDIA-A100-SXM4-40GB", 8, 40960, 96, 1152, 3500, "p4d.24xlarge"),
    "l40s": Shape("NVIDIA-L40S", 8, 46068, 192, 1536, 7600, "g6e.48xlarge"),
    "l4": Shape("NVIDIA-L4", 8, 23034, 192, 768, 7600, "g6.48xlarge"),
    "a10g": Shape("NVIDIA-A10G", 4, 23028, 96, 384, 1900, "g5.24xlarge"),
    "t4": Shape("Tesla-T4", 4, 15360, 48, 192, 900, "g4dn.12xlarge"),
    "v100": Shape("Tesla-V100-SXM2-16GB", 8, 16384, 64, 488, 900, "p3.16xlarge"),
}


def make_nodes(
    shape: str | Shape,
    count: int = 1,
    *,
    prefix: str | None = None,
    zones: Sequence[str] = ("az-1", "az-2"),
    capacity_types: Sequence[str] = ("on-demand",),
) -> list[Node]:
    """Nodes of one shape named `<prefix>-1`, `<prefix>-2`, ...; zones and capacity types in turn."""
    what = SHAPES[shape] if isinstance(shape, str) else shape
    name = prefix or (shape if isinstance(shape, str) else what.instance_type.replace(".", "-"))
    return [
        _node(
            what,
            f"{name}-{number + 1}",
            zones[number % len(zones)],
            capacity_types[number % len(capacity_types)],
        )
        for number in range(count)
    ]


def make_mix(counts: Iterable[tuple[str, int]]) -> list[Node]:
    """Nodes of several shapes; of each shape's nodes every third is a spot node."""
    turns = ("on-demand", "on-demand", "spot")
    return [
        node for shape, count in counts for node in make_nodes(shape, count, capacity_types=turns)
    ]


def demo_nodes() -> list[Node]:
    """The demo's twelve mixed nodes, which demo.yaml holds as a file."""
    return make_mix([("h100", 3), ("a100-80", 4), ("l40s", 3), ("l4", 2)])


def _node(shape: Shape, name: str, zone: str, capacity_type: str) -> Node:
    capacity = {
        "cpu": str(shape.cpu_cores),
        "memory": f"{shape.memory_gib * GIB_KI}Ki",
        "ephemeral-storage": f"{shape.ephemeral_gib * GIB_KI}Ki",
        "pods": "110",
        "nvidia.com/gpu": str(shape.gpu_count),
    }
    # What a kubelet keeps for itself: about half a core, 2 % of memory, 10 % of the disk.
    allocatable = capacity | {
        "cpu": f"{shape.cpu_cores * 1000 - 500}m",
        "memory": f"{shape.memory_gib * GIB_KI * 98 // 100}Ki",
        "ephemeral-storage": f"{shape.ephemeral_gib * GIB_KI * 9 // 10}Ki",
    }
    labels = labels_of(shape, name, zone, capacity_type)
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"capacity": capacity, "allocatable": allocatable},
    }


def labels_of(
    shape: Shape, name: str, zone: str = "az-1", capacity_type: str = "on-demand"
) -> dict[str, str]:
    """What a cloud and NVIDIA's GPU feature discovery write on such a machine's node."""
    return {
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "node.kubernetes.io/instance-type": shape.instance_type,
        "topology.kubernetes.io/region": "region-1",
        "topology.kubernetes.io/zone": zone,
        "karpenter.sh/capacity-type": capacity_type,
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": shape.gpu_product,
        "nvidia.com/gpu.count": str(shape.gpu_count),
        "nvidia.com/gpu.memory": str(shape.gpu_memory_mib),
    }


def read(path: Path) -> list[Node]:
    """The nodes of a file: one Node or several documents, a `kind: List`, a plain list, or the
    short form `nodes: [{shape: h100, count: 3, zones: [az-1], capacityTypes: [spot]}]`.

    Raises: ValueError naming the file if it holds anything else.
    """
    found: list[Node] = []
    for document in yaml.safe_load_all(path.read_text()):
        if document is None:
            continue
        if isinstance(document, list):
            found += document
        elif isinstance(document, dict) and isinstance(document.get("items"), list):
            found += document["items"]
        elif isinstance(document, dict) and isinstance(document.get("nodes"), list):
            found += [node for one in document["nodes"] for node in _expand(path, one)]
        else:
            found.append(document)
    for node in found:
        if not isinstance(node, dict) or node.get("kind") != "Node":
            raise ValueError(f"{path}: holds something that is not a Node: {str(node)[:80]}")
    return [_creatable(node) for node in found]


def _expand(path: Path, short: Mapping[str, Any]) -> list[Node]:
    if short.get("shape") not in SHAPES:
        raise ValueError(f"{path}: shape {short.get('shape')!r} is none of {', '.join(SHAPES)}")
    return make_nodes(
        short["shape"],
        int(short.get("count", 1)),
        prefix=short.get("prefix"),
        zones=short.get("zones", ("az-1", "az-2")),
        capacity_types=short.get("capacityTypes", ("on-demand",)),
    )


def _creatable(node: Node) -> Node:
    """The node without what only a server writes, so that `kubectl get nodes -o yaml` can be read.

    Conditions go too: they would say Ready before kwok has taken the node.
    """
    drop = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation")
    metadata = {key: value for key, value in node["metadata"].items() if key not in drop}
    status = {
        key: value
        for key, value in node.get("status", {}).items()
        if key in ("capacity", "allocatable")
    }
    return {**node, "metadata": metadata, "status": status}


def to_yaml(nodes: Sequence[Node]) -> str:
    """The nodes as one `kind: List`, as `kubectl get nodes -o yaml` prints them."""
    document = {"apiVersion": "v1", "kind": "List", "items": list(nodes)}
    return str(yaml.safe_dump(document, sort_keys=False))
