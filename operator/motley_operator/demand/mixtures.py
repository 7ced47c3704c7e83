"""Classes told apart by prompt length, where no gateway counts them by name."""

from __future__ import annotations

import math
from itertools import pairwise

from motley_operator.api.traffic import Workload
from motley_operator.demand.histograms import count_of, share_below
from motley_operator.domain.measurement import Histogram


def shares_by_length(workload: Workload, prompt: Histogram) -> tuple[dict[str, float], float]:
    """Requests by class, and the largest share that buckets leave open at a boundary.

    The boundary between two prompt lengths p < q is where the gateway puts it: at equal distance
    in ln(n + 1), n = sqrt((p + 1)(q + 1)) - 1. Classes with equal prompt lengths cannot be told
    apart and share by weight.
    """
    lengths = sorted({c.prompt_tokens for c in workload.classes})
    edges = [math.sqrt((p + 1.0) * (q + 1.0)) - 1.0 for p, q in pairwise(lengths)]
    cuts = [share_below(prompt, edge) for edge in edges]
    upto = [0.0, *(cut.value for cut in cuts), 1.0]
    count = count_of(prompt)
    counts: dict[str, float] = {}
    for i, length in enumerate(lengths):
        same = [c for c in workload.classes if c.prompt_tokens == length]
        weights = sum(c.weight for c in same)
        for each in same:
            counts[each.name] = count * (upto[i + 1] - upto[i]) * each.weight / weights
    return counts, max((cut.high - cut.low for cut in cuts), default=0.0)
