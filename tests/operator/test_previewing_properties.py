"""Whatever happens, a resource in Preview changes by approvals and repairs only."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from motley_operator.domain.facts import PodFacts, Room
from motley_operator.testing import gpu_node, pool
from motley_operator.testing.operated import Operated, load

Event = Callable[["Story"], None]


class Story:
    """A pool in Preview, carried out, beside one that is planned freely."""

    def __init__(self) -> None:
        self.operated = Operated(nodes=4)
        self.key = self.operated.world.add(
            pool(replan={"mode": "Preview"}, workload=load(30), parallelism={"maxTensor": 1})
        )
        self.operated.world.add(pool("other", workload=load(10)))
        self.operated.run()
        self.operated.approve(self.key, self.operated.proposed(self.key)["hash"])
        self.operated.run()
        self.joined = 0

    def pods(self) -> dict[str, PodFacts]:
        return {pod.uid: pod for pod in self.operated.world.engine_pods(self.key)}

    def some_pod(self) -> PodFacts | None:
        return next(iter(self.operated.world.engine_pods(self.key)), None)


def edit(rate: float, story: Story) -> None:
    story.operated.edit(story.key, workload=load(rate))


def edit_other(rate: float, story: Story) -> None:
    other = story.key.replace("chat", "other")
    story.operated.edit(other, workload=load(rate))


def edit_arguments(story: Story) -> None:
    story.operated.edit(story.key, engine={"extraArgs": ["--enable-prefix-caching"]})


def lose_node(story: Story) -> None:
    pod = story.some_pod()
    if pod is not None and pod.node in story.operated.world.nodes:
        story.operated.world.lose_node(pod.node)


def join(story: Story) -> None:
    story.joined += 1
    story.operated.world.add_node(gpu_node(f"new-{story.joined}", gpus=2))


def fail_pod(story: Story) -> None:
    pod = story.some_pod()
    if pod is not None:
        at = {"motley.dev/replica": pod.labels["motley.dev/replica"]}
        story.operated.world.change_pods(where=at, phase="Failed", ready=False)


def take_room(story: Story) -> None:
    facts = story.operated.world.facts()
    held = Counter(pod.node for pod in facts.pods if not pod.terminal and pod.requests.gpus)
    free = [node.name for node in facts.nodes if held[node.name] == 0]
    if free:
        name = f"x-{len(facts.pods)}"
        story.operated.world.foreign_pod(name, free[0], Room(gpus=2))


def restart(story: Story) -> None:
    story.operated.restart()


def approve_wrongly(story: Story) -> None:
    story.operated.approve(story.key, "ffffffffffffffffffff")


EVENTS: tuple[Event, ...] = (
    functools.partial(edit, 2),
    functools.partial(edit, 60),
    functools.partial(edit_other, 60),
    functools.partial(edit_other, 2),
    edit_arguments,
    lose_node,
    join,
    fail_pod,
    take_room,
    restart,
    approve_wrongly,
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(EVENTS), min_size=1, max_size=5))
def test_without_an_approval_nothing_changes_but_what_was_lost_is_replaced(
    events: list[Event],
) -> None:
    story = Story()
    planned = Counter(pod.labels["motley.dev/column"] for pod in story.pods().values())
    inputs = {pod.annotations["motley.dev/inputs-hash"] for pod in story.pods().values()}
    for event in events:
        event(story)
        fit = {
            uid
            for uid, pod in story.pods().items()
            if pod.phase != "Failed" and pod.node in story.operated.world.nodes
        }
        story.operated.run()
        after = story.pods()
        assert fit <= after.keys()
        found = Counter(pod.labels["motley.dev/column"] for pod in after.values())
        assert found <= planned
        assert {pod.annotations["motley.dev/inputs-hash"] for pod in after.values()} <= inputs


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(EVENTS), min_size=1, max_size=4))
def test_what_is_proposed_in_the_end_can_be_approved_and_is_what_then_runs(
    events: list[Event],
) -> None:
    story = Story()
    operated = story.operated
    for event in events:
        event(story)
        operated.run()
    waiting = operated.planner.held.proposals[story.key].record
    if waiting is None:
        assert not operated.proposed(story.key)
        return
    assert waiting.hash == operated.proposed(story.key)["hash"]
    operated.approve(story.key, waiting.hash)
    operated.run()
    live = {(p.labels["motley.dev/replica"], p.node) for p in story.pods().values()}
    assert live == {(r.name, r.nodes[0]) for r in waiting.part.replicas}
    assert operated.status(story.key)["plan"]["hash"] == waiting.hash
    assert operated.condition(story.key, "Approved")[0] == "True"
