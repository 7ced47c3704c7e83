"""Pods that cannot start, are rejected or crash: given up, avoided for a while, tried again later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from motley_operator.domain.actions import CreatePod, DeletePod
from motley_operator.domain.facts import PodFacts, Room
from motley_operator.status.conditions import timestamp
from motley_operator.testing import gpu_node, pool
from motley_operator.testing.operated import Operated, load

DEADLINE_S = 600.0  # the Fleet's default
CHEAP = "NVIDIA-L40S"
Fate = Callable[[PodFacts], Mapping[str, Any]]


def unschedulable(pod: PodFacts) -> Mapping[str, Any]:
    return {"phase": "Pending", "bound": False, "ready": False, "reason": "Unschedulable"}


def outrun(pod: PodFacts) -> Mapping[str, Any]:
    """Somebody else's pods are bound, ours are not."""
    return {} if pod.namespace == "other" else unschedulable(pod)


def crashing(pod: PodFacts) -> Mapping[str, Any]:
    return {"ready": False, "reason": "CrashLoopBackOff"}


def unpullable(pod: PodFacts) -> Mapping[str, Any]:
    return {"phase": "Pending", "ready": False, "reason": "ImagePullBackOff"}


class Watched(Operated):
    """An operated world that notes every pod created and deleted, with the time and the node."""

    def __init__(self, *nodes: Any) -> None:
        super().__init__(0)
        self.world.add_node(*nodes)
        self.created: list[tuple[float, str]] = []
        self.deleted: list[tuple[str, str]] = []  # node, reason

    def on(self, *nodes: str, fate: Fate) -> None:
        """What becomes of pods on these nodes; of none named: on all."""
        self.world.fate = lambda pod: fate(pod) if pod.node in nodes or not nodes else {}

    def lasts(self, seconds: float, step_s: float = 30.0) -> None:
        """Time passes; a cycle each step."""
        end = self.world.now + seconds
        while self.world.now < end:
            nodes = {pod.uid: pod.node or "" for pod in self.world.pods.values()}
            for action in self.cycle().actions:
                if isinstance(action, CreatePod):
                    name = (
                        action.manifest["metadata"]["namespace"],
                        action.manifest["metadata"]["name"],
                    )
                    self.created.append((self.world.now, self.world.pods[name].node or ""))
                elif isinstance(action, DeletePod):
                    self.deleted.append((nodes[action.uid], action.reason))
            self.world.settle()
            self.world.now += step_s

    def rows(self, key: str) -> list[dict[str, Any]]:
        """status.suspects."""
        found: list[dict[str, Any]] = self.status(key).get("suspects", [])
        return found

    def says(self, key: str, kind: str) -> bool:
        """Whether a condition of this type is there."""
        return any(c["type"] == kind for c in self.status(key)["conditions"])

    def serving(self, key: str) -> list[str]:
        """Nodes of ready pods."""
        return sorted(p.node or "" for p in self.world.engine_pods(key) if p.ready)


def two_kinds() -> Watched:
    """A cheap node, which plans prefer, and a dear one."""
    return Watched(gpu_node("cheap", product=CHEAP, gpus=2), gpu_node("dear", gpus=2))


def test_a_pod_that_its_node_never_takes_is_started_elsewhere() -> None:
    watched = two_kinds()
    watched.on("cheap", fate=unschedulable)
    key = watched.world.add(pool())
    watched.lasts(DEADLINE_S - 60)
    assert [node for _, node in watched.created] == ["cheap"]
    watched.lasts(180)
    assert watched.serving(key) == ["dear"]
    assert watched.deleted == [("cheap", "CannotStart")]
    (row,) = watched.rows(key)
    assert (row["node"], row["reason"], row["failures"]) == ("cheap", "Unschedulable", 1)


def test_engines_that_leave_with_an_error_when_they_are_asked_to_end_are_no_crashes() -> None:
    """Kubelets write Failed on a pod whose container answers SIGTERM with 143, before it is gone."""
    watched = two_kinds()
    key = watched.world.add(pool())
    watched.lasts(60)
    for turn in range(4):
        watched.edit(key, engine={"name": "vllm", "extraArgs": [f"--seed={turn}"]})
        for _ in range(6):
            watched.cycle()
            for at, pod in list(watched.world.pods.items()):
                if pod.deleting and not pod.terminal:
                    watched.world.pods[at] = replace(pod, phase="Failed")
            watched.cycle()
            watched.world.settle()
            watched.world.now += 5.0
    assert len(watched.serving(key)) == 1
    assert watched.rows(key) == []


def test_a_pod_whose_gpus_another_was_given_goes_elsewhere_at_once_and_nothing_is_suspected() -> (
    None
):
    """Two operators that reach for the same GPUs at the same moment: one finds them taken."""
    watched = two_kinds()
    watched.on("cheap", fate=outrun)
    key = watched.world.add(pool())
    watched.lasts(30)
    assert [node for _, node in watched.created] == ["cheap"]
    watched.world.foreign_pod("faster", "cheap", Room(gpus=2))
    watched.lasts(90)
    assert watched.serving(key) == ["dear"]
    assert watched.deleted == [("cheap", "CannotStart")]
    assert watched.rows(key) == []


def test_a_pod_that_the_scheduler_refuses_beside_others_that_fit_has_its_whole_deadline() -> None:
    watched = two_kinds()
    watched.on("cheap", fate=outrun)
    watched.world.foreign_pod("small", "cheap", Room(gpus=1))
    watched.world.add(pool())
    watched.lasts(DEADLINE_S - 60)
    assert ([node for _, node in watched.created], watched.deleted) == (["cheap"], [])


def test_a_move_whose_new_pods_crash_is_taken_back_and_the_old_ones_never_stop() -> None:
    watched = Watched(gpu_node("dear", gpus=2))
    key = watched.world.add(pool())
    watched.lasts(60)
    before = watched.uids(key)
    watched.on("cheap-0", "cheap-1", fate=crashing)
    watched.world.add_node(*(gpu_node(f"cheap-{i}", product=CHEAP, gpus=2) for i in range(2)))
    for _ in range(100):
        watched.lasts(60)
        assert before <= watched.uids(key)
        assert watched.serving(key) == ["dear"]
    assert [node for _, node in watched.created] == ["dear", "cheap-0"]
    assert watched.uids(key) == before
    assert watched.condition(key, "Planned") == ("True", "Planned")


def test_a_place_that_fails_again_is_left_alone_for_twice_as_long() -> None:
    watched = Watched(gpu_node("only", gpus=2))
    watched.on(fate=crashing)
    watched.world.add(pool())
    watched.lasts(7 * 3600.0, step_s=60.0)
    starts = [at for at, _ in watched.created]
    waits = [after - before - DEADLINE_S for before, after in pairwise(starts)]
    wanted = [DEADLINE_S * 2**n for n in range(len(waits))]
    assert len(waits) >= 5
    assert all(abs(wait - asked) <= 180 for wait, asked in zip(waits, wanted, strict=True)), waits


def test_a_resource_that_waits_for_its_suspects_says_so_and_is_not_stalled() -> None:
    watched = Watched(gpu_node("only", gpus=2))
    watched.on(fate=crashing)
    key = watched.world.add(pool())
    watched.lasts(DEADLINE_S + 120)
    assert watched.condition(key, "Planned") == ("False", "Suspect")
    assert watched.condition(key, "Ready") == ("False", "Suspect")
    assert watched.condition(key, "Reconciling") == ("True", "Suspect")
    assert watched.message(key, "Reconciling").startswith("tried again at ")
    assert not watched.says(key, "Stalled")


def test_no_place_is_left_alone_for_longer_than_six_hours() -> None:
    watched = Watched(gpu_node("only", gpus=2))
    key = watched.world.add(pool())
    watched.lasts(60)
    where = {"motley.dev/role": "serve"}
    row = {"node": "only", "reason": "OutOfcpu", "failures": 12}
    row |= {"since": timestamp(watched.world.now - 36_000), "until": timestamp(watched.world.now)}
    watched.world.documents[key]["status"]["suspects"] = [row]
    watched.world.change_pods(where=where, phase="Failed", ready=False, reason="OutOfcpu")
    now = int(watched.world.now)
    watched.cycle()
    (found,) = watched.rows(key)
    assert (found["failures"], found["until"]) == (13, timestamp(now + 6 * 3600))


def test_what_is_suspect_survives_a_restart() -> None:
    watched = two_kinds()
    watched.on("cheap", fate=crashing)
    key = watched.world.add(pool())
    watched.lasts(DEADLINE_S + 120)
    assert watched.serving(key) == ["dear"]
    rows = watched.rows(key)
    for _ in range(3):
        watched.restart()
        watched.lasts(60)
    assert watched.rows(key) == rows
    assert watched.serving(key) == ["dear"]
    assert [node for _, node in watched.created] == ["cheap", "dear"]


def edited(watched: Watched, key: str) -> None:
    watched.edit(key, replan={"headroom": "11%"})


def asked_to_replan(watched: Watched, key: str) -> None:
    annotations = {"motley.dev/replan-requested-at": "now"}
    watched.world.documents[key]["metadata"]["annotations"] = annotations


@pytest.mark.parametrize("lift", [edited, asked_to_replan], ids=lambda lift: str(lift.__name__))
def test_a_person_lifts_it_at_once(lift: Callable[[Watched, str], None]) -> None:
    watched = Watched(gpu_node("only", gpus=2))
    watched.on(fate=crashing)
    key = watched.world.add(pool())
    watched.lasts(DEADLINE_S + 120)
    assert watched.rows(key)
    assert watched.says(key, "Suspect")
    watched.world.fate = lambda pod: {}
    lift(watched, key)
    watched.lasts(60)
    assert watched.serving(key) == ["only"]
    assert not watched.rows(key)
    assert not watched.says(key, "Suspect")


def test_it_is_told_once_in_a_condition_an_event_and_the_status() -> None:
    watched = two_kinds()
    watched.on("cheap", fate=crashing)
    key = watched.world.add(pool())
    watched.lasts(DEADLINE_S + 300)
    assert watched.condition(key, "Suspect") == ("True", "CrashLoopBackOff")
    message = watched.message(key, "Suspect")
    assert "tp1 on L40S (az-1 on-demand)" in message
    assert "motley.dev/replan-requested-at" in message
    told = [e for e in watched.world.events if e.reason == "Suspect"]
    assert [event.type for event in told] == ["Warning"]
    watched.lasts(DEADLINE_S)
    assert not watched.says(key, "Suspect")  # over, but remembered
    assert watched.rows(key)
    watched.lasts(3 * 3600.0)
    assert not watched.rows(key)  # forgotten


def test_an_image_that_nobody_can_pull_stops_new_pods_and_not_node_after_node() -> None:
    watched = Watched(*(gpu_node(f"h{i}", gpus=2) for i in range(4)))
    watched.on(fate=unpullable)
    key = watched.world.add(pool())
    watched.lasts(2 * DEADLINE_S - 60)
    assert len(watched.created) == 1
    (row,) = watched.rows(key)
    assert (row["stage"], row["reason"]) == ("main", "ImagePullBackOff")
    assert "gpu" not in row
    assert "node" not in row


def test_an_image_that_others_could_pull_speaks_against_the_node_alone() -> None:
    watched = Watched(gpu_node("good", gpus=1), gpu_node("bad", gpus=1), gpu_node("other", gpus=1))
    key = watched.world.add(pool(workload=load(2)))
    watched.lasts(60)
    (first,) = watched.serving(key)
    watched.on(*{"good", "bad", "other"} - {first}, fate=unpullable)
    watched.edit(key, workload=load(60))
    watched.lasts(DEADLINE_S + 120)
    assert watched.serving(key) == [first]
    assert watched.rows(key)
    assert {row.get("node") for row in watched.rows(key)} <= {"good", "bad", "other"} - {first}


def looping(watched: Watched, ready_s: float, waits_s: float) -> Fate:
    """Ready for a while, then dead, then ready again, with what the kubelet says then."""

    def fate(pod: PodFacts) -> Mapping[str, Any]:
        times, since = divmod(watched.world.now - pod.created_at, ready_s + waits_s)
        told = {"last_run_s": ready_s} if times + (since >= ready_s) > 5 else {}
        if since < ready_s:
            return {**told, "reason": "", "unready_since": 0.0}
        down = {"ready": False, "reason": "CrashLoopBackOff"}
        return {**told, **down, "unready_since": watched.world.now - (since - ready_s)}

    return fate


def test_an_engine_that_gets_ready_and_dies_again_and_again_is_given_up() -> None:
    """The kubelet lets it wait 5 minutes at most, which is less than the deadline of a start."""
    watched = two_kinds()
    watched.on("cheap", fate=looping(watched, ready_s=30.0, waits_s=300.0))
    key = watched.world.add(pool())
    watched.lasts(6 * 330.0 + 60.0)
    assert watched.serving(key) == ["dear"]
    assert watched.deleted == [("cheap", "CannotStart")]
    (row,) = watched.rows(key)
    assert (row["gpu"], row["reason"], row["failures"]) == ("L40S", "CrashLoopBackOff", 1)


def test_one_that_loops_faster_has_its_whole_deadline() -> None:
    watched = two_kinds()
    watched.on("cheap", fate=looping(watched, ready_s=30.0, waits_s=30.0))
    key = watched.world.add(pool())
    watched.lasts(DEADLINE_S - 60)
    assert (watched.deleted, watched.rows(key)) == ([], [])
    watched.lasts(180)
    assert watched.deleted == [("cheap", "CannotStart")]


def test_one_that_dies_once_a_day_is_left_alone() -> None:
    watched = Watched(gpu_node("only", gpus=2))
    watched.on(fate=looping(watched, ready_s=86_400.0, waits_s=20.0))
    key = watched.world.add(pool())
    watched.lasts(60)
    (pod,) = watched.world.engine_pods(key)
    down = 0
    for day in range(1, 20):
        watched.world.now = pod.created_at + day * 86_420.0 - 30.0
        watched.world.settle()
        watched.lasts(10, step_s=5.0)
        for _ in range(4):
            watched.lasts(5, step_s=5.0)
            (now,) = watched.world.engine_pods(key)
            down += now.reason == "CrashLoopBackOff" and now.last_run_s is not None
    assert down > 40
    assert watched.deleted == [] and watched.uids(key) == {pod.uid}
    assert not watched.rows(key)


def test_one_that_loops_speaks_for_no_place_while_it_is_ready() -> None:
    """Two replicas that die in turn, each ready while the other is not: it is the configuration."""
    watched = Watched(gpu_node("a", gpus=1), gpu_node("b", gpus=1))
    key = watched.world.add(pool(workload=load(30), parallelism={"maxTensor": 1}))
    watched.lasts(60)
    assert len(watched.serving(key)) == 2
    watched.world.now += DEADLINE_S
    down = {"ready": False, "reason": "CrashLoopBackOff", "unready_since": watched.world.now - 30.0}
    watched.world.fate = lambda pod: {"last_run_s": 20.0} | (down if pod.node == "a" else {})
    watched.world.settle()
    watched.cycle()
    (row,) = watched.rows(key)
    assert (row.get("node"), row["gpu"]) == (None, "H100-SXM5-80GB")


def test_a_pod_that_loads_for_long_is_not_given_up() -> None:
    watched = Watched(gpu_node("only", gpus=2))
    watched.on(fate=lambda pod: {"ready": False})
    key = watched.world.add(pool())
    watched.lasts(3 * DEADLINE_S)
    assert len(watched.created) == 1
    assert not watched.rows(key)


def test_a_pod_that_a_queue_holds_back_is_not_given_up() -> None:
    watched = Watched(gpu_node("only", gpus=2))
    watched.on(fate=lambda pod: {**unschedulable(pod), "reason": "SchedulingGated"})
    key = watched.world.add(pool())
    watched.lasts(3 * DEADLINE_S)
    assert len(watched.created) == 1
    assert not watched.rows(key)


def test_the_resources_own_deadline_goes_before_the_fleets() -> None:
    watched = two_kinds()
    watched.on("cheap", fate=unschedulable)
    key = watched.world.add(pool(replan={"startDeadline": "60s"}))
    watched.lasts(150)
    assert watched.serving(key) == ["dear"]


REASONS = (
    "UnexpectedAdmissionError", "TopologyAffinityError", "Evicted", "OutOfcpu", "OutOfmemory",
    "OutOfnvidia.com/gpu", "NodeAffinity", "NodeShutdown", "Terminated",
)  # fmt: skip


@pytest.mark.parametrize("reason", REASONS)
def test_a_rejected_pod_is_replaced_at_once_and_a_node_rejects_three_times_only(
    reason: str,
) -> None:
    watched = two_kinds()
    watched.on("cheap", fate=lambda pod: {"phase": "Failed", "ready": False, "reason": reason})
    key = watched.world.add(pool())
    watched.lasts(60, step_s=5.0)
    assert [node for _, node in watched.created] == ["cheap"] * 3 + ["dear"]
    assert watched.deleted == [("cheap", reason)] * 3
    assert watched.serving(key) == ["dear"]
    (row,) = watched.rows(key)
    assert (row["node"], row["reason"], row["failures"]) == ("cheap", reason, 3)


def test_one_rejection_makes_nothing_suspect() -> None:
    watched = two_kinds()
    key = watched.world.add(pool())
    watched.lasts(60)
    where = {"motley.dev/role": "serve"}
    watched.world.change_pods(where=where, phase="Failed", ready=False, reason="Evicted")
    watched.lasts(30)
    assert watched.serving(key) == ["cheap"]
    assert not watched.says(key, "Suspect")


def test_a_node_that_one_resource_avoids_serves_the_others() -> None:
    watched = two_kinds()
    key, other = watched.world.add(pool()), watched.world.add(pool("other"))
    watched.world.fate = lambda pod: (
        unschedulable(pod) if pod.node == "cheap" and pod.name.startswith("chat-") else {}
    )
    watched.lasts(DEADLINE_S + 120)
    assert watched.serving(key) == ["dear"]
    assert watched.serving(other) == ["cheap"]


def test_the_fleets_admin_sees_what_is_suspect() -> None:
    watched = two_kinds()
    watched.world.fleet = {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": "default", "uid": "fleet", "generation": 1},
        "spec": {"replan": {"startDeadline": "60s"}},
    }
    watched.on("cheap", fate=crashing)
    watched.world.add(pool())
    watched.lasts(120)
    (told,) = watched.world.fleet["status"]["suspects"]
    assert told.startswith("ServingPool/team-a/chat: main, tp1 on L40S (az-1 on-demand) until ")


def test_a_suspect_written_by_hand_as_nonsense_is_no_suspect() -> None:
    watched = Watched(gpu_node("only", gpus=2))
    key = watched.world.add(pool())
    watched.lasts(60)
    status = watched.world.documents[key]["status"]
    status["suspects"] = [{"node": "only", "reason": "?", "failures": 1, "since": "yesterday"}]
    watched.lasts(60)
    assert watched.serving(key) == ["only"]
    assert not watched.rows(key)


def test_a_clock_behind_the_servers_counts_a_failure_once() -> None:
    watched = two_kinds()
    watched.on("cheap", fate=lambda pod: {"phase": "Failed", "ready": False, "reason": "OutOfcpu"})
    key = watched.world.add(pool())
    watched.cycle()
    ahead = watched.world.now + 30.0
    for at, one in list(watched.world.pods.items()):
        watched.world.pods[at] = replace(one, created_at=ahead)
    watched.world.settle()
    for _ in range(4):  # the failed pod is still there: nobody ends it
        decision = watched.cycle()
        watched.world.now += 1.0
        assert decision.translation.suspicions.known[key][0].failures == 1
