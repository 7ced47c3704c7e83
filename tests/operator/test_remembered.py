"""What was worked out before changes no decision, and what is kept of it does not grow."""

from __future__ import annotations

import copy
import gc
import sys
from dataclasses import replace
from random import Random
from typing import Any, ClassVar

import pytest

from motley_operator.changes import budgets
from motley_operator.decision import Decision, decide
from motley_operator.domain.facts import ClusterFacts
from motley_operator.testing.operated import CATALOG, SETTINGS, Operated, load
from motley_operator.testing.samples import gpu_node, pool
from motley_operator.testing.world import World
from motley_operator.translate import running
from motley_planner.remembering import Memory

MEMORIES = (
    "motley_operator.manifests.build._BUILT",
    "motley_operator.changes.changing._THERE",
    "motley_operator.translate.nodes._SITES",
    "motley_operator.translate.nodes._ASKED",
    "motley_planner.planning.assembly._COLUMNS",
)


class Stored(World):
    """A world whose documents are the same objects until they change, as those of the store are."""

    known: ClassVar[dict[object, Any]] = {}

    def facts(self) -> ClusterFacts:
        """What a cycle sees of it."""
        seen = super().facts()
        resources = (replace(r, document=self._known(r.key, r.document)) for r in seen.resources)
        owned = {place: self._known(place, document) for place, document in seen.owned.items()}
        return replace(seen, resources=tuple(resources), owned=owned)

    def _known(self, place: object, document: Any) -> Any:
        if self.known.get(place) != document:
            self.known[place] = document
        return self.known[place]


def operated_on(count: int) -> Operated:
    """An operator on so many small nodes whose documents stay."""
    operated = Operated(nodes=count)
    operated.world = Stored(nodes=operated.world.nodes)
    return operated


def compared(made: Decision) -> tuple[object, ...]:
    """What a decision comes to, without how long it took."""
    plan = replace(made.plan, solve_seconds=0.0)
    return made.translation.snapshot, made.translation.inventory, plan, made.desired, made.actions


def happen(operated: Operated, keys: list[str], random: Random, turn: int) -> None:
    """One of the things that change a plan."""
    world = operated.world
    match turn % 5:
        case 0:
            operated.edit(random.choice(keys[:2]), workload=load(random.randint(1, 6)))
        case 1:
            if busy := sorted({p.node for p in world.engine_pods() if p.node}):
                world.lose_node(random.choice(busy))
        case 2:
            world.add_node(gpu_node(f"new-{turn}", gpus=2, zone=random.choice(("az-1", "az-2"))))
        case 3:
            name = random.choice(sorted(world.nodes))
            labels = {**world.nodes[name].labels, "motley.dev/exclude": "true"}
            world.add_node(replace(world.nodes[name], labels=labels))
        case _:
            if pods := world.engine_pods():
                pod = random.choice(pods)
                world.pods[pod.namespace, pod.name] = replace(pod, phase="Failed", ready=False)


def remembered() -> int:
    """Places in all memories of this process."""
    return sum(len(one) for one in gc.get_objects() if isinstance(one, Memory))


@pytest.mark.parametrize("seed", range(3))
def test_decisions_are_those_of_an_operator_that_works_everything_out_anew(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    operated, random = operated_on(5), Random(seed)
    keys = [operated.world.add(pool(name=f"p{i}", workload=load(2))) for i in range(3)]
    operated.run()
    for turn in range(10):
        happen(operated, keys, random, turn)
        for _ in range(3):
            facts, planner = operated.world.facts(), copy.deepcopy(operated.planner)
            with monkeypatch.context() as anew:
                for module, _, name in (each.rpartition(".") for each in MEMORIES):
                    anew.setattr(sys.modules[module], name, Memory(0))
                anew.setattr(running, "_described", running._described.__wrapped__)
                expected = compared(decide(facts, CATALOG, SETTINGS, planner))
            made = operated.cycle()
            assert compared(made) == expected
            operated.world.settle()
            operated.world.now += 5.0
    operated.run()
    before, after = operated.cycle().desired, operated.cycle().desired
    assert after and all(a is b for a, b in zip(before, after, strict=True)), (
        "nothing is remembered"
    )


def test_what_is_remembered_does_not_grow_with_edits() -> None:
    operated = operated_on(4)
    keys = [operated.world.add(pool(name=f"p{i}", workload=load(2))) for i in range(2)]
    operated.run()

    def edited(times: int) -> int:
        for turn in range(times):
            operated.edit(keys[turn % 2], workload=load(1 + turn % 2))
            operated.run()
        return remembered()

    assert edited(4) == edited(12) > 0


def test_nothing_is_remembered_of_resources_that_are_gone() -> None:
    operated = operated_on(4)
    operated.world.add(pool(name="stays"))
    operated.run()

    def come_and_gone(names: range) -> int:
        for number in names:
            key = operated.world.add(pool(name=f"p{number}"))
            operated.run()
            del operated.world.documents[key]
            for place in [p for p in operated.world.owned if p[2].startswith(f"p{number}")]:
                del operated.world.owned[place]
            for pod in operated.world.engine_pods(key):
                del operated.world.pods[pod.namespace, pod.name]
            operated.run()
        return remembered()

    assert come_and_gone(range(2)) == come_and_gone(range(2, 8)) > 0


def test_nothing_is_remembered_of_pods_that_a_budget_was_for() -> None:
    operated = operated_on(4)
    key = operated.world.add(pool(budget={"gpus": 4}))
    operated.run()
    assert len(budgets._GPUS) > 0
    del operated.world.documents[key]
    operated.world.owned.clear()
    operated.world.pods.clear()
    operated.run()
    assert len(budgets._GPUS) == 0
