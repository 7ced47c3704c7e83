"""Nodes that go: one, three, a tenth at once, all of a kind, all of them; nodes that flap."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest
from e2e.cluster.nodes import make_nodes
from e2e.demo_picture import Picture
from e2e.fixtures import Cluster
from e2e.trial import FULL, SETTLE_S, Trial

from motley_operator.settings import LOSS_TOLERATION_SECONDS, Settings

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NODES = 60
AWAY_S = 20.0  # the node lifecycle controller takes up to 16 s to call a silent node lost


@pytest.fixture(scope="module")
def fleet(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """Sixty nodes of three kinds, and four pools on them."""
    nodes = [
        *make_nodes("l4", 30, prefix="lost-l4"),
        *make_nodes("l40s", 20, prefix="lost-l40s"),
        *make_nodes("a100-80", 10, prefix="lost-a100"),
    ]
    with Trial.begin(cluster, tmp_path_factory.mktemp("operator"), nodes) as trial:
        for number in range(3):
            trial.pool(f"small-{number}", 60)
        only = {"placement": {"gpuProducts": ["NVIDIA-L40S"]}}
        trial.pool("picky", 40, **only)
        trial.settle(2 * SETTLE_S)
        yield trial


@pytest.fixture
def trial(fleet: Trial) -> Iterator[Trial]:
    """Everything served, and afterwards the judges' verdict."""
    fleet.settle()
    yield fleet
    fleet.judge()


def busiest(trial: Trial, count: int) -> list[str]:
    """The nodes with the most pods."""
    counts = trial.motley.look().by_node()
    used = sorted(counts, key=lambda name: (-counts[name], name))
    idle = [name for name in trial.hands.added() if name not in counts]
    return [*used, *idle][:count]


@pytest.mark.parametrize("count", [1, 3, NODES // 10])
def test_nodes_lost_at_once_are_replanned_once_and_nobody_elsewhere_moves(
    trial: Trial, count: int
) -> None:
    before = trial.settle()
    gone = busiest(trial, count)
    began, began_at = time.monotonic(), time.time()
    for name in gone:
        trial.hands.remove_node(name)

    def is_left() -> bool:
        """Before that everything may look settled: the operator has not planned yet."""
        return not set(gone) & set(trial.motley.look().by_node())

    trial.wait(is_left, SETTLE_S, "nobody is on a node that is gone")
    after = trial.settle()
    print(f"{count} of {NODES} nodes lost: Ready after {time.monotonic() - began:.1f} s")
    stayed = {uid for uid, pod in before.live().items() if pod.node not in gone}
    assert stayed <= after.live().keys()
    assert stayed < before.live().keys()
    plans = plans_since(trial, began_at, before)
    affected = {pod.key for pod in before.live().values() if pod.node in gone}
    assert {key for key, hashes in plans.items() if hashes} >= affected
    most = bursts(trial, gone, began_at)
    assert all(len(hashes) <= most for hashes in plans.values()), (plans, most)


def bursts(trial: Trial, gone: list[str], began_at: float) -> int:
    """In how many bursts the nodes went, by the audit log: one, unless the machine was too slow."""
    times = sorted(
        one.time_s
        for one in trial.records()
        if (one.verb, one.resource) == ("delete", "nodes")
        and one.name in gone
        and one.time_s >= began_at - 1.0
    )
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    return 1 + sum(pause > Settings().idle_window_s for pause in pauses)


def plans_since(trial: Trial, began_at: float, before: Picture) -> dict[str, list[str]]:
    """New plans of each pool in the order of the audit log: each change of status.plan.hash."""
    last = {key: one.plan_mark[0] for key, one in before.resources.items()}
    found: dict[str, list[str]] = {key: [] for key in last}
    for one in trial.writes_of_operator(began_at):
        if (one.resource, one.subresource) != ("servingpools", "status"):
            continue
        key = f"ServingPool/{one.namespace}/{one.name}"
        told = (one.object["status"].get("plan") or {}).get("hash", "")
        if key in found and told != last[key]:
            found[key].append(told)
            last[key] = told
    return found


def test_a_flap_shorter_than_pods_tolerate_touches_no_pod(trial: Trial) -> None:
    before, made = trial.settle(), trial.created()
    (flapping,) = busiest(trial, 1)
    plans = {key: trial.status(key.rpartition("/")[2])["plan"] for key in before.resources}
    began = time.monotonic()
    trial.hands.set_not_ready(flapping)
    time.sleep(3.0)
    assert not trial.hands.is_ready(flapping)
    trial.hands.set_ready(flapping)
    away_s = time.monotonic() - began
    assert away_s < LOSS_TOLERATION_SECONDS - 1.0, "the machine was too slow for this test"
    time.sleep(LOSS_TOLERATION_SECONDS + 3.0)
    after = trial.settle(SETTLE_S + AWAY_S)
    print(f"away for {away_s:.1f} s: {trial.created() - made} pods made")
    assert trial.created() == made
    assert after.live().keys() == before.live().keys()
    for key, plan in plans.items():
        assert trial.status(key.rpartition("/")[2])["plan"]["hash"] == plan["hash"]


def test_a_node_that_flaps_costs_its_replicas_one_move_and_nobody_else_any(trial: Trial) -> None:
    before, made = trial.settle(), trial.created()
    (flapping,) = busiest(trial, 1)
    for _ in range(4 if FULL else 2):
        trial.hands.set_not_ready(flapping)
        time.sleep(LOSS_TOLERATION_SECONDS + 2.0)
        assert not trial.hands.is_ready(flapping)
        trial.hands.resume_heartbeats(flapping)
        trial.hands.wait_until(lambda: trial.hands.is_ready(flapping), AWAY_S, "the node is back")
    after = trial.settle(SETTLE_S + AWAY_S)
    there = {uid for uid, pod in before.live().items() if pod.node == flapping}
    assert before.live().keys() - there <= after.live().keys()
    made = trial.created() - made
    print(f"{len(there)} pods on the node, {made} pods made while it flapped")
    assert 0 < made <= len(there)


def test_when_all_nodes_of_one_kind_are_gone_only_who_needs_them_waits(trial: Trial) -> None:
    before = trial.settle()
    gone = [name for name in trial.hands.added() if "l40s" in name]
    assert set(gone) & set(before.by_node())
    for name in gone:
        trial.hands.remove_node(name)
    key = f"ServingPool/{trial.namespace}/picky"

    def is_said() -> bool:
        now = trial.motley.look()
        others = [one for k, one in now.resources.items() if k != key]
        return (
            now.resources[key].conditions["Planned"].status == "False"
            and all(one.is_true("Ready") for one in others)
            and not set(gone) & set(now.by_node())
        )

    trial.wait(is_said, SETTLE_S, "one waits, the others serve")
    after = trial.motley.look()
    stayed = {uid for uid, pod in before.live().items() if pod.node not in gone}
    assert stayed <= after.live().keys()
    trial.hands.restore_missing_nodes()
    again = trial.settle()
    assert stayed <= again.live().keys()


def test_when_all_nodes_are_gone_resources_wait_and_come_back(trial: Trial) -> None:
    trial.settle()
    everything = trial.hands.added()
    for name in everything:
        trial.hands.remove_node(name)

    def is_said() -> bool:
        now = trial.motley.look()
        planned = [one.conditions["Planned"].status for one in now.resources.values()]
        return set(planned) == {"False"} and not now.live()

    trial.wait(is_said, SETTLE_S, "all wait, and no pod is left")
    trial.assert_unshaken()
    trial.hands.restore_missing_nodes()
    trial.settle()
