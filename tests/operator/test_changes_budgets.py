"""Budgets while replicas are replaced: never exceeded, nothing stuck, and no gap that is not needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from motley_operator import changes, manifests, translate
from motley_operator.domain.actions import Action
from motley_operator.domain.facts import PodFacts
from motley_operator.domain.names import IMAGE, key_of
from motley_operator.settings import Settings
from motley_operator.succession import succeeded
from motley_operator.testing import World, gpu_node, plan_of, pool, replica, slice_of
from motley_operator.testing.operated import Operated, load
from motley_planner.catalog import load_catalog
from motley_planner.domain.plan import PlannedReplica

CATALOG = load_catalog()
SETTINGS = Settings()
GPUS_A_NODE = 4


def image(number: int) -> dict[str, str]:
    return {"name": "vllm", "image": f"example.test/engine:{number}"}


def priced(name: str, usd_per_gpu_hour: float, gpus: int = GPUS_A_NODE) -> Any:
    price = str(usd_per_gpu_hour * gpus)
    return gpu_node(name, gpus=gpus, labels={"motley.dev/price-usd-per-hour": price})


def fleet(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": "default", "uid": "fleet", "generation": 1},
        "spec": spec,
    }


def spent(world: World, prices: Mapping[str, float], key: str = "") -> float:
    """USD/h of the GPUs that live pods request, those that are ending too."""
    return sum(
        pod.requests.gpus * prices[pod.node or ""]
        for pod in world.engine_pods(key)
        if not pod.terminal
    )


class Watched(Operated):
    """Nodes at 1 USD per GPU and hour; at every step the money spent and the ready pods are noted."""

    def __init__(self, nodes: int, gpus: int = 1) -> None:
        super().__init__(0)
        self.world.add_node(*(priced(f"h{i}", 1.0, gpus) for i in range(nodes)))
        self.prices = {f"h{i}": 1.0 for i in range(nodes)}
        self.most = 0.0
        self.fewest: dict[str, int] = {}

    def lasts(self, seconds: float, step_s: float = 10.0) -> None:
        end = self.world.now + seconds
        while self.world.now < end:
            self.cycle()
            self.most = max(self.most, spent(self.world, self.prices))
            for key in self.world.documents:
                ready = [p for p in self.world.engine_pods(key) if p.ready and not p.deleting]
                self.fewest[key] = min(self.fewest.get(key, 1_000), len(ready))
            self.world.settle()
            self.world.now += step_s

    def images(self, key: str) -> set[str]:
        return {p.annotations[IMAGE] for p in self.world.engine_pods(key)}


def one_gpu(name: str = "chat", rate: float = 2, **spec: Any) -> dict[str, Any]:
    return pool(name, workload=load(rate), parallelism={"maxTensor": 1}, **spec)


@pytest.mark.parametrize(
    ("budget", "most", "fewest"),
    [
        ({"dollarsPerHour": 1}, 1.0, 0),
        ({"gpus": 1}, 1.0, 0),
        ({"dollarsPerHour": 2}, 2.0, 1),
        ({"gpus": 2}, 2.0, 1),
        ({"dollarsPerHour": 1, "inTransition": "Exceed"}, 2.0, 1),
    ],
    ids=["full", "full of GPUs", "room for two", "GPUs for two", "may exceed"],
)
@pytest.mark.parametrize("whose", ["the resource's", "the fleet's"])
def test_a_budget_decides_whether_a_successor_may_overlap(
    whose: str, budget: dict[str, Any], most: float, fewest: int
) -> None:
    watched = Watched(nodes=3)
    if whose == "the fleet's":
        watched.world.fleet = fleet(budget=budget)
        key = watched.world.add(one_gpu())
    else:
        key = watched.world.add(one_gpu(budget=budget))
    watched.run()
    watched.edit(key, engine=image(2))
    watched.lasts(150)
    assert watched.images(key) == {image(2)["image"]}
    assert (watched.most, watched.fewest[key]) == (most, fewest)


def test_pools_that_share_a_budget_take_turns_and_none_has_a_gap() -> None:
    watched = Watched(nodes=10)
    watched.world.fleet = fleet(budget={"dollarsPerHour": 6})
    keys = [watched.world.add(one_gpu(f"p{i}")) for i in range(5)]
    watched.run()
    assert spent(watched.world, watched.prices) == 5.0
    for key in keys:
        watched.edit(key, engine=image(2))
    watched.lasts(600)
    assert all(watched.images(key) == {image(2)["image"]} for key in keys)
    assert watched.most == 6.0
    assert set(watched.fewest.values()) == {1}


def test_who_never_gets_ready_holds_the_others_up_for_a_while_and_not_for_good() -> None:
    watched = Watched(nodes=10)
    watched.world.fleet = fleet(budget={"dollarsPerHour": 4})
    keys = [watched.world.add(one_gpu(f"p{i}")) for i in range(3)]
    watched.run()
    bad = "p0-"

    def fate(pod: PodFacts) -> Mapping[str, Any]:
        stuck = pod.name.startswith(bad) and pod.annotations.get(IMAGE) == image(2)["image"]
        return {"ready": False} if stuck else {}

    watched.world.fate = fate
    for key in keys:
        watched.edit(key, engine=image(2))
    watched.lasts(2400, step_s=30.0)
    assert watched.most <= 4.0
    assert all(watched.images(key) == {image(2)["image"]} for key in keys[1:])
    assert min(watched.fewest[key] for key in keys[:1]) == 1


def test_what_a_refused_edit_leaves_running_is_paid_out_of_the_same_budget() -> None:
    watched = Watched(nodes=6)
    watched.world.fleet = fleet(budget={"dollarsPerHour": 3})
    old = watched.world.add(one_gpu("old"))
    watched.run()
    watched.edit(old, model={"id": "nobody/knows-this"})
    watched.world.add(one_gpu("new", rate=200))
    watched.lasts(120)
    assert watched.uids(old)
    assert watched.most == 3.0


NODES = {"cheap": 1.0, "fair": 2.0, "dear": 3.0}
BUDGET, OWN = 12, 7  # USD/h: of all, and of the first pool
CHOICES = st.lists(
    st.tuples(st.sampled_from(sorted(NODES)), st.sampled_from([1, 2, 4])), max_size=4
)


class Rollouts(RuleBasedStateMachine):
    """Any plan within the budgets after any other, at any moment; pods that are slow; edits."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World().add_node(*(priced(name, usd) for name, usd in NODES.items()))
        self.world.fleet = fleet(budget={"dollarsPerHour": BUDGET})
        self.keys = [
            self.world.add(pool("a", budget={"dollarsPerHour": OWN})),
            self.world.add(pool("b")),
        ]
        self.plans: dict[str, list[PlannedReplica]] = {key: [] for key in self.keys}
        self.version = self.made = 0

    def cycle(self) -> tuple[Action, ...]:
        facts = self.world.facts()
        translation = translate.translate(facts, CATALOG, SETTINGS)
        plan = plan_of(
            *(slice_of(key, rs, digest=f"{self.made}") for key, rs in self.plans.items())
        )
        built = succeeded(plan, translation, facts)
        desired = manifests.build(built, translation, facts, CATALOG, SETTINGS)
        trouble = changes.Trouble(budgets=translation.budgets)
        actions = changes.changes(desired, facts, plan, trouble)
        self.world.apply(actions)
        return actions

    @initialize(chosen=st.tuples(CHOICES, CHOICES))
    def starts(self, chosen: tuple[list[tuple[str, int]], ...]) -> None:
        self.plan_anew(chosen)

    @rule(chosen=st.tuples(CHOICES, CHOICES))
    def plan_anew(self, chosen: tuple[list[tuple[str, int]], ...]) -> None:
        """As many of the drawn replicas as nodes and budgets have room for."""
        left, money = dict.fromkeys(NODES, GPUS_A_NODE), {"": BUDGET, self.keys[0]: OWN}
        self.made += 1
        for key, drawn in zip(self.keys, chosen, strict=True):
            self.plans[key] = []
            for node, gpus in drawn:
                price, rows = gpus * NODES[node], {"", key} & money.keys()
                if gpus > left[node] or any(money[row] < price for row in rows):
                    continue
                left[node] -= gpus
                for row in rows:
                    money[row] -= price
                column = f"{sorted(NODES).index(node)}{gpus}".rjust(8, "0")
                same = sum(r.column == column for r in self.plans[key])
                made = replica(column=column, ordinal=same, nodes=(node,), tensor_parallel=gpus)
                self.plans[key].append(made)

    @rule(which=st.integers(0, 1))
    def edit(self, which: int) -> None:
        """Another image."""
        self.version += 1
        document = self.world.documents[self.keys[which]]
        self.world.add({**document, "spec": {**document["spec"], "engine": image(self.version)}})

    @rule(slow=st.sets(st.integers(0, 3)))
    def some_are_slow(self, slow: set[int]) -> None:
        """Pods of some UIDs do not get ready for now."""

        def fate(pod: PodFacts) -> Mapping[str, Any]:
            return {"ready": False} if int(pod.uid.split("-")[1]) % 4 in slow else {}

        self.world.fate = fate

    @rule(kubelets=st.booleans())
    def time_passes(self, kubelets: bool) -> None:
        """A cycle; with or without the end of pods and the readiness of others after it."""
        self.cycle()
        if kubelets:
            self.world.settle()
        self.world.now += 10.0

    @invariant()
    def no_budget_is_exceeded(self) -> None:
        assert spent(self.world, NODES) <= BUDGET
        assert spent(self.world, NODES, self.keys[0]) <= OWN

    @precondition(lambda self: self.made > 0)
    @rule()
    def everything_gets_where_it_should(self) -> None:
        """Once all pods get ready, the plan is carried out within a bound."""
        self.world.fate = lambda pod: {}
        calm = 0
        for _ in range(60):
            calm = 0 if self.cycle() else calm + 1
            self.no_budget_is_exceeded()
            self.world.settle()
            self.world.now += 10.0
            if calm == 3:
                break
        assert calm == 3
        for key, planned in self.plans.items():
            pods = self.world.engine_pods(key)
            assert len(pods) == len(planned)
            held = sorted((pod.node, pod.requests.gpus) for pod in pods)
            assert held == sorted((r.nodes[0], r.tensor_parallel) for r in planned)
            spec = self.world.documents[key]["spec"]
            if "engine" in spec:
                assert {pod.annotations[IMAGE] for pod in pods} <= {spec["engine"]["image"]}
            assert all(key_of(pod.labels, pod.namespace) == key for pod in pods)

    def teardown(self) -> None:
        """Whatever happened before."""
        if self.made > 0:
            self.everything_gets_where_it_should()


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(
    max_examples=30,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
