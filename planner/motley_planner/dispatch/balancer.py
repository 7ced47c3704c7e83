"""The dispatcher: one routing table being run.

How a replica is picked is the table's routing policy: `tokens.EarliestFinish` by default, or one of
`pickers`. This module keeps what all of them need: who is admissible, what is in flight, which
replicas are left out after failures, and the mixture of cascade policies.

A replica that fails is left out for a while (doubling with each failure in a row); then one request
is let through as a probe, and the others follow when it was answered. When the set of replicas in
use changes, shares are taken over those that are left and debts are forgiven. If all of them have
failed, all are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass

from motley_planner.dispatch.affinity import Affinity
from motley_planner.dispatch.lanes import Health, Lane, ReplicaLoad, Ticket
from motley_planner.dispatch.pickers import HexGen, LeastLoaded, Picker
from motley_planner.dispatch.policies import PolicyMixer, policies_of
from motley_planner.dispatch.policy import Policy
from motley_planner.dispatch.routing import RoutingTable, Stage
from motley_planner.dispatch.tokens import EarliestFinish
from motley_planner.dispatch.ways import Way, WayMixer, hops_of

_PHASES = 64  # distinct starting points of the policy sequence among gateways
_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class DispatchOptions:
    """Borrowing in requests, circuit breaking in seconds."""

    borrow_limit: float = 4.0
    failure_pause_s: float = 1.0
    failure_pause_max_s: float = 30.0


class _Lanes:
    """All admissible replicas of one stage for one class, and the picker over those in use."""

    __slots__ = ("every", "failures", "health", "open", "picker", "valid_until_s")

    def __init__(self, every: tuple[Lane, ...], health: Health) -> None:
        self.every, self.health = every, health
        self.open: Sequence[Lane] = ()
        self.picker: Picker | None = None
        self.failures = -1
        self.valid_until_s = _NEVER


class Dispatcher:
    """Runs one routing table. Not thread-safe: one owner, one event loop."""

    def __init__(
        self,
        table: RoutingTable,
        options: DispatchOptions | None = None,
        previous: Dispatcher | None = None,
        random: Callable[[], float] | None = None,
        affinity: Affinity | None = None,
    ) -> None:
        """A dispatcher for `table`; `previous` hands over what is in flight on each replica.

        `random` (uniform on [0, 1)) shifts the starting point of buckets and mixture, so that
        several gateways of one plan do not all begin with the same replica.
        """
        self.table = table
        self._options = options or DispatchOptions()
        self._random = random
        self._affinity = affinity
        known = previous._health if previous is not None else {}
        hops = tuple(hop for stage in table.stages for hop in hops_of(stage))
        self._health: dict[str, Health] = {
            stage.name: known.get(stage.name) or Health() for stage in hops
        }
        self._loads = {
            (stage.name, replica.name): self._load(stage.name, replica.name, previous)
            for stage in hops
            for replica in stage.replicas
        }
        self._lanes = {
            (stage.name, each.name): self._lanes_of(stage, each.name)
            for stage in hops
            for each in table.classes
        }
        self._mixers = {each.name: self._mixer(each.name, previous) for each in table.classes}
        self._ways = {
            (stage.name, each.name): self._way_mixer(stage, each.name, previous)
            for stage in table.stages
            if stage.flows
            for each in table.classes
        }

    def _mixer(self, class_name: str, previous: Dispatcher | None) -> PolicyMixer:
        """The mixer of a class: the one at work where its policies and shares have not changed."""
        policies = policies_of(self.table.policies, class_name)
        known = previous._mixers.get(class_name) if previous is not None else None
        if known is not None and known.policies == tuple(p for p in policies if p.share > 0):
            return known
        return PolicyMixer(policies, int(self._random() * _PHASES) if self._random else 0)

    def _way_mixer(self, stage: Stage, name: str, previous: Dispatcher | None) -> WayMixer:
        fresh = WayMixer(stage, name, int(self._random() * _PHASES) if self._random else 0)
        known = previous._ways.get((stage.name, name)) if previous is not None else None
        same = known and (known.ways, known.policies) == (fresh.ways, fresh.policies)
        return known if known and same else fresh

    def _load(self, stage: str, replica: str, previous: Dispatcher | None) -> ReplicaLoad:
        known = previous._loads.get((stage, replica)) if previous is not None else None
        if known is None:
            return ReplicaLoad(self._health[stage])
        known.lanes = []
        return known

    def _lanes_of(self, stage: Stage, class_name: str) -> _Lanes:
        every = tuple(
            Lane(replica, class_name, self._loads[stage.name, replica.name])
            for replica in stage.replicas
            if class_name in replica.capacity
        )
        for lane in every:
            lane.load.lanes.append(lane)
        return _Lanes(every, self._health[stage.name])

    def draw_policy(self, class_name: str) -> Policy | None:
        """The policy of the next request of a class, in exactly the plan's proportions."""
        return self._mixers[class_name].draw()

    def draw_way(self, stage_name: str, class_name: str, now_s: float) -> Way | None:
        """How the next request goes through a stage with phases apart, in the plan's proportions.

        A way of which one end has no replica in use gives way to others. None where there is none.
        """
        return self._ways[stage_name, class_name].draw(
            lambda way: (
                self._is_well(way.hop, class_name, now_s)
                and (way.prefill is None or self._is_well(way.prefill, class_name, now_s))
            )
        )

    def ways(self, stage_name: str, class_name: str) -> tuple[Way, ...]:
        """All ways of a class through a stage; only the colocated one where phases are not apart."""
        mixer = self._ways.get((stage_name, class_name))
        return mixer.ways if mixer is not None else (Way(stage_name),)

    def _is_well(self, hop: str, class_name: str, now_s: float) -> bool:
        return any(
            lane.load.failing_until_s <= now_s for lane in self._lanes[hop, class_name].every
        )

    def is_admissible(self, stage_name: str, class_name: str) -> bool:
        """Whether any replica of the stage serves the class at all, or a pair of them does."""
        return any(
            self._lanes[way.hop, class_name].every for way in self.ways(stage_name, class_name)
        )

    def failing(self, stage_name: str, now_s: float) -> int:
        """How many replicas of a stage are left out at the moment."""
        return sum(
            load.failing_until_s > now_s
            for (hop, _), load in self._loads.items()
            if hop == stage_name or hop.startswith(f"{stage_name}/")
        )

    def least_work_s(self, stage_name: str, class_name: str, now_s: float) -> float:
        """Seconds of work, at planned capacity, on a stage's least busy replica in use.

        0 where none is in use: nothing is waited for there.
        """
        return min(
            (
                lane.load.work_s
                for way in self.ways(stage_name, class_name)
                for lane in self._lanes[way.hop, class_name].every
                if lane.load.failing_until_s <= now_s
            ),
            default=0.0,
        )

    def choose(
        self,
        stage_name: str,
        class_name: str,
        now_s: float,
        excluded: Collection[str] = (),
        prefix: Hashable | None = None,
    ) -> Ticket | None:
        """The replica for one request of a class; None where none is left.

        `excluded` names replicas already tried for this request; `prefix` identifies the start of
        its prompt to the affinity hook.
        """
        lanes = self._lanes[stage_name, class_name]
        if now_s >= lanes.valid_until_s or lanes.failures != lanes.health.failures:
            self._look_anew(lanes, now_s)
        picker = lanes.picker
        lane = picker.next(excluded) if picker is not None else None
        if picker is None or lane is None:
            return None
        if self._affinity is not None and prefix is not None:
            lane = self._nearer(lanes, stage_name, prefix, lane, excluded)
            self._affinity.placed(stage_name, prefix, lane.replica.name)
        ticket = Ticket(lane)
        picker.pay(lane)
        if ticket.is_probe and lane.load.failing_until_s <= now_s:
            lane.load.failing_until_s = now_s + self._options.failure_pause_max_s
            lane.load.health.failures += 1
        return ticket

    def answered(self, ticket: Ticket) -> None:
        """The replica has begun to answer: if it was on probation, it is in use again.

        Failures in a row are forgotten only by `finish`, so that one that dies in each answer is
        left out for longer each time.
        """
        load = ticket.load
        if ticket.is_probe and load.is_open:
            load.is_open, load.failing_until_s = False, float("-inf")
            load.health.failures += 1

    def finish(self, ticket: Ticket) -> None:
        """The replica answered: its failures are forgotten, unless they came after the request."""
        if ticket.release():
            self.answered(ticket)
            if not ticket.load.is_open:
                ticket.load.failures = 0

    def cancel(self, ticket: Ticket) -> None:
        """The request ended without telling anything about the replica: another one may probe."""
        if ticket.release() and ticket.is_probe and ticket.load.is_open:
            ticket.load.failing_until_s = float("-inf")
            ticket.load.health.failures += 1

    def in_flight(self) -> int:
        """Requests out on all replicas of this table."""
        return sum(load.in_flight for load in self._loads.values())

    def fail(self, ticket: Ticket, now_s: float) -> None:
        """The replica did not answer: it is left out for a while."""
        if not ticket.release():
            return
        load, options = ticket.load, self._options
        pause = options.failure_pause_s * 2.0 ** min(load.failures, 30)
        load.failures += 1
        load.is_open = True
        load.failing_until_s = now_s + min(pause, options.failure_pause_max_s)
        load.health.failures += 1

    def _look_anew(self, lanes: _Lanes, now_s: float) -> None:
        """Who is in use now, and until when that holds if nothing fails."""
        left = [lane for lane in lanes.every if lane.load.failing_until_s <= now_s]
        ends = [lane.load.failing_until_s for lane in lanes.every]
        lanes.valid_until_s = min((end for end in ends if end > now_s), default=_NEVER)
        lanes.failures = lanes.health.failures
        in_use = left or list(lanes.every)
        if in_use == lanes.open:
            return
        if lanes.picker is not None:
            lanes.picker.close()
        lanes.open = in_use
        lanes.picker = self._picker(in_use) if in_use else None

    def _picker(self, lanes: Sequence[Lane]) -> Picker:
        rule = self.table.dispatch
        if rule.policy == "roundRobin":
            return Picker(lanes)
        if rule.policy == "leastLoaded":
            return LeastLoaded(lanes)
        if rule.policy == "hexgen":
            return HexGen(lanes, rule.alpha)
        return EarliestFinish(lanes, self._options.borrow_limit, self._random)

    def _nearer(
        self, lanes: _Lanes, stage: str, prefix: Hashable, best: Lane, excluded: Collection[str]
    ) -> Lane:
        """The lane that holds the prefix, where that finishes no later than the best one."""
        assert self._affinity is not None and lanes.picker is not None
        wanted = self._affinity.preferred(stage, prefix)
        if wanted is None or wanted[0] in excluded:
            return best
        load = self._loads.get((stage, wanted[0]))
        here = [one for one in (load.lanes if load else ()) if one.picker is lanes.picker]
        if not here or not lanes.picker.may_prefer(here[0]):
            return best
        finish = here[0].load.work_s + here[0].service_s - wanted[1]
        return here[0] if finish <= best.load.work_s + best.service_s else best
