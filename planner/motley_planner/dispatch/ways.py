"""Ways through a stage: one replica for both phases, or a prefill and then a decode replica.

The plan's flows say how many requests/s of a class go from which group of prefill replicas to which
group of decode replicas, and the colocated replicas take the rest. A way is one flow, or the
colocated replicas together; requests follow the ways in exactly these proportions, and inside each
group the dispatcher's rule picks the replica. So a pair's share is its flow's, times the shares of
its two replicas among their groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from motley_planner.dispatch.policies import PolicyMixer
from motley_planner.dispatch.policy import Policy
from motley_planner.dispatch.routing import Stage


@dataclass(frozen=True, slots=True)
class Way:
    """The hop that answers a client, and the hop that reads its prompt first, if another one does."""

    hop: str
    prefill: str | None = None


def hops_of(stage: Stage) -> tuple[Stage, ...]:
    """What a dispatcher chooses in: the colocated replicas, then each phase's by group."""
    found = [stage]
    for phase, replicas in (("prefill", stage.prefill), ("decode", stage.decode)):
        for group in dict.fromkeys(each.group for each in replicas):
            members = tuple(each for each in replicas if each.group == group)
            found.append(Stage(hop_name(stage.name, phase, group), stage.model, members))
    return tuple(found)


def hop_name(stage: str, phase: str, group: str) -> str:
    """Name of the hop of one group of a phase."""
    return f"{stage}/{phase}/{group}"


def ways_of(stage: Stage, class_name: str) -> tuple[tuple[Way, float], ...]:
    """The ways that the plan has for a class, with their requests/s; the colocated one first."""
    whole = sum(each.rates.get(class_name, 0.0) for each in stage.replicas)
    planned = [
        (
            Way(
                hop_name(stage.name, "decode", flow.target),
                hop_name(stage.name, "prefill", flow.source),
            ),
            flow.requests_per_second,
        )
        for flow in stage.flows
        if flow.request_class == class_name
    ]
    is_served = any(class_name in each.capacity for each in stage.replicas)
    return (*([(Way(stage.name), whole)] if is_served else []), *planned)


class WayMixer:
    """Draws a class's ways in exactly the plan's proportions; equal ones where none is planned."""

    def __init__(self, stage: Stage, class_name: str, phase: int = 0) -> None:
        """A mixer that starts `phase` draws into its sequence, so that gateways differ."""
        found = ways_of(stage, class_name)
        total = sum(rate for _, rate in found)
        self.ways = tuple(way for way, _ in found)
        shares = [rate / total if total > 0 else 1.0 / len(found) for _, rate in found]
        self.policies = tuple(Policy(str(i), share, {}) for i, share in enumerate(shares))
        self._mixer = PolicyMixer(self.policies, phase)

    def draw(self, is_well: Callable[[Way], bool]) -> Way | None:
        """The next request's way; one that is not well gives way to the largest that is."""
        drawn = self._mixer.draw()
        if drawn is None:
            return None
        way = self.ways[int(drawn.id)]
        if is_well(way):
            return way
        by_share = sorted(self.policies, key=lambda each: -each.share)
        others = (self.ways[int(each.id)] for each in by_share)
        return next((other for other in others if is_well(other)), way)


def only(stage: Stage, keep: Callable[[str], bool]) -> Stage:
    """The stage with the replicas of some trust zones; flows that lost an end are left out."""
    replicas, prefill, decode = (
        tuple(each for each in some if keep(each.trust_zone))
        for some in (stage.replicas, stage.prefill, stage.decode)
    )
    sources, targets = {each.group for each in prefill}, {each.group for each in decode}
    flows = tuple(f for f in stage.flows if f.source in sources and f.target in targets)
    return replace(stage, replicas=replicas, prefill=prefill, decode=decode, flows=flows)
