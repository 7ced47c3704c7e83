"""Which class a request belongs to, by what is known when it arrives."""

from __future__ import annotations

import math
from collections.abc import Sequence

from motley_planner.dispatch.routing import RequestClass


def classify(
    classes: Sequence[RequestClass], prompt_tokens: float, max_output_tokens: float | None = None
) -> RequestClass:
    """The class whose prompt length is nearest in log space: |ln(n + 1) - ln(p + 1)| least.

    Classes with the same prompt length are told apart by the output length, where the request
    limits it; then the first of the list wins.
    """

    def distance(each: RequestClass) -> tuple[float, float]:
        prompt = abs(math.log1p(each.prompt_tokens) - math.log1p(prompt_tokens))
        if max_output_tokens is None:
            return prompt, 0.0
        return prompt, abs(math.log1p(each.output_tokens) - math.log1p(max_output_tokens))

    return min(classes, key=distance)
