"""Nodes that are about to go: what runs there is replaced first, and serves until then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from motley_operator.domain.facts import Room, Taint
from motley_operator.domain.notices import NOTICES, Notice, notice_of
from motley_operator.testing import gpu_node, job, pool
from motley_operator.testing.operated import Operated


def told(operated: Operated, node: str, key: str = "karpenter.sh/disrupted") -> None:
    """A taint on a node, as the one who takes nodes away puts it there."""
    old = operated.world.nodes[node]
    effect = "PreferNoSchedule" if NOTICES[key] == Notice.CANDIDATE else "NoSchedule"
    operated.world.nodes[node] = replace(old, taints=(Taint(key, "", effect),))


@pytest.mark.parametrize("key", [k for k, v in NOTICES.items() if v == Notice.LEAVING])
def test_what_runs_on_a_leaving_node_is_replaced_before_it_stops(key: str) -> None:
    operated = Operated(2)
    resource = operated.world.add(pool())
    operated.run()
    (old,) = operated.world.engine_pods(resource)
    told(operated, old.node or "", key)
    operated.cycle()
    pods = {pod.uid: pod for pod in operated.world.engine_pods(resource)}
    assert len(pods) == 2
    assert pods[old.uid].ready
    assert not pods[old.uid].deleting
    assert operated.status(resource)["lastReplan"]["reason"] == "NodeLeaving"
    assert operated.status(resource)["lastReplan"]["tier"] == "T1"
    operated.run()
    (new,) = operated.world.engine_pods(resource)
    assert new.node != old.node


def test_without_another_place_it_serves_until_the_node_is_gone() -> None:
    operated = Operated(1)
    resource = operated.world.add(pool())
    operated.run()
    before = operated.uids(resource)
    told(operated, "h0")
    operated.run()
    assert operated.uids(resource) == before
    assert operated.condition(resource, "Ready") == ("True", "Serving")
    assert operated.condition(resource, "Planned")[0] == "False"
    live = operated.world.owned[("ConfigMap", "team-a", "chat-routing")]["data"]["routing.json"]
    (pod,) = operated.world.engine_pods(resource)
    assert pod.name in live
    operated.world.add_node(gpu_node("h1", gpus=2))
    operated.run()
    assert operated.nodes(resource) == ["h1"]


def test_a_node_that_vanishes_after_its_notice_changes_nothing_more() -> None:
    operated = Operated(2)
    resource = operated.world.add(pool())
    operated.run()
    (old,) = operated.world.engine_pods(resource)
    told(operated, old.node or "")
    operated.run()
    before = operated.uids(resource)
    operated.world.lose_node(old.node or "")
    operated.run()
    assert operated.uids(resource) == before


def test_a_job_on_a_leaving_node_moves_only_if_it_has_where_to_go() -> None:
    operated = Operated(1)
    resource = operated.world.add(job(rollout={"minReplicas": 1}))
    operated.run()
    before = operated.uids(resource)
    assert before
    told(operated, "h0")
    operated.run()
    assert operated.uids(resource) == before
    operated.world.add_node(gpu_node("h1", gpus=2))
    operated.run()
    assert set(operated.nodes(resource)) == {"h1"}


def test_a_trainer_that_saves_goes_at_once_for_its_node_may_be_gone_before_it_has() -> None:
    operated = Operated(0)
    operated.world.add_node(gpu_node("h0"))
    saving = {"command": ["save"]}
    resource = operated.world.add(job(rollout={"minReplicas": 1}, checkpoint=saving))
    operated.run()
    operated.world.add_node(gpu_node("full"))
    operated.world.foreign_pod("other", "full", Room(8, pods=1))
    told(operated, "h0")
    for _ in range(2):
        operated.cycle()
    roles = {p.labels["motley.dev/role"]: p.deleting for p in operated.world.engine_pods(resource)}
    assert roles == {"trainer": True, "rollout": False}
    assert operated.condition(resource, "Checkpointing") == ("True", "Preempted")
    operated.world.add_node(gpu_node("h1"))
    operated.run()
    assert set(operated.nodes(resource)) == {"h1"}


@pytest.mark.parametrize("key", [k for k, v in NOTICES.items() if v == Notice.CANDIDATE])
def test_a_candidate_keeps_what_runs_and_takes_nothing_new(key: str) -> None:
    operated = Operated(1)
    resource = operated.world.add(pool())
    operated.run()
    before = operated.uids(resource)
    told(operated, "h0", key)
    operated.run()
    other = operated.world.add(pool("other"))
    operated.run()
    assert operated.uids(resource) == before
    assert not operated.uids(other)


@pytest.mark.parametrize("key", [k for k, v in NOTICES.items() if v == Notice.GONE])
def test_a_node_out_of_service_is_lost(key: str) -> None:
    operated = Operated(2)
    resource = operated.world.add(pool())
    operated.run()
    (old,) = operated.world.engine_pods(resource)
    told(operated, old.node or "", key)
    operated.run()
    (new,) = operated.world.engine_pods(resource)
    assert new.node != old.node


def test_the_strongest_notice_counts_and_a_node_being_deleted_is_leaving() -> None:
    def noticed(*keys: str, deleting: bool = False) -> Notice:
        taints = [(key, "", "NoSchedule") for key in keys]
        return notice_of(gpu_node("h0", taints=taints, deleting=deleting))

    assert noticed() == noticed("team") == Notice.NONE
    assert noticed(deleting=True) == Notice.LEAVING
    both = ("DeletionCandidateOfClusterAutoscaler", "ToBeDeletedByClusterAutoscaler")
    assert noticed(*both) == noticed(*reversed(both)) == Notice.LEAVING
    assert noticed("node.kubernetes.io/out-of-service", deleting=True) == Notice.GONE


def test_a_blanket_toleration_does_not_keep_a_leaving_node() -> None:
    operated = Operated(2)
    template = {"spec": {"tolerations": [{"operator": "Exists"}]}}
    resource = operated.world.add(pool(podTemplate=template))
    operated.run()
    (old,) = operated.world.engine_pods(resource)
    told(operated, old.node or "")
    operated.run()
    assert old.node not in operated.nodes(resource)


@pytest.mark.parametrize("mode", ["Preview", "Disabled"])
def test_what_holds_still_serves_until_the_node_is_gone_where_nothing_else_has_room(
    mode: str,
) -> None:
    operated = Operated(1)
    resource = operated.world.add(pool(replan={"mode": mode}))
    operated.run()
    if mode == "Preview":
        operated.approve(resource, str(operated.proposed(resource)["hash"]))
        operated.run()
    before = operated.uids(resource)
    assert before
    told(operated, "h0")
    operated.run()
    assert operated.uids(resource) == before
    operated.world.add_node(gpu_node("h1", gpus=2))
    operated.run()
    assert operated.nodes(resource) == ["h1"]
