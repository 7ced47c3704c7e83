"""Workload classes as loads on one replica: what each asks of it, alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from motley_planner.costs.capacity import most_sequences
from motley_planner.costs.replica import Replica
from motley_planner.costs.steps import prefill_s
from motley_planner.domain.demand import WorkloadClass


@dataclass(frozen=True, slots=True)
class ClassLoad:
    """A workload class on a given replica; times alone, in seconds."""

    name: str
    prompt_tokens: float
    output_tokens: float
    prefill_s: float
    most_sequences: float
    share: float = 1.0  # of all requests

    @property
    def prefill_s_per_output_token(self) -> float:
        """Seconds of prefill work that come with each output token."""
        return self.prefill_s / self.output_tokens


def class_loads(replica: Replica, classes: Sequence[WorkloadClass]) -> tuple[ClassLoad, ...]:
    """The classes as loads on this replica, least prefill work per output token first."""
    loads, total = [], sum(c.weight for c in classes) or 1.0
    for c in classes:
        prompt, output = float(max(1, c.prompt_tokens)), float(max(1, c.output_tokens))
        most = most_sequences(replica, prompt, output)
        prefill, share = prefill_s(replica, prompt), c.weight / total
        loads.append(ClassLoad(c.name, prompt, output, prefill, most, share))
    return tuple(sorted(loads, key=lambda load: (load.prefill_s_per_output_token, load.name)))
