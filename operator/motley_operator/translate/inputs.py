"""One hash over everything that planning depends on, so that equal inputs are known as equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial

from motley_operator.domain.facts import ClusterFacts, Room
from motley_operator.domain.names import PAUSED, REPLAN_REQUESTED
from motley_operator.translate.claims import Offers
from motley_operator.translate.nodes import Site
from motley_operator.translate.room import is_engine, room_left
from motley_planner.domain.demand import Demand
from motley_planner.domain.quotas import Quota
from motley_planner.domain.snapshot import Avoided, PodNeed
from motley_planner.remembering import Memory

_ASKED: Memory[str] = Memory(4096)
Others = tuple[
    Mapping[str, object], Mapping[str, object], frozenset[Avoided], tuple[Quota, ...], Offers
]


def inputs_hash(
    facts: ClusterFacts,
    sites: Sequence[Site],
    demands: Mapping[str, Demand],
    others: Others,
    need: PodNeed,
) -> str:
    """Hash over all but our own engine pods: those change because of plans; see `policies`.

    `others` are what was rejected, measured profiles, avoided columns, quotas and shapes on offer.
    """
    ours = frozenset(pod.uid for pod in facts.pods if is_engine(pod))
    room = room_left(facts, ours)
    requested = sorted(
        (r.key, r.annotations.get(REPLAN_REQUESTED, ""), r.annotations.get(PAUSED, ""))
        for r in facts.resources
    )
    nodes = [
        (
            s.facts.name,
            s.node_class.gpu,
            s.node_class.id,
            s.cordoned,
            _usable(room[s.facts.name], need),
        )
        for s in sites
    ]
    _ASKED.keep(demands.__contains__)
    asked = [_ASKED.get(key, demand, partial(_text, demand)) for key, demand in demands.items()]
    fleet = (facts.fleet or {}).get("spec")
    rejected, profiles, avoided, quotas, known = others
    ordered = (sorted(rejected.items()), sorted(profiles.items()), sorted(map(repr, avoided)))
    queued = (f"queued {key}" for key in known.queued)
    shut = (sorted([*known.closed, *queued]), sorted(known.overdue))
    text = repr((nodes, asked, requested, fleet, ordered, quotas, shut))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _text(demand: Demand) -> str:
    return json.dumps(asdict(demand), default=sorted)


def _usable(room: Room, need: PodNeed) -> int:
    """GPUs that engine pods can use: all that the planner makes of a node's room."""
    return min(
        room.gpus,
        room.cpu_milli // max(1, need.cpu_milli_per_gpu),
        room.memory_bytes // max(1, need.memory_bytes_per_gpu),
        room.pods,
    )
