"""Pods that the API server refuses take nothing down, and their resource says why there are none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from motley_operator.apply.refusals import cannot_be_tried, refusal_of
from motley_operator.connection import ApiError
from motley_operator.domain.actions import CreatePod, DeletePod, EmitEvent, Outcome, TryPod
from motley_operator.domain.facts import Room
from motley_operator.domain.verdicts import Refusal
from motley_operator.holding import complaints
from motley_operator.refusals import ADMITTED_S, LONGEST_PAUSE_S, Refusals
from motley_operator.testing import World, gpu_node, job, pool
from motley_operator.testing.operated import Operated, load

MOUNT = {"name": "scratch", "mountPath": "/scratch"}
VOLUME = {"name": "scratch", "emptyDir": {}}
NOT_FOUND = '422 Invalid: Pod "{}" is invalid: spec.containers[0].volumeMounts[0].name: Not found: "scratch"'
REJECTED = (
    '403 Forbidden: pods "{}" is forbidden: violates PodSecurity "restricted:latest": '
    "allowPrivilegeEscalation != false"
)


def template(*volumes: Mapping[str, Any]) -> dict[str, Any]:
    """A podTemplate whose engine mounts what these volumes should have."""
    engine = {"name": "engine", "volumeMounts": [MOUNT]}
    return {"spec": {"containers": [engine], "volumes": [dict(v) for v in volumes]}}


def mounts(manifest: Mapping[str, Any]) -> tuple[Refusal, str] | None:
    """What the API server says of a mount whose volume is not there."""
    spec = manifest["spec"]
    volumes = {each["name"] for each in spec.get("volumes", ())}
    names = {m["name"] for c in spec["containers"] for m in c.get("volumeMounts", ())}
    if names <= volumes:
        return None
    return Refusal.INVALID, NOT_FOUND.format(manifest["metadata"]["name"])


class Refusing(Operated):
    """A world whose server looks at mounts; what was done to pods is noted, with the time."""

    def __init__(self, *nodes: Any) -> None:
        super().__init__(0)
        self.world.add_node(*nodes)
        self.world.refuses = mounts
        self.tried: list[float] = []
        self.deleted: list[str] = []

    def lasts(self, seconds: float, step_s: float = 5.0) -> None:
        """Time passes; a cycle each step."""
        end = self.world.now + seconds
        while self.world.now < end:
            for action in self.cycle().actions:
                if isinstance(action, TryPod):
                    self.tried.append(self.world.now)
                elif isinstance(action, DeletePod):
                    self.deleted.append(action.reason)
            self.world.settle()
            self.world.now += step_s

    def conditions(self, key: str) -> dict[str, tuple[str, str]]:
        """(status, reason) of each condition, by type."""
        return {c["type"]: (c["status"], c["reason"]) for c in self.status(key)["conditions"]}


def full(**spec: Any) -> tuple[Refusing, str]:
    """One replica that serves on the only GPU that there is."""
    refusing = Refusing(gpu_node("h0", gpus=1))
    key = refusing.world.add(pool(workload=load(2), **spec))
    refusing.lasts(30)
    assert len(refusing.uids(key)) == 1 and refusing.tried == []
    return refusing, key


def test_an_edit_that_the_server_refuses_leaves_the_only_replica_and_says_why() -> None:
    refusing, key = full()
    before = refusing.uids(key)
    refusing.edit(key, podTemplate=template())
    refusing.lasts(60)
    assert refusing.uids(key) == before and refusing.deleted == []
    assert refusing.conditions(key)["Ready"] == ("True", "Serving")
    assert refusing.conditions(key)["Stalled"] == ("True", "PodRefused")
    assert "Reconciling" not in refusing.conditions(key)
    said = refusing.message(key, "Stalled")
    assert 'Not found: "scratch"' in said and "lift: mend podTemplate" in said
    assert "<pod>" in said and "chat-main" not in said


def test_the_mended_edit_is_carried_out_and_the_condition_goes() -> None:
    refusing, key = full()
    before = refusing.uids(key)
    refusing.edit(key, podTemplate=template())
    refusing.lasts(60)
    refusing.edit(key, podTemplate=template(VOLUME))
    refusing.lasts(30)
    assert len(refusing.uids(key)) == 1 and refusing.uids(key).isdisjoint(before)
    assert refusing.deleted == ["SpecChanged"]
    assert "Stalled" not in refusing.conditions(key)
    assert refusing.conditions(key)["Ready"] == ("True", "Serving")


def test_the_edit_taken_back_leaves_what_runs_and_the_condition_goes_at_once() -> None:
    refusing, key = full()
    before = refusing.uids(key)
    refusing.edit(key, podTemplate=template())
    refusing.lasts(30)
    assert "Stalled" in refusing.conditions(key)
    del refusing.world.documents[key]["spec"]["podTemplate"]
    refusing.edit(key)
    refusing.lasts(5)
    assert refusing.uids(key) == before and "Stalled" not in refusing.conditions(key)


def test_a_refused_pod_is_tried_once_and_then_after_pauses_that_grow() -> None:
    refusing, key = full()
    refusing.edit(key, podTemplate=template())
    refusing.lasts(1500, step_s=1.0)
    pauses = [b - a for a, b in zip(refusing.tried, refusing.tried[1:], strict=False)]
    assert pauses[:5] == [10.0, 20.0, 40.0, 80.0, 160.0]
    assert set(pauses[5:]) == {LONGEST_PAUSE_S}
    # Whoever asks for a plan has it tried at once.
    before = len(refusing.tried)
    metadata = refusing.world.documents[key]["metadata"]
    metadata["annotations"] = {"motley.dev/replan-requested-at": "2027-01-15T08:00:00Z"}
    refusing.lasts(3, step_s=1.0)
    assert len(refusing.tried) == before + 1


def test_a_rule_that_is_taken_away_lets_the_edit_through_without_another() -> None:
    refusing, key = full()
    rule = (Refusal.FORBIDDEN, REJECTED.format("chat-main-x-0"))
    refusing.world.refuses = lambda manifest: rule
    refusing.edit(key, engine={"name": "vllm", "extraArgs": ["--seed=1"]})
    refusing.lasts(100)
    assert refusing.deleted == []
    assert "violates PodSecurity" in refusing.message(key, "Stalled")
    assert "change that rule" in refusing.message(key, "Stalled")
    refusing.world.refuses = lambda manifest: None
    refusing.lasts(LONGEST_PAUSE_S)
    assert refusing.deleted == ["SpecChanged"] and len(refusing.uids(key)) == 1
    assert "Stalled" not in refusing.conditions(key)


def test_nobody_waits_for_a_quota_that_the_old_pod_fills() -> None:
    refusing, key = full()
    before = refusing.uids(key)
    there = sum(pod.namespace == "team-a" for pod in refusing.world.pods.values())
    refusing.world.limits.set_quota("all", {"pods": str(there)})
    refusing.lasts(10)
    refusing.edit(key, podTemplate=template(VOLUME))
    seen = set()
    for _ in range(12):
        refusing.lasts(5)
        seen |= {found[1] for found in refusing.conditions(key).values()}
    assert len(refusing.tried) == 1 and refusing.deleted == ["SpecChanged"]
    assert len(refusing.uids(key)) == 1 and refusing.uids(key).isdisjoint(before)
    assert "PodRefused" not in seen


def test_a_replica_makes_no_room_for_a_refused_one_of_another_size() -> None:
    refusing = Refusing(gpu_node("h0", gpus=2))
    key = refusing.world.add(pool(workload=load(2), parallelism={"maxTensor": 1}))
    refusing.lasts(30)
    before = refusing.uids(key)
    larger = {"id": "meta-llama/Llama-3.1-70B-Instruct", "precision": "fp8"}
    sizes = {"maxTensor": 2}
    refusing.edit(key, model=larger, parallelism=sizes, podTemplate=template())
    refusing.lasts(60)
    assert refusing.uids(key) == before and refusing.deleted == []
    assert refusing.conditions(key)["Stalled"] == ("True", "PodRefused")
    refusing.edit(key, model=larger, parallelism=sizes, podTemplate=template(VOLUME))
    refusing.lasts(60)
    assert refusing.deleted == ["NotInPlan"]
    (pod,) = refusing.world.engine_pods(key)
    assert pod.uid not in before and pod.requests.gpus == 2


def test_a_trainer_goes_on_while_its_edit_is_refused() -> None:
    refusing = Refusing(gpu_node("h0"), gpu_node("h1"))
    key = refusing.world.add(job())
    refusing.lasts(60)
    before = refusing.uids(key)
    assert before
    refusing.edit(key, trainer={"backend": "fsdp", "podTemplate": template()})
    refusing.lasts(60)
    trainers = {p.uid for p in refusing.world.engine_pods(key) if "trainer" in p.name}
    assert trainers and trainers <= before
    assert refusing.conditions(key)["Stalled"] == ("True", "PodRefused")
    refusing.edit(key, trainer={"backend": "fsdp", "podTemplate": template(VOLUME)})
    refusing.lasts(60)
    after = {p.uid for p in refusing.world.engine_pods(key) if "trainer" in p.name}
    assert after and after.isdisjoint(before)


def test_a_trainer_goes_on_while_one_of_another_size_is_refused() -> None:
    refusing = Refusing(*(gpu_node(f"h{i}") for i in range(3)))
    key = refusing.world.add(job())
    refusing.lasts(60)

    def trainers() -> set[str]:
        return {p.uid for p in refusing.world.engine_pods(key) if "trainer" in p.name}

    before = trainers()
    assert len(before) == 1
    model = {"id": "Qwen/Qwen2.5-32B-Instruct", "precision": "bf16"}  # trained on 16 GPUs
    refusing.edit(key, model=model, trainer={"backend": "fsdp", "podTemplate": template()})
    refusing.lasts(60)
    assert trainers() == before
    assert refusing.conditions(key)["Stalled"] == ("True", "PodRefused")
    assert "trainer: the API server refuses" in refusing.message(key, "Stalled")
    refusing.edit(key, model=model, trainer={"backend": "fsdp", "podTemplate": template(VOLUME)})
    refusing.lasts(120)
    assert len(trainers()) == 2 and trainers().isdisjoint(before)


def test_a_new_pool_whose_pods_are_refused_says_so_in_its_conditions() -> None:
    refusing = Refusing(gpu_node("h0", gpus=2))
    key = refusing.world.add(pool(workload=load(2), podTemplate=template()))
    refusing.lasts(30)
    assert refusing.uids(key) == set()
    assert refusing.conditions(key)["Stalled"] == ("True", "PodRefused")
    assert refusing.conditions(key)["Ready"] == ("False", "PodRefused")
    assert 'Not found: "scratch"' in refusing.message(key, "Stalled")
    refusing.edit(key, podTemplate=template(VOLUME))
    refusing.lasts(30)
    assert len(refusing.uids(key)) == 1 and "Stalled" not in refusing.conditions(key)
    assert refusing.tried == []  # a pod for which there is room is made, and that is the question


def test_a_new_pool_that_waits_for_a_quota_nobody_counts_is_still_on_its_way() -> None:
    refusing = Refusing(gpu_node("h0", gpus=2))
    words = '403 Forbidden: pods "x" is forbidden: exceeded quota: team, requested: fpga=1'
    refusing.world.refuses = lambda manifest: (Refusal.OVER_QUOTA, words)
    key = refusing.world.add(pool(workload=load(2)))
    refusing.lasts(30)
    assert refusing.conditions(key)["Reconciling"] == ("True", "PodRefused")
    assert "exceeded quota: team" in refusing.message(key, "Reconciling")
    assert "Stalled" not in refusing.conditions(key)


def test_a_successor_that_is_refused_leaves_the_old_one_and_is_told_of() -> None:
    refusing = Refusing(gpu_node("h0", gpus=2))  # room for both
    key = refusing.world.add(pool(workload=load(2), parallelism={"maxTensor": 1}))
    refusing.lasts(30)
    before = refusing.uids(key)
    refusing.edit(key, podTemplate=template())
    refusing.lasts(60)
    assert refusing.uids(key) == before
    # Somebody takes the room for both: it is not replaced in place either.
    refusing.world.foreign_pod("full", "h0", Room(gpus=1))
    refusing.lasts(60)
    assert refusing.uids(key) == before and refusing.deleted == []
    assert refusing.conditions(key)["Stalled"] == ("True", "PodRefused")


def test_a_restart_tries_once_more_and_stops_nothing() -> None:
    refusing, key = full()
    before = refusing.uids(key)
    refusing.edit(key, podTemplate=template())
    refusing.lasts(30)
    tried = len(refusing.tried)
    refusing.restart()
    refusing.cycle()
    # Until it is known again nobody who waits for this spec reads it as in force.
    assert refusing.conditions(key)["Reconciling"] == ("True", "Progressing")
    refusing.lasts(5)
    assert refusing.conditions(key)["Stalled"] == ("True", "PodRefused")
    assert refusing.uids(key) == before and len(refusing.tried) <= tried + 1


def test_each_replica_of_a_rollout_is_asked_for_no_more_than_once_a_minute() -> None:
    refusing = Refusing(*(gpu_node(f"h{i}", gpus=1) for i in range(4)))
    key = refusing.world.add(pool(workload=load(150), parallelism={"maxTensor": 1}))
    refusing.lasts(60)
    count = len(refusing.uids(key))
    assert count >= 3
    before = refusing.uids(key)
    refusing.edit(key, podTemplate=template(VOLUME))
    refusing.lasts(120)
    assert refusing.uids(key).isdisjoint(before) and len(refusing.uids(key)) == count
    assert 1 <= len(refusing.tried) <= 1 + 120 / ADMITTED_S


def error(status: int, reason: str, message: str) -> ApiError:
    return ApiError(status, reason, message, None)


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        (error(422, "Invalid", 'Pod "p" is invalid: spec'), Refusal.INVALID),
        (error(400, "BadRequest", "Pod in version v1 cannot be handled"), Refusal.INVALID),
        (error(403, "Forbidden", 'violates PodSecurity "restricted:latest"'), Refusal.FORBIDDEN),
        (error(403, "Forbidden", "maximum cpu usage per Pod is 2"), Refusal.FORBIDDEN),
        (error(403, "Forbidden", "failed quota: q: must specify cpu"), Refusal.FORBIDDEN),
        (error(400, "", 'admission webhook "w" denied the request: no'), Refusal.FORBIDDEN),
        (error(403, "Forbidden", "exceeded quota: q, requested: pods=1"), Refusal.OVER_QUOTA),
        (error(429, "TooManyRequests", "slow down"), None),
        (error(409, "Conflict", "modified"), None),
        (error(500, "InternalError", 'failed calling webhook "w"'), None),
        (error(503, "ServiceUnavailable", ""), None),
        (error(0, "Unreachable", "reset"), None),
    ],
)
def test_only_what_is_said_of_the_pod_is_a_refusal(
    answer: ApiError, refusal: Refusal | None
) -> None:
    assert refusal_of(answer) == refusal


def test_a_name_that_is_taken_and_a_webhook_with_side_effects_say_nothing_against_a_pod() -> None:
    assert cannot_be_tried(error(409, "AlreadyExists", 'pods "p" already exists'))
    assert not cannot_be_tried(error(409, "Conflict", "modified"))
    assert cannot_be_tried(error(400, "BadRequest", 'webhook "w" does not support dry run'))
    assert not cannot_be_tried(error(400, "BadRequest", "json: cannot unmarshal"))


def manifest(name: str = "p0") -> dict[str, Any]:
    owner = {"kind": "ServingPool", "name": "chat", "uid": "u", "controller": True}
    labels = {"motley.dev/kind": "ServingPool", "motley.dev/resource": "chat"}
    metadata = {"name": name, "namespace": "team-a", "labels": labels, "ownerReferences": [owner]}
    return {"kind": "Pod", "metadata": metadata}


def test_what_was_only_tried_is_complained_of_unless_a_quota_is_full() -> None:
    def tried(refusal: Refusal | None) -> Outcome:
        return Outcome(TryPod(manifest()), "done", "403 Forbidden: no", refusal)

    (event,) = complaints([tried(Refusal.FORBIDDEN), tried(Refusal.OVER_QUOTA), tried(None)])
    assert isinstance(event, EmitEvent) and event.reason == "PodRefused"


def test_words_that_change_with_each_answer_are_news_only_after_the_pause() -> None:
    """A status that is written wakes the next cycle, which asks again: that must not go round."""
    refusals = Refusals()

    def told(number: int, now: float) -> str:
        pod = CreatePod(manifest(f"p{number}"))
        refusals.learn([Outcome(pod, "failed", f"no: request {number}", Refusal.FORBIDDEN)], now)
        facts = refusals.told(World().facts())
        (verdict,) = (facts.verdicts or {}).values()
        return verdict.words

    assert told(1, 100.0) == told(2, 101.0) == told(3, 109.0) == "no: request 1"
    assert told(4, 110.0) == "no: request 4"
    assert told(5, 129.0) == "no: request 4"
