"""What one tenant reads in a status says nothing of another's resources."""

from __future__ import annotations

import json

import pytest

from motley_operator.testing import gpu_node, pool
from motley_operator.testing.operated import PREVIEW, Operated, load

TENANTS = ("secretns-a", "secretns-b", "secretns-c")


@pytest.mark.parametrize("rate", [4, 400], ids=["room for all", "room for few"])
@pytest.mark.parametrize("mode", [{}, PREVIEW], ids=["Auto", "Preview"])
def test_no_status_or_event_names_another_tenant(rate: int, mode: dict[str, str]) -> None:
    operated = Operated(0)
    operated.world.add_node(*(gpu_node(f"h{i}", gpus=4) for i in range(2)))
    keys = []
    for tenant in TENANTS:
        document = pool(f"pool-of-{tenant[-1]}", workload=load(rate), replan=mode)
        document["metadata"]["namespace"] = tenant
        keys.append(operated.world.add(document))
    shares = [{"namespace": "secretns-b", "guaranteedShare": "50%", "weight": 5}]
    operated.world.fleet = {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": "default", "uid": "f", "generation": 1},
        "spec": {"budget": {"dollarsPerHour": "20"}, "tenants": shares},
    }
    operated.run()
    for key, tenant in zip(keys, TENANTS, strict=True):
        status = operated.status(key)
        own = json.dumps(status)
        if rate == 400:  # what is lacking is told, with what binds, and still names nobody else
            assert operated.condition(key, "Planned")[0] == "False"
        own += " ".join(e.message for e in operated.world.events if e.namespace == tenant)
        others = {*TENANTS} - {tenant}
        names = {*others, *(f"pool-of-{other[-1]}" for other in others)}
        assert not [name for name in names if name in own], own
