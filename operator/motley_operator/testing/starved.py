"""An operator whose searches are killed before they answer when a test says so, as on a busy machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

from motley_operator.decision import Decision
from motley_operator.remembering import RememberingPlanner
from motley_operator.testing.operated import SETTINGS, Operated, load
from motley_operator.testing.samples import gpu_node, pool
from motley_operator.testing.world import World
from motley_planner import planning
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.plan import Plan
from motley_planner.domain.snapshot import Snapshot
from motley_planner.solver import Job, Outcome
from motley_planner.solver.clock import CLOCK

PRODUCTS = ("NVIDIA-H100-80GB-HBM3", "NVIDIA-L4", "NVIDIA-L40S", "NVIDIA-A100-SXM4-80GB")
STARVED_S = 0.02
PATIENT_S = 30.0  # wall seconds that HiGHS gets for what is solved beside the search
_waited_s = [0.0]
CALM_CYCLES = 12


@contextmanager
def in_searches_only() -> Iterator[None]:
    """Time passes only while `_killed` is waited for: all else has it, however busy the machine is."""
    began_s = CLOCK.now()
    with (
        mock.patch.object(CLOCK, "now", lambda: began_s + _waited_s[0]),
        mock.patch.object(CLOCK, "wall_s", lambda seconds: max(seconds, PATIENT_S)),
    ):
        yield


@contextmanager
def in_cpu_seconds() -> Iterator[None]:
    """Searches here have as much time on a busy machine as on an idle one."""
    CLOCK.count_cpu_seconds()
    try:
        yield
    finally:
        CLOCK.count_wall_seconds()


class Solver:
    """The real planner, whose searches end without a word while it is `starved`; notes every solve.

    What is left then is what is made without a search. In the middle of each `meanwhile` happens.
    """

    def __init__(self) -> None:
        self.starved = False
        self.limits_s: list[float] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def __call__(self, snapshot: Snapshot, catalog: Catalog) -> Plan:
        self.limits_s.append(snapshot.time_limit_s)
        self.meanwhile()
        if not self.starved:
            with in_cpu_seconds():
                return planning.plan(snapshot, catalog, use_worker=False)
        killed = mock.patch("motley_planner.formulations.fleet.solve", _killed)
        with killed, in_searches_only():
            hurried = replace(snapshot, time_limit_s=STARVED_S)
            return planning.plan(hurried, catalog, use_worker=False)


def _killed(job: Job, *, use_worker: bool = True) -> Outcome:
    """The outcome of a worker that started too slowly."""
    _waited_s[0] += job.time_limit_s
    return Outcome()


class StarvedFleet(Operated):
    """Four GPU types, pools, and an operator whose solver can be starved."""

    def __init__(self, pools: int, nodes: int = 24) -> None:
        super().__init__()
        self.world = World()
        for i in range(nodes):
            product, zone = PRODUCTS[i % len(PRODUCTS)], f"az-{i % 3 + 1}"
            self.world.add_node(gpu_node(f"n{i}", product=product, gpus=8, zone=zone))
        self.solver = Solver()
        self.planner = RememberingPlanner(self.solver)
        self.settings = replace(SETTINGS, time_limit_s=1.0, first_time_limit_s=4.0)
        self.keys = [self.world.add(pool(f"p{i}", workload=load(5 + 3 * i))) for i in range(pools)]

    def cut_short_after_an_edit(self) -> tuple[str, Plan]:
        """The first pool and the dear plan that a starved solver left after an edit to less."""
        self.edit(self.keys[0], workload=load(150))
        self.run()
        self.solver.starved = True
        self.edit(self.keys[0], workload=load(6))
        poor = self.step().plan
        assert poor.cut_short and self.planner.again_at is not None
        self.world.settle()
        self.world.now = max(self.world.now, self.planner.again_at)
        self.solver.starved = False
        return self.keys[0], poor

    def usd_per_hour(self, key: str) -> float:
        """What the last cycle's plan pays for a resource."""
        slices = self.last.plan.slices
        return next(part.price_usd_per_hour for part in slices if part.key == key)

    def cycle(self) -> Decision:
        """One cycle; its decision stays in `last`."""
        self.last = super().cycle()
        return self.last

    def step(self) -> Decision:
        """A cycle, and five seconds in which pods start and end."""
        made = self.cycle()
        self.world.settle()
        self.world.now += 5.0
        return made

    def at_rest(self) -> None:
        """Fails where anything is still planned or moved in a minute without an event."""
        solves, pods = self.planner.solves, {p.uid for p in self.world.engine_pods()}
        for _ in range(CALM_CYCLES):
            made = self.step()
            assert not made.actions and not made.statuses
        assert self.planner.solves == solves
        assert {p.uid for p in self.world.engine_pods()} == pods
