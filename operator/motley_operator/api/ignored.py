"""Fields that are accepted and not acted on yet, so that nobody relies on them by mistake.

A field leaves this list in the change that acts on it. The reference pages and the condition
Accepted both read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from motley_operator.api.fleet import Fleet
from motley_operator.api.frame import Resource
from motley_operator.api.modelcascade import ModelCascade
from motley_operator.api.rljob import RLJob
from motley_operator.api.servingpool import ServingPool

IGNORED: Mapping[type[Resource], tuple[str, ...]] = {
    ServingPool: (),
    ModelCascade: (),
    RLJob: (
        "rollout.parallelism.maxPipeline",
        "trainer.parallelism.maxTensor",
        "trainer.parallelism.maxPipeline",
        "replan.headroom",
        "replan.nodeLossTolerance",
    ),
    Fleet: (),
}


def not_acted_on(resource: Resource) -> tuple[str, ...]:
    """Fields that the resource sets to other than their defaults and that change nothing yet."""
    spec = resource.document().get("spec", {})
    defaults = _defaults(resource)
    return tuple(
        f"spec.{field}"
        for path in IGNORED[type(resource)]
        for field, value in _values(spec, path.split("."), "")
        if value not in (None, [], {}, defaults.get(path))
    )


def _defaults(resource: Resource) -> Mapping[str, Any]:
    """What fields hold that nobody has written."""
    written = {
        "rollout.parallelism.maxPipeline": 1,
        "trainer.parallelism.maxPipeline": 1,
        "trainer.parallelism.maxTensor": 8,
    }
    return written


def _values(value: Any, steps: list[str], at: str) -> Iterator[tuple[str, Any]]:
    """Every value at a path, with its own path; `[]` goes through a list."""
    if not steps:
        yield at, value
        return
    name = steps[0].removesuffix("[]")
    below = value.get(name) if isinstance(value, Mapping) else None
    at = f"{at}.{name}" if at else name
    if steps[0].endswith("[]"):
        for i, item in enumerate(below or ()):
            yield from _values(item, steps[1:], f"{at}[{i}]")
    elif below is not None:
        yield from _values(below, steps[1:], at)
