"""What counts as a GPU: label sets of real clusters, and what no labels may ever make of a node."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_operator.cli.documents import Sources, facts_of
from motley_operator.facts.nodes import parse_node
from motley_operator.facts.slices import parse_slice
from motley_operator.testing.operated import CATALOG, SETTINGS
from motley_operator.testing.samples import pool
from motley_operator.translate import translate
from motley_operator.translate.devices import gpus_by_driver
from motley_planner.domain.snapshot import Snapshot

SHARED = "they share one memory"
SLICES = "MIG slices are not planned"
HOST = {"cpu": "128", "memory": "2Ti", "pods": "110"}
NVIDIA = "nvidia.com/"
H100 = {NVIDIA + "gpu.product": "NVIDIA-H100-80GB-HBM3"}
A100 = {NVIDIA + "gpu.product": "NVIDIA-A100-SXM4-80GB"}


def sharing(strategy: str, replicas: str, count: str, product: str) -> dict[str, str]:
    return {
        NVIDIA + "gpu.product": product,
        NVIDIA + "gpu.count": count,
        NVIDIA + "gpu.replicas": replicas,
        NVIDIA + "gpu.sharing-strategy": strategy,
    }


def node(labels: dict[str, str], **allocatable: Any) -> dict[str, Any]:
    return {
        "kind": "Node",
        "metadata": {"name": "n0", "labels": labels},
        "status": {"allocatable": {**HOST, **allocatable}},
    }


# labels, allocatable, GPUs that are planned, (product, part of the reason) of what is left out
CASES: dict[str, tuple[dict[str, str], dict[str, str], int, list[tuple[str, str]]]] = {
    # GPU feature discovery, docs/gpu-feature-discovery of NVIDIA/k8s-device-plugin.
    "whole GPUs": (
        H100 | {NVIDIA + "gpu.count": "8", NVIDIA + "gpu.replicas": "1"},
        {NVIDIA + "gpu": "8"},
        8,
        [],
    ),
    "whole GPUs of a MIG strategy that is not used": (
        sharing("none", "1", "8", "NVIDIA-H100-80GB-HBM3")
        | {NVIDIA + "mig.capable": "true", NVIDIA + "mig.strategy": "single"},
        {NVIDIA + "gpu": "8"},
        8,
        [],
    ),
    "one of eight is not healthy": (
        H100 | {NVIDIA + "gpu.count": "8"},
        {NVIDIA + "gpu": "7"},
        7,
        [],
    ),
    # GPU operator, "Time-Slicing GPUs in Kubernetes".
    "time slices": (
        sharing("time-slicing", "4", "4", "Tesla-T4-SHARED"),
        {NVIDIA + "gpu": "16"},
        0,
        [("Tesla-T4-SHARED", SHARED)],
    ),
    "time slices without the suffix": (
        sharing("time-slicing", "4", "1", "NVIDIA-H100-80GB-HBM3"),
        {NVIDIA + "gpu": "4"},
        0,
        [("NVIDIA-H100-80GB-HBM3", SHARED)],
    ),
    "time slices of an old discovery that says only how many": (
        {NVIDIA + "gpu.product": "Tesla-T4", NVIDIA + "gpu.count": "4"},
        {NVIDIA + "gpu": "16"},
        0,
        [("Tesla-T4", "16 are offered of 4 GPUs")],
    ),
    "time slices, renamed": (
        sharing("time-slicing", "4", "4", "Tesla-T4"),
        {NVIDIA + "gpu": "0", NVIDIA + "gpu.shared": "16"},
        0,
        [("nvidia.com/gpu.shared", SHARED)],
    ),
    # GPU operator, "Multi-Process Service in Kubernetes".
    "MPS": (
        sharing("mps", "4", "4", "Tesla-T4-SHARED"),
        {NVIDIA + "gpu": "16"},
        0,
        [("Tesla-T4-SHARED", "shared GPUs (mps)")],
    ),
    # GPU operator with MIG.
    "MIG, single strategy": (
        {
            NVIDIA + "gpu.product": "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb",
            NVIDIA + "gpu.count": "14",
            NVIDIA + "gpu.slices.gi": "1",
            NVIDIA + "gpu.slices.ci": "1",
            NVIDIA + "mig.strategy": "single",
        },
        {NVIDIA + "gpu": "14"},
        0,
        [("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", SLICES)],
    ),
    "MIG, mixed strategy: the GPUs that are not cut are planned": (
        A100
        | {
            NVIDIA + "gpu.count": "8",
            NVIDIA + "mig.strategy": "mixed",
            NVIDIA + "mig-1g.10gb.count": "14",
            NVIDIA + "mig-3g.40gb.count": "2",
        },
        {NVIDIA + "gpu": "5", NVIDIA + "mig-1g.10gb": "14", NVIDIA + "mig-3g.40gb": "2"},
        5,
        [("nvidia.com/mig-1g.10gb", SLICES), ("nvidia.com/mig-3g.40gb", SLICES)],
    ),
    "MIG, mixed strategy, all are cut": (
        A100 | {NVIDIA + "mig.strategy": "mixed", NVIDIA + "gpu.count": "1"},
        {NVIDIA + "gpu": "0", NVIDIA + "mig-1g.10gb": "7"},
        0,
        [("nvidia.com/mig-1g.10gb", SLICES)],
    ),
    # GKE: gke-accelerator stays that of the whole GPU.
    "MIG on GKE": (
        {
            "cloud.google.com/gke-accelerator": "nvidia-tesla-a100",
            "cloud.google.com/gke-gpu-partition-size": "1g.5gb",
        },
        {NVIDIA + "gpu": "7"},
        0,
        [("nvidia-tesla-a100", SLICES)],
    ),
    "time sharing on GKE": (
        {
            "cloud.google.com/gke-accelerator": "nvidia-l4",
            "cloud.google.com/gke-gpu-sharing-strategy": "time-sharing",
            "cloud.google.com/gke-max-shared-clients-per-gpu": "3",
        },
        {NVIDIA + "gpu": "3"},
        0,
        [("nvidia-l4", SHARED)],
    ),
    "a virtual GPU": (
        {NVIDIA + "gpu.product": "NVIDIA-A40", NVIDIA + "vgpu.present": "true"},
        {NVIDIA + "gpu": "1"},
        0,
        [("NVIDIA-A40", "virtual GPUs")],
    ),
    "a product that nobody knows": (
        {NVIDIA + "gpu.product": "NVIDIA-X900"},
        {NVIDIA + "gpu": "8"},
        0,
        [("NVIDIA-X900", "no GPU of the catalog has this product label")],
    ),
    "no product label": (
        {},
        {NVIDIA + "gpu": "8"},
        0,
        [("(nvidia.com/gpu without a product label)", "no GPU of the catalog")],
    ),
    # AMD's node labeller (ROCm/k8s-device-plugin).
    "AMD": (
        {
            "amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM",
            "amd.com/gpu.compute-memory-partition": "spx_nps1",
        },
        {"amd.com/gpu": "8"},
        8,
        [],
    ),
    "AMD, cut into eight": (
        {
            "amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM",
            "amd.com/gpu.compute-memory-partition": "cpx_nps4",
        },
        {"amd.com/gpu": "64"},
        0,
        [("AMD_Instinct_MI300X_OAM", "GPU partitions (cpx_nps4)")],
    ),
    "AMD, mixed naming": (
        {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM"},
        {"amd.com/cpx_nps4": "64"},
        0,
        [("amd.com/cpx_nps4", "GPU partitions")],
    ),
    # Intel device plugins, cmd/gpu_plugin/labels.md.
    "Intel": (
        {"gpu.intel.com/product": "Max_1550", "gpu.intel.com/device.count": "2"},
        {"gpu.intel.com/xe": "2"},
        0,
        [("Max_1550", "no GPU of the catalog")],
    ),
    "Intel, shared": (
        {"gpu.intel.com/product": "Max_1550", "gpu.intel.com/device.count": "2"},
        {"gpu.intel.com/xe": "20", "gpu.intel.com/xe_monitoring": "1"},
        0,
        [("Max_1550", "20 are offered of 2 GPUs")],
    ),
    "an old Intel driver": (
        {"gpu.intel.com/product": "Flex_170"},
        {"gpu.intel.com/i915": "1", "gpu.intel.com/i915_monitoring": "1"},
        0,
        [("gpu.intel.com/i915", "ask for gpu.intel.com/xe")],
    ),
    "a graphics unit beside eight GPUs": (
        H100 | {NVIDIA + "gpu.count": "8"},
        {NVIDIA + "gpu": "8", "gpu.intel.com/i915": "1"},
        8,
        [("gpu.intel.com/i915", "ask for gpu.intel.com/xe")],
    ),
    "two vendors": (
        H100,
        {NVIDIA + "gpu": "4", "amd.com/gpu": "2"},
        4,
        [("amd.com/gpu", "one kind a node")],
    ),
    "Gaudi": ({}, {"habana.ai/gaudi": "8"}, 0, [("habana.ai/gaudi", "Gaudi")]),
    "TPU": ({}, {"google.com/tpu": "4"}, 0, [("google.com/tpu", "TPUs")]),
    "Neuron": ({}, {"aws.amazon.com/neuron": "16"}, 0, [("aws.amazon.com/neuron", "Neuron")]),
    "a vendor that nobody knows": (
        {},
        {"metax-tech.com/gpu": "8"},
        0,
        [("metax-tech.com/gpu", "no such resource is known")],
    ),
    "no GPUs, but other devices": ({}, {"rdma/hca": "1k", "vpc.amazonaws.com/efa": "4"}, 0, []),
}


def snapshot_of(*objects: dict[str, Any]) -> tuple[Snapshot, list[tuple[str, str]]]:
    nodes = [("f", one) for one in objects if one["kind"] == "Node"]
    others = [("f", one) for one in objects if one["kind"] != "Node"]
    made = translate(facts_of(Sources([("f", pool()), *others], nodes)), CATALOG, SETTINGS)
    return made.snapshot, [(one.product, one.reason) for one in made.unknown_gpus]


@pytest.mark.parametrize("name", CASES)
def test_gpus_are_counted_right_or_refused_by_name(name: str) -> None:
    labels, allocatable, gpus, left_out = CASES[name]
    snapshot, said = snapshot_of(node(labels, **allocatable))
    assert sum(each.gpus for each in snapshot.nodes) == gpus
    assert len(said) == len(left_out)
    for (product, words), (told, reason) in zip(sorted(left_out), sorted(said), strict=True):
        assert told == product
        assert words in reason


PRODUCTS = (
    "NVIDIA-H100-80GB-HBM3",
    "Tesla-T4",
    "Tesla-T4-SHARED",
    "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb",
)


@settings(max_examples=300, deadline=None)
@given(
    physical=st.integers(1, 8),
    replicas=st.integers(1, 8),
    how=st.sampled_from(("none", "time-slicing", "mps")),
    product=st.sampled_from(PRODUCTS),
    broken=st.integers(0, 2),
    extra=st.dictionaries(
        st.sampled_from(
            ("nvidia.com/mig-1g.10gb", "nvidia.com/gpu.shared", "gpu.intel.com/i915", "amd.com/gpu")
        ),
        st.integers(0, 56),
    ),
)
def test_a_node_never_has_more_gpus_to_plan_than_it_has(
    physical: int, replicas: int, how: str, product: str, broken: int, extra: dict[str, int]
) -> None:
    offered = max(0, physical - broken) * (replicas if how != "none" else 1)
    labels = sharing(how, str(replicas if how != "none" else 1), str(physical), product)
    allocatable = {"nvidia.com/gpu": str(offered)} | {k: str(v) for k, v in extra.items()}
    facts = parse_node(node(labels, **allocatable))
    if facts.gpu_resource == "nvidia.com/gpu":
        assert facts.allocatable.gpus <= physical
    if how != "none" and replicas > 1:
        assert facts.gpu_resource != "nvidia.com/gpu"
    snapshot, _ = snapshot_of(node(labels, **allocatable))
    of_nvidia = [n for n in snapshot.nodes if CATALOG.gpus[n.node_class.gpu].vendor == "nvidia"]
    assert sum(n.gpus for n in of_nvidia) <= physical


def device(name: str, **attributes: str) -> dict[str, Any]:
    """With texts as attributes; `pciBusID` is Kubernetes' own."""
    standard = {"pciBusID": "resource.kubernetes.io/pciBusID"}
    return {
        "name": name,
        "attributes": {standard.get(k, k): {"string": v} for k, v in attributes.items()},
    }


def dra_slice(name: str, *uuids: str, **changes: Any) -> dict[str, Any]:
    """As gpu.nvidia.com publishes them (NVIDIA/k8s-dra-driver-gpu): GPUs and their MIG profiles."""

    devices = [device(f"gpu-{i}", type="gpu", uuid=uuid) for i, uuid in enumerate(uuids)]
    devices += [
        device(f"gpu-{i}-mig-1g", type="mig", uuid=f"MIG-{uuid}", parentUUID=uuid)
        for i, uuid in enumerate(uuids)
    ]
    pool = {"name": "n0", "generation": changes.pop("generation", 1), "resourceSliceCount": 1}
    spec = {"driver": "gpu.nvidia.com", "nodeName": "n0", "pool": pool, "devices": devices}
    return {"kind": "ResourceSlice", "metadata": {"name": name}, "spec": spec | changes}


def test_devices_by_dra_alone_are_counted_and_said_not_to_be_planned() -> None:
    labels = H100 | {NVIDIA + "gpu.count": "2"}
    snapshot, said = snapshot_of(node(labels), dra_slice("s", "GPU-a", "GPU-b"))
    assert snapshot.nodes == ()
    ((product, reason),) = said
    assert product == "2 devices of gpu.nvidia.com"
    assert "not used for planning" in reason


def test_a_gpu_that_is_also_a_device_by_dra_counts_once() -> None:
    labels = H100 | {NVIDIA + "gpu.count": "2"}
    document = node(labels, **{NVIDIA + "gpu": "2"})
    snapshot, said = snapshot_of(document, dra_slice("s", "GPU-a", "GPU-b"))
    assert [each.gpus for each in snapshot.nodes] == [2]
    assert said == []


def test_of_slices_the_newest_generation_counts_and_each_gpu_once() -> None:
    slices = [
        dra_slice("old", "GPU-a", "GPU-b", "GPU-c"),
        dra_slice("one", "GPU-a", generation=2),
        dra_slice("two", "GPU-a", "GPU-b", generation=2),
        dra_slice("net", "x", driver="dra.net"),
        dra_slice("shared", "GPU-z", nodeName=None, allNodes=True),
    ]
    assert gpus_by_driver([parse_slice(each) for each in slices]) == {
        "n0": {"gpu.nvidia.com": 2},
        "": {"gpu.nvidia.com": 1},
    }


# As the drivers' pages say: gpu.amd.com's docs/driver-attributes.md, NVIDIA's of MIG and VFIO devices.
OFFERED: dict[str, tuple[str, list[dict[str, Any]], dict[str, int]]] = {
    "whole GPUs of AMD": (
        "gpu.amd.com",
        [device(f"gpu-{i}-{128 + i}", type="amdgpu", pciBusID=f"0000:{i}9:00.0") for i in (0, 1)],
        {"gpu.amd.com": 2},
    ),
    "one of AMD that is cut in advance, beside a whole one": (
        "gpu.amd.com",
        [
            device("gpu-0-128", type="amdgpu", pciBusID="0000:19:00.0"),
            *(
                device(f"gpu-1-{129 + i}", type="amdgpu-partition", pciBusID="0000:29:00.0")
                for i in range(8)
            ),
        ],
        {"gpu.amd.com": 1, "gpu.amd.com (amdgpu-partition)": 8},
    ),
    "one of AMD that is cut on demand": (
        "gpu.amd.com",
        [
            device("gpu-0-spx-nps1", type="amdgpu", pciAddr="0000:19:00.0"),
            device("gpu-0-cpx-nps4", type="amdgpu-partition", pciAddr="0000:19:00.0"),
        ],
        {"gpu.amd.com": 1},
    ),
    "MIG devices of a GPU that is not offered as a whole": (
        "gpu.nvidia.com",
        [
            device(f"gpu-0-mig-{i}", type="mig", uuid=f"MIG-{i}", parentUUID="GPU-a")
            for i in range(7)
        ],
        {"gpu.nvidia.com (mig)": 7},
    ),
    "MIG devices, and the GPU passed through, of one that is": (
        "gpu.nvidia.com",
        [
            device("gpu-0", type="gpu", uuid="GPU-a", pciBusID="0000:19:00.0"),
            device("gpu-0-mig-0", type="mig", uuid="MIG-0", parentUUID="GPU-a"),
            device("gpu-vfio-0", type="vfio", pciBusID="0000:19:00.0"),
        ],
        {"gpu.nvidia.com": 1},
    ),
}


@pytest.mark.parametrize("name", OFFERED)
def test_each_gpu_by_dra_is_counted_once_whatever_it_is_offered_as(name: str) -> None:
    driver, devices, counted = OFFERED[name]
    document = dra_slice("s", driver=driver, devices=devices)
    assert gpus_by_driver([parse_slice(document)]) == {"n0": counted}
    _, said = snapshot_of(node({}), document)
    assert [product for product, _ in said] == [f"{n} devices of {of}" for of, n in counted.items()]


def test_devices_of_no_single_node_are_said_too() -> None:
    shared = dra_slice("s", "GPU-a", nodeName=None, allNodes=True)
    _, said = snapshot_of(node({}), shared)
    assert [product for product, _ in said] == ["1 devices of gpu.nvidia.com"]
