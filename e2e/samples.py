"""Resources that tests on a real cluster apply."""

from __future__ import annotations

from typing import Any


def pool(name: str, namespace: str, rate: float, **spec: Any) -> dict[str, Any]:
    """A pool of a small model; about one L4 for each 3 requests/s."""
    workload = {
        "requestsPerSecond": rate,
        "classes": [{"name": "all", "promptTokens": 800, "outputTokens": 200}],
    }
    return {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "ServingPool",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"model": {"id": "Qwen/Qwen3-8B"}, "workload": workload, **spec},
    }
