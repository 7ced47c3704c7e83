"""Every state that a status can show, made by the operator's own reporting, and how it must read.

`argo` is Argo CD's health, `kstatus` what Flux and `helm --wait` see.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from motley_operator import changes, holding, manifests, status, translate
from motley_operator.settings import Settings
from motley_operator.testing import World, gpu_node, job, plan_of, pool, replica, slice_of
from motley_planner.catalog import load_catalog
from motley_planner.domain.plan import Plan, Refusal
from motley_planner.errors import PlannerError

Document = dict[str, Any]
CATALOG = load_catalog()
SETTINGS = Settings()
REASONS = (
    "InsufficientGPUs",
    "BudgetTooLow",
    "QuotaTooLow",
    "PodNotAdmitted",
    "LatencyUnreachable",
    "QualityUnreachable",
    "ModelDoesNotFit",
)
GANG = replica("trainer", engine="fsdp", tensor_parallel=4)
JOB_PLAN = [GANG, *(replica("rollout", ordinal=i, engine="sglang") for i in range(2))]


@dataclass(frozen=True)
class State:
    """An object as the API server would return it, and what is to be read from it."""

    name: str
    document: Document
    argo: str
    kstatus: str


def cycle(world: World, plan: Plan) -> None:
    """One cycle of the operator: report, then act."""
    facts = world.facts()
    translation = translate.translate(facts, CATALOG, SETTINGS)
    desired = manifests.build(plan, translation, facts, CATALOG, SETTINGS)
    world.apply(status.statuses(plan, translation, facts))
    world.apply(changes.changes(desired, facts, plan))


class Story:
    """One resource in a small world, to which things happen."""

    def __init__(self, document: Document) -> None:
        self.world = World().add_node(gpu_node("h0"), gpu_node("h1"))
        self.key = self.world.add(document)

    def plan(self, *replicas: Any, refusals: tuple[Refusal, ...] = (), **changed: Any) -> Story:
        """A cycle with this plan."""
        part = slice_of(self.key, replicas, refusals)
        cycle(self.world, replace(plan_of(part), **changed))
        return self

    def out(self) -> Story:
        """A cycle whose plan leaves the resource out."""
        cycle(self.world, plan_of())
        return self

    def settle(self) -> Story:
        """Scheduler and kubelets catch up."""
        self.world.settle()
        return self

    def edit(self, document: Document) -> Story:
        """A person applies another spec."""
        self.world.add(document)
        return self

    def unready(self, label: str, value: str) -> Story:
        """Pods with this label stop being ready."""
        assert self.world.change_pods(where={label: value}, ready=False)
        return self

    def end(self, name: str, argo: str, kstatus: str) -> State:
        """The state that the story ends in."""
        return State(name, copy.deepcopy(self.world.documents[self.key]), argo, kstatus)


def serving(*replicas: Any) -> Story:
    """A pool that serves."""
    made = replicas or (replica(),)
    return Story(pool()).plan(*made).settle().plan(*made)


def running() -> Story:
    """A job that runs."""
    return Story(job()).plan(*JOB_PLAN).settle().plan(*JOB_PLAN)


def refusal(reason: str) -> tuple[Refusal, ...]:
    """One refusal."""
    return (Refusal(reason, "spec.workload.requestsPerSecond", "cannot be met", "+1 node"),)


def paused(document: Document) -> Document:
    """The resource with the annotation that holds it."""
    document["metadata"]["annotations"] = {"motley.dev/paused": "true"}
    return document


def new() -> Iterator[State]:
    """Nobody has looked yet: the server's default of the status."""
    for document in (pool(), job()):
        story = Story(document)
        story.world.documents[story.key]["status"] = {"observedGeneration": -1}
        yield story.end(f"{document['kind']}: new", "Progressing", "InProgress")


def pools() -> Iterator[State]:
    """States of pools; cascades report by the same code."""
    yield Story(pool()).plan(replica()).end("coming up", "Progressing", "InProgress")
    yield serving().end("ready", "Healthy", "Current")
    yield (
        serving()
        .edit(pool(replan={"cooldown": "1m"}))
        .end("edited, not looked at", "Progressing", "InProgress")
    )
    yield Story(pool(model={"id": "no/such"})).out().end("not accepted", "Degraded", "Failed")
    yield (
        serving()
        .edit(pool(model={"id": "no/such"}))
        .out()
        .end("an edit that is not accepted", "Degraded", "Failed")
    )
    for reason in REASONS:
        yield (
            Story(pool())
            .plan(refusals=refusal(reason))
            .end(f"nothing planned: {reason}", "Degraded", "Failed")
        )
        yield (
            serving()
            .plan(replica(), refusals=refusal(reason))
            .end(f"serving a part: {reason}", "Degraded", "Current")
        )
        story = serving().edit(pool(slo={"tpot": {"p95": "1ms"}}))
        part = replace(slice_of(story.key, [], refusal(reason)), blocked=True)
        cycle(story.world, plan_of(part))
        yield story.end(f"an edit that cannot be met: {reason}", "Degraded", "Failed")
    two = (replica(), replica(ordinal=1))
    lost = serving(*two).unready("motley.dev/replica", "main-0a1b2c3d-1").plan(*two)
    yield lost.end("serving, a replica lost", "Progressing", "InProgress")
    gone = serving().unready("app.kubernetes.io/component", "gateway")
    yield gone.plan(replica()).end("no gateway", "Progressing", "InProgress")
    yield Story(pool()).plan(status="no_solution").end("no plan yet", "Progressing", "InProgress")


def held() -> Iterator[State]:
    """States in which a person, or an error, keeps the plan as it is."""
    yield Story(paused(pool())).plan().end("paused, nothing runs", "Suspended", "InProgress")
    yield serving().edit(paused(pool())).plan(replica()).end("paused", "Suspended", "Current")
    preview, disabled = pool(replan={"mode": "Preview"}), pool(replan={"mode": "Disabled"})
    yield Story(preview).plan().end("preview", "Suspended", "InProgress")
    yield serving().edit(disabled).plan(replica()).end("disabled", "Healthy", "Current")
    for name, story in (("", serving()), (" while coming up", Story(pool()).plan(replica()))):
        story.world.apply(holding.hold(story.world.facts(), PlannerError("no plan")))
        yield story.end(f"planning failed{name}", "Degraded", "Failed")
    leaving = serving()
    metadata = leaving.world.documents[leaving.key]["metadata"]
    metadata["deletionTimestamp"] = "2026-11-21T12:00:00Z"
    yield leaving.end("deleted", "Progressing", "Terminating")


def jobs() -> Iterator[State]:
    """States of jobs."""
    trainers = {"motley.dev/role": "trainer"}
    yield Story(job()).plan(*JOB_PLAN).end("job: starting", "Progressing", "InProgress")
    yield running().end("job: running", "Healthy", "Current")
    broken = running()
    broken.world.change_pods(where=trainers, phase="Failed")
    yield broken.plan(*JOB_PLAN).end("job: restarting", "Progressing", "InProgress")
    stopping = running().edit(job(suspend=True)).out()
    yield stopping.end("job: stopping", "Suspended", "InProgress")
    yield stopping.settle().out().settle().out().end("job: suspended", "Suspended", "InProgress")
    done = running()
    done.world.change_pods(where=trainers, phase="Succeeded", ready=False)
    for _ in range(3):
        done.out().settle()
    yield done.out().end("job: complete", "Healthy", "Current")
    failed = Story(job(backoffLimit=0)).plan(*JOB_PLAN).settle().plan(*JOB_PLAN)
    failed.world.change_pods(where=trainers, phase="Failed")
    yield failed.out().end("job: failed", "Degraded", "Failed")


def fleets() -> Iterator[State]:
    """States of the Fleet."""
    unknown = {"prices": {"gpus": [{"gpu": "Frobnicator", "dollarsPerHour": 2}]}}
    rows: tuple[tuple[str, Document, Document, str, str], ...] = (
        ("ready", {}, {}, "Healthy", "Current"),
        ("not accepted", unknown, {}, "Degraded", "Failed"),
        ("no plan in time", {}, {"status": "no_solution"}, "Progressing", "InProgress"),
    )
    for name, spec, changed, argo, kstatus in rows:
        world = World().add_node(gpu_node("h0"))
        metadata = {"name": "default", "uid": "f", "generation": 1}
        frame = {"apiVersion": "motley.dev/v1alpha1", "kind": "Fleet"}
        world.fleet = {**frame, "metadata": metadata, "spec": spec}
        yield_new = {**copy.deepcopy(world.fleet), "status": {"observedGeneration": -1}}
        cycle(world, replace(plan_of(), **changed))
        yield State(f"Fleet: {name}", world.fleet, argo, kstatus)
        yield State(f"Fleet: new, then {name}", yield_new, "Progressing", "InProgress")


TELLERS: tuple[Callable[[], Iterator[State]], ...] = (new, pools, held, jobs, fleets)


def states() -> list[State]:
    """All of them."""
    return [state for teller in TELLERS for state in teller()]
