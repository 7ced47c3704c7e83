"""Cheaper nodes join: the fleet moves to them by steps, and each cooldown sees a share of it move."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from motley_operator.decision import Decision
from motley_operator.testing import gpu_node, pool
from motley_operator.testing.operated import Operated, load
from motley_planner.planning import survivors

CHEAP = "NVIDIA-L40S"
COOLDOWN_S = 600.0  # the Fleet's default
STEP_S = 20.0
MIN_IMPROVEMENT = 0.05


def cheaper(name: str, dollars_per_hour: str = "0.5") -> Any:
    """A node of two GPUs at this price."""
    labels = {"motley.dev/price-usd-per-hour": dollars_per_hour}
    return gpu_node(name, product=CHEAP, gpus=2, labels=labels)


class Saving(Operated):
    """Notes when how many replicas are stopped for money, of how many that ran."""

    def __init__(self, dear: int, rates: list[int]) -> None:
        super().__init__(0)
        self.world.add_node(*(gpu_node(f"dear{i}", gpus=2) for i in range(dear)))
        self.stops: list[tuple[float, int, int]] = []
        self.keys = [
            self.world.add(pool(f"p{i}", workload=load(rate))) for i, rate in enumerate(rates)
        ]
        self.lasts(60.0)

    def cycle(self) -> Decision:
        runs = len(self.live())
        made = super().cycle()
        stops = [m for m in made.plan.moves if m.action == "stop" and m.key in made.plan.saving]
        if stops and made.actions:
            self.stops.append((self.world.now, len(stops), runs))
        return made

    def lasts(self, seconds: float) -> Decision:
        """Time passes; a cycle each step."""
        end = self.world.now + seconds
        seen: Any = None
        while self.world.now < end:
            made = self.cycle()
            if made.plan is seen and self.stops and self.stops[-1][0] == self.world.now:
                self.stops.pop()  # the same plan goes on
            seen = made.plan
            self.world.settle()
            self.world.now += STEP_S
        return made

    def live(self) -> set[str]:
        return set().union(*(self.uids(key) for key in self.keys))

    def most_in_a_cooldown(self) -> float:
        """The largest number of stops within one cooldown, as a share of what may be stopped."""
        shares = [0.0]
        for end, _, runs in self.stops:
            within = sum(n for at, n, _ in self.stops if end - COOLDOWN_S < at <= end)
            shares.append(within / max(survivors.LEAST_STOPS, int(survivors.STOPS * runs)))
        return max(shares)


def test_a_fleet_moves_to_cheaper_nodes_by_steps_and_in_the_end_all_of_it() -> None:
    saving = Saving(8, [40] * 4)
    before = saving.live()
    assert len(before) == 8
    saving.world.add_node(*(cheaper(f"cheap{i}") for i in range(16)))
    saving.lasts(COOLDOWN_S - STEP_S)
    assert len(before - saving.live()) == 2
    saving.lasts(4 * COOLDOWN_S)
    assert not before & saving.live()
    assert saving.most_in_a_cooldown() == 1.0
    assert sum(n for _, n, _ in saving.stops) == 8
    rest = saving.live()
    saving.lasts(2 * COOLDOWN_S)
    assert saving.live() == rest


def test_a_restart_forgets_nothing_of_what_moved_lately() -> None:
    saving = Saving(8, [40] * 4)
    before = saving.live()
    saving.world.add_node(*(cheaper(f"cheap{i}") for i in range(16)))
    saving.lasts(120.0)
    saving.restart()
    saving.lasts(60.0)
    saving.world.add_node(cheaper("cheapest", "0.2"))  # money is looked at
    saving.lasts(60.0)
    assert (
        len(saving.live()) == 14 and len(before - saving.live()) == 3
    )  # a quarter of 12 and not 5
    saving.lasts(COOLDOWN_S)
    saving.restart()  # between two steps
    rest = len(before & saving.live())
    saving.lasts(60.0)
    assert len(before & saving.live()) == rest > 0
    saving.lasts(4 * COOLDOWN_S)
    assert not before & saving.live()
    assert saving.most_in_a_cooldown() <= 1.0


def test_a_loss_between_two_steps_is_mended_at_once_and_the_next_step_comes() -> None:
    saving = Saving(8, [40] * 4)
    before = saving.live()
    saving.world.add_node(*(cheaper(f"cheap{i}") for i in range(16)))
    saving.lasts(120.0)
    pairs = [at for k in saving.keys if (at := saving.nodes(k))[0] == at[-1]]
    saving.world.lose_node(pairs[0][0])  # with two replicas of one that has not moved
    saving.lasts(60.0)
    assert len(before - saving.live()) == 4
    assert all(saving.condition(key, "Planned")[0] == "True" for key in saving.keys)
    saving.lasts(5 * COOLDOWN_S)
    assert not before & saving.live()
    assert saving.most_in_a_cooldown() <= 1.0


def drawn(seed: int) -> Saving:
    """A fleet after a day on which nodes of drawn prices join, a few at a time."""
    draw = Random(seed)
    saving = Saving(10, [draw.choice([10, 25, 40]) for _ in range(draw.randint(3, 5))])
    for number in range(draw.randint(2, 4)):
        price = f"{draw.uniform(0.3, 2.5):.2f}"
        joined = (cheaper(f"n{number}-{i}", price) for i in range(draw.randint(1, 6)))
        saving.world.add_node(*joined)
        saving.lasts(draw.choice([40.0, 200.0, 700.0]))
    saving.lasts(8 * COOLDOWN_S)
    return saving


@pytest.mark.parametrize("seed", range(3))
def test_no_cooldown_sees_more_than_its_share_and_the_end_is_as_cheap(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving = drawn(seed)
    assert saving.stops
    assert saving.most_in_a_cooldown() <= 1.0
    monkeypatch.setattr(survivors, "STOPS", 1.0)
    monkeypatch.setattr(survivors, "LEAST_STOPS", 1000)
    at_once = drawn(seed)
    ends = [one.cycle().plan.price_usd_per_hour for one in (saving, at_once)]
    assert ends[0] <= ends[1] * (1.0 + MIN_IMPROVEMENT) + 1e-9


def test_a_proposal_is_the_whole_move_for_a_person_decides() -> None:
    saving = Saving(4, [60])
    before = saving.live()
    assert len(before) > survivors.LEAST_STOPS
    saving.edit(saving.keys[0], replan={"mode": "Preview"})
    saving.lasts(60.0)
    saving.world.add_node(*(cheaper(f"cheap{i}") for i in range(16)))
    saving.lasts(60.0)
    assert saving.live() == before
    proposed = saving.proposed(saving.keys[0])
    assert proposed["stops"] == len(before)
    saving.approve(saving.keys[0], str(proposed["hash"]))
    saving.lasts(120.0)
    assert not before & saving.live()
