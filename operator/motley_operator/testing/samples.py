"""Nodes, resources and plans with good defaults, so that a test states only what it is about."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from motley_operator.domain.facts import NodeFacts, Room, Taint
from motley_planner.domain.plan import Group, Plan, PlannedReplica, PolicyChoice, Refusal, Slice

Document = dict[str, Any]
GIB = 2**30


def gpu_node(
    name: str,
    product: str = "NVIDIA-H100-80GB-HBM3",
    gpus: int = 8,
    zone: str = "az-1",
    **changes: Any,
) -> NodeFacts:
    """A ready node with room for everything that its GPUs need; `changes` replace fields."""
    labels = {
        "kubernetes.io/hostname": name,
        "nvidia.com/gpu.product": product,
        "topology.kubernetes.io/zone": zone,
    } | changes.pop("labels", {})
    taints = tuple(Taint(*each) for each in changes.pop("taints", ()))
    node = NodeFacts(
        name=name,
        uid=f"node-{name}",
        labels=labels,
        annotations={},
        taints=taints,
        unschedulable=False,
        ready=True,
        not_ready_since=None,
        deleting=False,
        allocatable=Room(gpus, 16_000 * gpus, 128 * GIB * gpus, 1000 * GIB, 110),
        gpu_resource="nvidia.com/gpu",
        gpu_label=product,
    )
    return replace(node, **changes)


def pool(name: str = "chat", **spec: Any) -> Document:
    """A ServingPool of one 8B model; `spec` replaces fields of the spec."""
    return _resource(
        "ServingPool",
        name,
        {
            "model": {"id": "Qwen/Qwen3-8B"},
            "workload": {
                "requestsPerSecond": 2,
                "classes": [{"name": "all", "promptTokens": 800, "outputTokens": 200}],
            },
        },
        spec,
    )


def cascade(name: str = "support", **spec: Any) -> Document:
    """A ModelCascade of two stages with its table in ConfigMap `table`."""
    return _resource(
        "ModelCascade",
        name,
        {
            "stages": [
                {"name": "small", "model": {"id": "Qwen/Qwen3-8B"}},
                {"name": "large", "model": {"id": "Qwen/Qwen3-32B"}},
            ],
            "quality": {
                "floor": "50%",
                "calibration": {"configMapKeyRef": {"name": "table", "key": "table.csv"}},
            },
            "workload": {
                "requestsPerSecond": 2,
                "classes": [{"name": "all", "promptTokens": 800, "outputTokens": 200}],
            },
        },
        spec,
    )


CALIBRATION = "question_id,small:score,small:quality,large:quality\n" + "\n".join(
    f"q{i},{i / 100},{int(i % 10 < 8)},{int(i % 10 < 9)}" for i in range(100)
)


def job(name: str = "math", **spec: Any) -> Document:
    """An RLJob of one small model."""
    return _resource(
        "RLJob",
        name,
        {
            "framework": {"name": "areal", "config": {"seed": 1}},
            "model": {"id": "Qwen/Qwen2.5-7B-Instruct"},
            "algorithm": {"batchPrompts": 64, "maxNewTokens": 2048, "steps": 100},
            "rollout": {"minReplicas": 2},
            "storage": {"persistentVolumeClaim": {"claimName": "rl-shared"}},
        },
        spec,
    )


def _resource(kind: str, name: str, base: Document, spec: Mapping[str, Any]) -> Document:
    return {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "team-a"},
        "spec": copy.deepcopy({**base, **spec}),
    }


def replica(stage: str = "main", ordinal: int = 0, **changes: Any) -> PlannedReplica:
    """A planned replica on node h0; `changes` replace fields."""
    column = changes.pop("column", "0a1b2c3d")
    role = {"rollout": "rollout", "trainer": "trainer"}.get(stage, "serve")
    fields: dict[str, Any] = {
        "name": f"{stage}-{column}-{ordinal}",
        "stage": stage,
        "role": role,
        "column": column,
        "ordinal": ordinal,
        "model": "Qwen/Qwen3-8B",
        "precision": "bf16",
        "engine": "vllm",
        "gpu": "H100-SXM5-80GB",
        "tensor_parallel": 1,
        "operating_batch": 32,
        "nodes": ("h0",),
        "kept": None,
        "rates": {"all": 1.0},
        "capacity": {"all": 2.5},
        "price_usd_per_hour": 2.5,
    }
    return PlannedReplica(**(fields | changes))


def slice_of(
    key: str,
    replicas: Sequence[PlannedReplica] = (),
    refusals: Sequence[Refusal] = (),
    policies: Sequence[PolicyChoice] = (),
    digest: str = "",
) -> Slice:
    """A resource's part of a plan, with one group for each stage and column."""
    groups: dict[tuple[str, str], list[PlannedReplica]] = {}
    for each in replicas:
        groups.setdefault((each.stage, each.column), []).append(each)
    return Slice(
        key=key,
        hash=digest or f"hash{len(replicas)}",
        replicas=tuple(replicas),
        groups=tuple(
            Group(
                stage=stage,
                role=members[0].role,
                column=column,
                model=members[0].model,
                gpu=members[0].gpu,
                tensor_parallel=members[0].tensor_parallel,
                zone="az-1",
                capacity_type="on-demand",
                count=len(members),
                price_usd_per_hour=sum(m.price_usd_per_hour for m in members),
            )
            for (stage, column), members in sorted(groups.items())
        ),
        price_usd_per_hour=sum(r.price_usd_per_hour for r in replicas),
        requests_per_second=2.0,
        served_requests_per_second=2.0 if replicas else 0.0,
        policies=tuple(policies),
        refusals=tuple(refusals),
    )


def plan_of(*slices: Slice) -> Plan:
    """An optimal plan of these slices."""
    return Plan(
        status="optimal",
        slices=slices,
        levels=(),
        objective=1.0,
        bound=1.0,
        gap=0.0,
        solve_seconds=0.01,
        price_usd_per_hour=sum(part.price_usd_per_hour for part in slices),
    )
