"""Trainers save before they are stopped: what pods are told, and who waits for whom meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from motley_operator import changes, lifecycle, manifests, status, translate
from motley_operator.api import RLJob, parse
from motley_operator.api.semantics import semantic_findings
from motley_operator.changes.gangs import BROKEN_GANG_GRACE_S
from motley_operator.changes.judging import Trouble
from motley_operator.domain.actions import (
    Action,
    CreatePod,
    DeletePod,
    EmitEvent,
    LabelPod,
    PatchStatus,
)
from motley_operator.domain.facts import PodFacts
from motley_operator.lifecycle import Phase
from motley_operator.manifests.stages import stages_of
from motley_operator.settings import Settings
from motley_operator.status.conditions import timestamp
from motley_operator.testing import World, gpu_node, job, plan_of, pool, replica, slice_of
from motley_operator.testing.operated import Operated
from motley_planner.catalog import load_catalog
from motley_planner.domain.plan import Plan, PlannedReplica

CATALOG = load_catalog()
SETTINGS = Settings()
SAVE = ["python3", "/opt/save.py", "--to", "$HOME"]
SAVING = {"command": SAVE, "timeoutSeconds": 300}
OLD, NEW = "math-trainer-0a1b2c3d-0", "math-trainer-ffffffff-0"


def decided(world: World, plan: Plan) -> tuple[Action, ...]:
    """One cycle: what it would do, statuses first."""
    facts = world.facts()
    translation = translate.translate(facts, CATALOG, SETTINGS)
    desired = manifests.build(plan, translation, facts, CATALOG, SETTINGS)
    trouble = Trouble(lost_nodes=translation.lost_nodes)
    return (
        *status.statuses(plan, translation, facts),
        *changes.changes(desired, facts, plan, trouble),
    )


def step(world: World, plan: Plan) -> tuple[Action, ...]:
    """One cycle, carried out."""
    actions = decided(world, plan)
    world.apply(actions)
    return actions


def deleted(actions: Sequence[Action]) -> dict[str, int | None]:
    """Names of the pods that are deleted, and the grace that they are given."""
    return {a.name: a.grace_seconds for a in actions if isinstance(a, DeletePod)}


def created(actions: Sequence[Action]) -> list[str]:
    return [a.manifest["metadata"]["name"] for a in actions if isinstance(a, CreatePod)]


def gang(*nodes: str, column: str = "0a1b2c3d", gpus: int = 8) -> PlannedReplica:
    """A trainer over these nodes."""
    return replica("trainer", column=column, nodes=nodes, tensor_parallel=gpus, engine="fsdp")


@pytest.fixture
def world() -> World:
    return World().add_node(*(gpu_node(f"h{i}") for i in range(4)))


def running(world: World, *nodes: str, **spec: Any) -> tuple[str, Plan]:
    """A job that saves, its gang on these nodes, and the plan that has it there."""
    key = world.add(job(**{"checkpoint": SAVING, **spec}))
    plan = plan_of(slice_of(key, [gang(*(nodes or ("h0",)))]))
    step(world, plan)
    world.settle()
    step(world, plan)
    return key, plan


def condition(world: World, key: str, kind: str = "Checkpointing") -> dict[str, Any] | None:
    rows = world.documents[key]["status"]["conditions"]
    return next((row for row in rows if row["type"] == kind), None)


# --- what pods are told


def test_every_pod_of_the_gang_runs_the_command_as_it_is_written_before_it_hears_sigterm(
    world: World,
) -> None:
    running(world, "h0", "h1")
    plain, hooked = World().add_node(*world.nodes.values()), world
    running(plain, "h0", "h1", checkpoint={"interval": "10m"})
    for name in (f"{OLD}-r0", f"{OLD}-r1"):
        spec, without = hooked.specs["team-a", name], plain.specs["team-a", name]
        (container,), (bare,) = spec["containers"], without["containers"]
        assert container["lifecycle"] == {"preStop": {"exec": {"command": SAVE}}}
        grace = "terminationGracePeriodSeconds"
        assert spec[grace] == without[grace] + 300
        env = {each["name"]: each.get("value") for each in container["env"]}
        assert env["MOTLEY_CHECKPOINT_TIMEOUT_SECONDS"] == "300"
        assert env["MOTLEY_CHECKPOINT_PATH"] == "/shared/math/checkpoints"
        assert "lifecycle" not in bare
        names = {each["name"] for each in bare["env"]}
        assert {n for n in names if "CHECKPOINT" in n} == {"MOTLEY_CHECKPOINT_PATH"}


def test_an_edit_of_the_command_replaces_the_trainer_and_one_of_the_interval_does_not() -> None:
    def hashes(**checkpoint: Any) -> tuple[str, str]:
        model = parse(job(checkpoint=checkpoint))
        rollout, trainer = stages_of(model)
        return rollout.inputs_hash, trainer.inputs_hash

    plain = hashes(interval="10m")
    assert hashes(interval="20m", keep=7, timeoutSeconds=99) == plain
    saving = hashes(**SAVING)
    assert saving[0] == plain[0]
    told = {plain[1], saving[1], hashes(**{**SAVING, "timeoutSeconds": 301})[1]}
    assert len(told | {hashes(command=SAVE[:-1], timeoutSeconds=300)[1]}) == 4


@pytest.mark.parametrize(
    ("template", "field"),
    [
        ({"terminationGracePeriodSeconds": 300}, "terminationGracePeriodSeconds"),
        ({"terminationGracePeriodSeconds": "900"}, "terminationGracePeriodSeconds"),
        (
            {
                "containers": [
                    {"name": "engine", "lifecycle": {"preStop": {"sleep": {"seconds": 5}}}}
                ]
            },
            "preStop",
        ),
    ],
    ids=["no longer than the command may take", "no number", "a hook of its own"],
)
def test_a_template_that_would_keep_the_trainer_from_saving_is_refused(
    template: dict[str, Any], field: str
) -> None:
    spec = {"trainer": {"podTemplate": {"spec": template}}}
    (finding,) = semantic_findings(parse(job(checkpoint=SAVING, **spec)))
    assert finding.path[-1] == field
    assert "checkpoint.command" in finding.message
    assert not semantic_findings(parse(job(**spec)))


def test_a_template_may_give_more_time_and_other_hooks() -> None:
    containers = [
        {"name": "engine", "lifecycle": {"postStart": {"exec": {"command": ["true"]}}}},
        {"name": "logs", "lifecycle": {"preStop": {"sleep": {"seconds": 5}}}},
    ]
    template = {"terminationGracePeriodSeconds": 301, "containers": containers}
    model = parse(job(checkpoint=SAVING, trainer={"podTemplate": {"spec": template}}))
    assert not semantic_findings(model)


# --- who waits for whom


def test_a_trainer_on_other_nodes_starts_when_the_one_before_has_saved(world: World) -> None:
    key, _ = running(world, "h0", "h1")
    moved = plan_of(slice_of(key, [gang("h2", "h3", column="ffffffff")]))
    first = step(world, moved)
    assert deleted(first) == {f"{OLD}-r0": None, f"{OLD}-r1": None}, "all ranks at once"
    assert not created(first)
    for _ in range(3):
        world.now += 60.0
        assert not created(step(world, moved))
    world.pods.pop(("team-a", f"{OLD}-r1"))
    assert not created(step(world, moved)), "rank 0 still saves"
    world.end_pods()
    assert created(step(world, moved)) == [f"{NEW}-r0", f"{NEW}-r1"]


def test_so_it_is_where_nothing_is_saved_for_two_gangs_would_write_one_folder(world: World) -> None:
    key, _ = running(world, checkpoint={})
    moved = plan_of(slice_of(key, [gang("h2", column="ffffffff")]))
    assert not created(step(world, moved))
    world.end_pods()
    assert created(step(world, moved)) == [NEW]


def test_its_gpus_are_given_to_nobody_while_it_saves(world: World) -> None:
    key, _ = running(world)
    other = world.add(pool())
    preempted = plan_of(slice_of(key), slice_of(other, [replica(tensor_parallel=8)]))
    assert list(deleted(step(world, preempted))) == [OLD]
    for _ in range(3):
        world.now += 60.0
        assert not created(step(world, preempted))
    world.end_pods()
    assert created(step(world, preempted)) == ["chat-main-0a1b2c3d-0"]


def test_rollouts_of_the_job_do_not_wait(world: World) -> None:
    key, _ = running(world)
    rollout = replica("rollout", nodes=("h2",), engine="sglang")
    moved = plan_of(slice_of(key, [gang("h3", column="ffffffff"), rollout]))
    assert created(step(world, moved)) == ["math-rollout-0a1b2c3d-0"]


def test_another_job_does_not_wait(world: World) -> None:
    key, _ = running(world)
    other = world.add(job("other"))
    plan = plan_of(slice_of(key), slice_of(other, [gang("h2")]))
    assert created(step(world, plan)) == ["other-trainer-0a1b2c3d-0"]


def test_a_job_that_is_let_go_while_it_saves_starts_when_that_is_done(world: World) -> None:
    key, _ = running(world)
    world.add(job(checkpoint=SAVING, suspend=True))
    step(world, plan_of())
    world.add(job(checkpoint=SAVING))
    again = plan_of(slice_of(key, [gang("h1", column="ffffffff")]))
    assert not created(step(world, again))
    world.end_pods()
    assert created(step(world, again)) == [NEW]


@pytest.mark.parametrize("how", ["not ready", "out of service", "gone"])
def test_nothing_is_waited_for_on_a_node_that_is_lost(world: World, how: str) -> None:
    key, _ = running(world)
    moved = plan_of(slice_of(key, [gang("h2", column="ffffffff")]))
    step(world, moved)
    node = world.nodes["h0"]
    if how == "gone":
        world.nodes.pop("h0")
    elif how == "not ready":
        node = replace(node, ready=False, not_ready_since=world.now - 2.0)
        world.nodes["h0"] = node
        assert not created(step(world, moved)), "it may still come back"
        world.nodes["h0"] = replace(node, not_ready_since=world.now - 6.0)
    else:
        taint = "node.kubernetes.io/out-of-service"
        world.nodes["h0"] = gpu_node("h0", taints=[(taint, "", "NoExecute")])
    assert created(step(world, moved)) == [NEW]
    assert condition(world, key) is None or how == "gone"


def test_ranks_that_lost_one_do_not_take_the_time_of_a_checkpoint(world: World) -> None:
    _, plan = running(world, "h0", "h1")
    world.change_pods(where={"motley.dev/rank": "1"}, phase="Failed", ready=False)
    assert deleted(step(world, plan))[f"{OLD}-r0"] == BROKEN_GANG_GRACE_S


def test_nor_do_they_where_one_is_on_a_lost_node(world: World) -> None:
    key, _ = running(world, "h0", "h1")
    world.nodes["h1"] = replace(world.nodes["h1"], ready=False, not_ready_since=world.now - 60.0)
    actions = step(world, plan_of(slice_of(key, [gang("h2", "h3", column="ffffffff")])))
    assert deleted(actions)[f"{OLD}-r0"] == BROKEN_GANG_GRACE_S


def test_ranks_whose_peer_is_drained_save_with_it(world: World) -> None:
    _, plan = running(world, "h0", "h1")
    world.change_pods(where={"motley.dev/rank": "1"}, deleting=True, ready=False)
    assert deleted(step(world, plan)) == {f"{OLD}-r0": None}


def test_trainers_keep_their_names_on_the_network_to_the_end(world: World) -> None:
    key, _ = running(world, "h0", "h1")
    actions = step(world, plan_of(slice_of(key)))
    assert len(deleted(actions)) == 2 and not [a for a in actions if isinstance(a, LabelPod)]
    service = world.owned["Service", "team-a", "math-trainer"]["spec"]
    assert service["publishNotReadyAddresses"]
    ending = world.engine_pods()
    assert all(service["selector"].items() <= pod.labels.items() for pod in ending)


def test_what_a_suspended_job_owns_stays_until_its_trainers_have_saved(world: World) -> None:
    running(world)
    world.add(job(checkpoint=SAVING, suspend=True))
    for _ in range(3):
        step(world, plan_of())
    (ending,) = world.engine_pods()
    assert ending.deleting
    assert ("Service", "team-a", "math-trainer") in world.owned
    world.end_pods()
    step(world, plan_of())
    assert not world.owned


@pytest.mark.parametrize("is_gone", [True, False], ids=["background", "foreground"])
def test_trainers_of_a_job_that_is_deleted_have_all_the_time_of_their_own(
    world: World, is_gone: bool
) -> None:
    """The garbage collector deletes them: the operator cuts nobody short, as it does broken gangs."""
    key, _ = running(world, "h0", "h1")
    if is_gone:
        del world.documents[key]
    else:
        world.documents[key]["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    assert not deleted(step(world, plan_of())), "before the garbage collector has come"
    world.change_pods(where={"motley.dev/rank": "0"}, deleting=True, ready=False)
    assert not deleted(step(world, plan_of())), "it has come to one of two"
    ends_at = world.now + 420.0
    world.change_pods(where={}, deleting=True, ready=False, ends_at=ends_at)
    world.change_pods(where={"motley.dev/rank": "1"}, phase="Failed")
    assert not deleted(step(world, plan_of())), "one has saved"
    assert {pod.ends_at for pod in world.engine_pods()} == {ends_at}


def test_a_job_made_anew_while_that_of_its_name_saves_waits_for_it(world: World) -> None:
    """Another UID, the same folder."""
    key, _ = running(world)
    del world.documents[key]
    world.change_pods(where={}, deleting=True, ready=False)
    world.add(job(checkpoint=SAVING))
    world.documents[key]["metadata"]["uid"] = "another"
    again = plan_of(slice_of(key, [gang("h1", column="ffffffff")]))
    for _ in range(3):
        done = step(world, again)
        assert not created(done) and not deleted(done)
    world.end_pods()
    assert created(step(world, again)) == [NEW]


# --- what is made of their end, and said of it


def ends(world: World, phase: str) -> None:
    """What a kubelet writes of pods that have ended as asked, by their exit codes."""
    world.change_pods(where={"motley.dev/role": "trainer"}, phase=phase, ready=False)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_trainer_that_ends_as_asked_neither_completes_nor_fails_the_job(phase: str) -> None:
    """With 0 or with 143: a job that was preempted often is neither done nor out of attempts."""
    operated = Operated(0)
    operated.world.add_node(*(gpu_node(f"h{i}") for i in range(2)))
    key = operated.world.add(job(checkpoint=SAVING, backoffLimit=0))
    operated.run()
    operated.edit(key, suspend=True)
    operated.cycle()
    ends(operated.world, phase)
    operated.cycle()
    assert operated.condition(key, "Suspended") == ("True", "Suspended")
    operated.edit(key, suspend=False)
    operated.run()
    assert operated.condition(key, "Ready") == ("True", "Running")
    assert operated.status(key)["failures"] == 0
    assert "suspects" not in operated.status(key)


def test_one_that_ends_by_itself_still_does(world: World) -> None:
    model = parse(job(backoffLimit=0))
    assert isinstance(model, RLJob)
    running(world)
    for phase, found in (("Succeeded", Phase.COMPLETE), ("Failed", Phase.FAILED)):
        ends(world, phase)
        assert lifecycle.phase_of(model, world.engine_pods(), world.now) == found


def events(actions: Sequence[Action]) -> Iterator[tuple[str, str]]:
    return ((a.type, a.reason) for a in actions if isinstance(a, EmitEvent))


def test_a_job_says_that_it_saves_until_when_and_why(world: World) -> None:
    key, _ = running(world, "h0", "h1")
    preempted = plan_of(slice_of(key))
    assert condition(world, key) is None
    step(world, preempted)
    assert ("Normal", "Preempted") in events(step(world, preempted))
    told = condition(world, key)
    assert told is not None
    assert (told["status"], told["reason"]) == ("True", "Preempted")
    assert "save before they end: 2;" in told["message"]
    assert timestamp(world.now + 300 + 120) in told["message"]
    world.now += 200.0
    assert not [a for a in step(world, preempted) if isinstance(a, PatchStatus)], "no news"
    world.now += 251.0
    step(world, preempted)
    told = condition(world, key)
    assert told is not None and told["reason"] == "NotEnding"
    assert "force-delete" in told["message"]
    world.end_pods()
    step(world, preempted)
    assert condition(world, key) is None


@pytest.mark.parametrize("why", ["Suspending", "TrainerReplaced", "JobEnding"])
def test_it_says_what_it_saves_for(world: World, why: str) -> None:
    key, plan = running(world)
    if why == "TrainerReplaced":
        plan = plan_of(slice_of(key, [gang("h2", column="ffffffff")]))
    else:
        edit = {"suspend": True} if why == "Suspending" else {"activeDeadlineSeconds": 1}
        world.documents[key]["status"]["startTime"] = timestamp(world.now - 60.0)
        world.add(job(checkpoint=SAVING, **edit))
        plan = plan_of()
    step(world, plan)
    step(world, plan)
    told = condition(world, key)
    assert told is not None and told["reason"] == why


def test_a_job_without_a_command_says_nothing_of_checkpoints(world: World) -> None:
    key, _ = running(world, checkpoint={})
    step(world, plan_of(slice_of(key)))
    step(world, plan_of(slice_of(key)))
    assert condition(world, key) is None


# --- any history


NODES = ("h0", "h1", "h2", "h3")
PLACES = st.lists(st.sampled_from(NODES), max_size=2, unique=True)


class Trainers(RuleBasedStateMachine):
    """Plans, drains, crashes and losses in any order, with kubelets as slow as they like.

    The world itself refuses a node with more GPUs taken than it has.
    """

    @initialize()
    def begin(self) -> None:
        self.world = World().add_node(*map(gpu_node, NODES))
        self.keys = [self.world.add(job(checkpoint=SAVING)), self.world.add(pool())]
        self.columns = 0
        self.plan = plan_of()

    def of(self) -> list[PodFacts]:
        return [p for p in self.world.engine_pods(self.keys[0]) if not p.terminal]

    @rule(trainer=PLACES, serving=PLACES)
    def plans(self, trainer: list[str], serving: list[str]) -> None:
        """Another plan; a gang that is where it was keeps its name, any other gets a new one."""
        live = {pod.node: pod for pod in self.of() if not pod.deleting}
        replicas = []
        if trainer and set(trainer) == live.keys():
            column = next(iter(live.values())).labels["motley.dev/column"]
            by_rank = sorted(live, key=lambda node: live[node].labels["motley.dev/rank"])
            replicas = [gang(*by_rank, column=column)]
        elif trainer:
            self.columns += 1
            replicas = [gang(*trainer, column=f"{self.columns:08x}")]
        free = [node for node in serving if node not in trainer]
        served = [replica(ordinal=int(n[1:]), nodes=(n,), tensor_parallel=8) for n in free]
        self.plan = plan_of(slice_of(self.keys[0], replicas), slice_of(self.keys[1], served))

    @rule()
    def cycle(self) -> None:
        before = self.of()
        for name in deleted(step(self.world, self.plan)):
            if not name.startswith("math"):
                continue
            gone = self.world.pods["team-a", name].labels["motley.dev/replica"]
            peers = [p for p in before if p.labels["motley.dev/replica"] == gone]
            assert all(self.world.pods[p.namespace, p.name].deleting for p in peers), "all at once"

    @rule(number=st.integers(0, 7), phase=st.sampled_from(["Succeeded", "Failed"]))
    def has_saved(self, number: int, phase: str) -> None:
        """One of the pods that were asked to has ended; it is seen as it is before it is gone."""
        ending = [p for p in self.world.engine_pods() if p.deleting]
        if ending:
            pod = ending[number % len(ending)]
            if pod.terminal:
                del self.world.pods[pod.namespace, pod.name]
            else:
                self.world.pods[pod.namespace, pod.name] = replace(pod, phase=phase)

    @rule()
    def starts(self) -> None:
        """Kubelets start what is there."""
        for at, pod in self.world.pods.items():
            if not (pod.deleting or pod.terminal):
                self.world.pods[at] = replace(pod, bound=True, phase="Running", ready=True)

    @rule(number=st.integers(0, 7), how=st.sampled_from(["drained", "crashed"]))
    def hurt(self, number: int, how: str) -> None:
        live = [p for p in self.of() if not p.deleting and p.bound]
        if live:
            pod = live[number % len(live)]
            change = {"deleting": True} if how == "drained" else {"phase": "Failed"}
            self.world.pods[pod.namespace, pod.name] = replace(pod, ready=False, **change)

    @invariant()
    def one_gang(self) -> None:
        names = {pod.labels["motley.dev/replica"] for pod in self.of()}
        assert len(names) <= 1, names

    @invariant()
    def counted(self) -> None:
        """Only crashes count as failures, and nothing that was asked to end completes a job."""
        told = self.world.documents[self.keys[0]].get("status") or {}
        kinds = {c["type"] for c in told.get("conditions", ())}
        assert "Complete" not in kinds

    def teardown(self) -> None:
        """Whatever happened, the plan is carried out once pods end and start."""
        if not hasattr(self, "world"):
            return
        for _ in range(12):
            self.world.settle()
            if not step(self.world, self.plan):
                break
        else:
            raise AssertionError("no end")
        wanted = {r.name for part in self.plan.slices[:1] for r in part.replicas}
        assert {pod.labels["motley.dev/replica"] for pod in self.of()} == wanted


TestTrainers = Trainers.TestCase
TestTrainers.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
