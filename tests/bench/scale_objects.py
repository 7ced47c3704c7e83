"""What the scale bench fills a cluster with: real-sized nodes, pools, and who is audited."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random
from typing import Any

from e2e.cluster.nodes import make_mix

NAMESPACES = 20
BURST_LABEL = "bench.motley.dev/burst"  # on the tenth of the nodes that is lost at once
SHAPES = ("h100", "a100-80", "l40s", "l4")
# Model, precision, requests/s of one pool for each pod that a fleet is asked to run (about).
MODELS = (
    ("meta-llama/Llama-3.1-8B-Instruct", "bf16", 4.4),
    ("Qwen/Qwen3-32B", "bf16", 2.2),
    ("meta-llama/Llama-3.1-70B-Instruct", "fp8", 3.2),
)
# Every call that the operator made, when it ended, and nobody else's.
AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted, Panic]
omitManagedFields: true
rules:
  - level: Metadata
    users: ["system:serviceaccount:motley-system:motley"]
  - level: None
"""

Document = dict[str, Any]


def node_objects(count: int) -> list[Document]:
    """Nodes of four shapes in equal parts, filled up to the size of real ones; a tenth is struck."""
    parts = [(shape, count // 4 + (i < count % 4)) for i, shape in enumerate(SHAPES)]
    nodes = make_mix(parts)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    struck = set(Random(3).sample(range(count), count // 10))
    for number, node in enumerate(nodes):
        labels = node["metadata"]["labels"]
        if number in struck:
            labels[BURST_LABEL] = "struck"
        for i in range(60 - len(labels)):
            labels[f"feature.node.kubernetes.io/cpu-cpuid.FEATURE-{i:02d}-SUPPORTED"] = "true"
        node["status"]["conditions"] = [
            {
                "type": "Ready",
                "status": "True",
                "reason": "KubeletReady",
                "lastHeartbeatTime": now,
                "lastTransitionTime": now,
            }
        ]
        node["status"]["images"] = [
            {
                "names": [
                    f"images.example/team/platform/component-{i}-runtime@sha256:{number * 50 + i:064x}",
                    f"images.example/team/platform/component-{i}-runtime:v1.{i}.{number % 7}",
                ],
                "sizeBytes": 50_000_000 + i,
            }
            for i in range(50)
        ]
    return nodes


def pool_objects(count: int, pods: int) -> list[Document]:
    """Pools of three models that ask for about so many pods together; the same in every run."""
    random = Random(1)
    found = []
    for number in range(count):
        model, precision, rate = MODELS[number % len(MODELS)]
        asked = rate * pods / count * random.uniform(0.6, 1.4)
        source = {"type": "HuggingFace", "huggingFace": {"revision": "main"}}
        chat = {"name": "chat", "promptTokens": 1200, "outputTokens": 300, "weight": 1}
        spec = {
            "model": {"id": model, "precision": precision, "source": source},
            "workload": {"requestsPerSecond": f"{asked:.2f}", "classes": [chat]},
            "slo": {"ttft": {"p95": "2s"}, "tpot": {"p95": "80ms"}},
            "parallelism": {"maxTensor": 4},
        }
        metadata = {"name": f"pool-{number}", "namespace": f"team-{number % NAMESPACES}"}
        kind = {"apiVersion": "motley.dev/v1alpha1", "kind": "ServingPool"}
        found.append({**kind, "metadata": metadata, "spec": spec})
    return found


def namespace_objects() -> list[Document]:
    """Where the pools are."""
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"team-{number}"}}
        for number in range(NAMESPACES)
    ]
