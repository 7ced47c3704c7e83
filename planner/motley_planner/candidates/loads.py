"""Workload classes as loads on one replica: what each asks of it, alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from motley_planner.costs.capacity import most_sequences
from motley_planner.costs.pipeline import Pipeline
from motley_planner.costs.replica import Replica
from motley_planner.costs.steps import prefill_s
from motley_planner.domain.demand import WorkloadClass


@dataclass(frozen=True, slots=True)
class ClassLoad:
    """A workload class on a given replica; times alone, in seconds.

    `prefill_s` is the time that a prompt takes from everybody. In a pipeline that is what its slowest
    part takes, and the prompt itself is longer under way: `alone_s`, where it differs. Where replicas
    only decode, `prefill_s` is 0 and `alone_s` is how long the KV cache is under way.
    """

    name: str
    prompt_tokens: float
    output_tokens: float
    prefill_s: float
    most_sequences: float
    share: float = 1.0  # of all requests
    alone_s: float = 0.0  # 0: prefill_s

    @property
    def prefill_s_per_output_token(self) -> float:
        """Seconds of prefill work that come with each output token."""
        return self.prefill_s / self.output_tokens

    def most_per_second(self, step_s: float, batch: int) -> float:
        """Requests/s of a full batch: each takes its prefill, and its share of its tokens' steps."""
        return 1.0 / (self.prefill_s + self.output_tokens * step_s / batch)

    def at(self, batch: int) -> tuple[float, float, float]:
        """Batch, prompt and output tokens, as measurements name a load."""
        return float(batch), self.prompt_tokens, self.output_tokens


def class_loads(
    replica: Replica, classes: Sequence[WorkloadClass], pipeline: Pipeline | None = None
) -> tuple[ClassLoad, ...]:
    """The classes as loads on this replica, least prefill work per output token first.

    `pipeline`: what the replica is cut into, if it is.
    """
    loads, total = [], sum(c.weight for c in classes) or 1.0
    for c in classes:
        prompt, output = float(max(1, c.prompt_tokens)), float(max(1, c.output_tokens))
        if pipeline is None:
            most, times = most_sequences(replica, prompt, output), [prefill_s(replica, prompt)]
        else:
            most = pipeline.most_sequences(prompt, output)
            times = pipeline.prefill_times_s(prompt)
        share, alone = c.weight / total, sum(times) if pipeline is not None else 0.0
        loads.append(ClassLoad(c.name, prompt, output, max(times), most, share, alone))
    return tuple(sorted(loads, key=lambda load: (load.prefill_s_per_output_token, load.name)))
