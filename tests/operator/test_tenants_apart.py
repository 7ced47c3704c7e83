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


def test_a_plan_reads_the_same_whether_a_neighbor_is_short_or_not() -> None:
    """How good the fleet's plan is as a whole, and how long it took, is the Fleet's to say."""
    plans = []
    for rate_of_neighbor in (2, 900):
        operated = Operated(0)
        operated.world.add_node(*(gpu_node(f"h{i}", gpus=4) for i in range(2)))
        where = [{"nodeSelector": {"kubernetes.io/hostname": f"h{i}"}} for i in range(2)]
        other = pool("other", workload=load(rate_of_neighbor), placement=where[1])
        other["metadata"]["namespace"] = "secretns-b"
        is_short = operated.world.add(other)
        key = operated.world.add(pool("one", workload=load(4), placement=where[0]))
        operated.run()
        assert (operated.condition(is_short, "Planned")[0] == "False") == (rate_of_neighbor == 900)
        plans.append(operated.status(key)["plan"])
    assert plans[0] == plans[1]
