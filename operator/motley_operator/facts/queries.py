"""What Prometheus is asked, and its answers as measurements: plain text in, plain values out.

A fixed number of queries for the whole fleet, whatever the number of resources. Targets carry the
pods' labels as a PodMonitor with `podTargetLabels`, or a `labelmap`, writes them: `namespace`,
`motley_dev_kind`, `motley_dev_resource`, `app_kubernetes_io_component`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from motley_operator.domain.measurement import Histogram, Measurement, Steps, Targets
from motley_operator.domain.names import GATEWAY
from motley_planner.domain.hardware import Catalog

STEPS = 10  # of a window
OWNER = ("namespace", "motley_dev_kind", "motley_dev_resource")
COMPONENT = "app_kubernetes_io_component"
_BY = f"by ({', '.join(OWNER)})"
_OF = '{motley_dev_resource!=""}'
_SINGLE = (
    "running",
    "waiting",
    "kv_usage",
    "prompt_total",
    "output_total",
    "ttft_p95",
    "tpot_p95",
)
GATEWAY_REQUESTS = "motley_gateway_requests_total"
GATEWAY_PRESENCE = "motley_gateway_in_flight"

Answer = Iterable[Mapping[str, Any]]
Answers = Mapping[str, Answer]


def range_queries(catalog: Catalog, step_s: int) -> dict[str, str]:
    """Asked at the end of each step of the window.

    Two samples make a target alive: from one alone no increase can be told.
    """
    step = f"[{step_s}s]"
    running = series_names(catalog, "running")
    alive = aggregate("sum", (f"(count_over_time({{n}}{_OF}{step}) >= bool 2)", running))
    present = f"sum {_BY} (count_over_time({GATEWAY_PRESENCE}{_OF}{step}) >= bool 2)"
    finished = [f"{n}_count" for n in series_names(catalog, "e2e")]
    return {
        "gateways": present,
        "engines": alive,
        "arrived": f"sum by ({', '.join(OWNER)}, class) (increase({GATEWAY_REQUESTS}{_OF}{step}))",
        "finished": aggregate("sum", (f"increase({{n}}{_OF}{step})", finished)),
    }


def instant_queries(catalog: Catalog, window_s: int) -> dict[str, str]:
    """Asked once, at the end of the window."""
    window = f"[{window_s}s]"
    targets = f"by ({', '.join(OWNER)}, {COMPONENT})"
    queries = {
        "seen": f"count {targets} (up{_OF})",
        "up": f"sum {targets} (up{_OF})",
        "age": f"max {targets} (time() - timestamp(up{_OF}))",
        "running": aggregate("sum", (f"{{n}}{_OF}", series_names(catalog, "running"))),
        "waiting": aggregate("sum", (f"{{n}}{_OF}", series_names(catalog, "waiting"))),
        "kv_usage": aggregate("max", (f"{{n}}{_OF}", series_names(catalog, "kv_usage"))),
    }
    for name in ("prompt", "output"):
        series = series_names(catalog, f"{name}_length")
        queries[f"{name}_buckets"] = aggregate(
            "sum", (f"increase({{n}}_bucket{_OF}{window})", series), "le"
        )
        queries[f"{name}_total"] = aggregate("sum", (f"increase({{n}}_sum{_OF}{window})", series))
    for name in ("ttft", "tpot"):
        summed = aggregate(
            "sum", (f"rate({{n}}_bucket{_OF}{window})", series_names(catalog, name)), "le"
        )
        queries[f"{name}_p95"] = f"histogram_quantile(0.95, {summed})"
    return queries


def measurements(answers: Answers, times: list[int]) -> dict[str, Measurement]:
    """One measurement for each resource that any answer names; `times` are the steps' ends."""
    alive = {name: steps_by(answers[name], times) for name in ("gateways", "engines")}
    arrived = steps_by(answers["arrived"], times, "class")
    finished = steps_by(answers["finished"], times)
    targets = {name: _values(answers[name], COMPONENT) for name in ("seen", "up", "age")}
    single = {name: _values(answers[name]) for name in _SINGLE}
    lengths = {name: _values(answers[f"{name}_buckets"], "le") for name in ("prompt", "output")}
    keys = {*alive["gateways"], *alive["engines"], *finished, *targets["seen"]}
    made = {}
    for key in sorted(keys):
        one = {name: found.get(key, {}).get("") for name, found in single.items()}
        of_key = {name: found.get(key, {}) for name, found in targets.items()}
        made[key] = Measurement(
            gateways=_targets(GATEWAY, of_key, alive["gateways"].get(key, {}).get("", ())),
            engines=_targets("serve", of_key, alive["engines"].get(key, {}).get("", ())),
            arrived=arrived.get(key, {}),
            finished=finished.get(key, {}).get("", ()),
            prompt=_histogram(lengths["prompt"].get(key, {}), one["prompt_total"]),
            output=_histogram(lengths["output"].get(key, {}), one["output_total"]),
            running=one["running"],
            waiting=one["waiting"],
            kv_usage=one["kv_usage"],
            ttft_p95_s=one["ttft_p95"],
            tpot_p95_s=one["tpot_p95"],
        )
    return made


def series_names(catalog: Catalog, quantity: str) -> list[str]:
    """The names that engines give a quantity's series."""
    found = {engine.metrics.get(quantity) for engine in catalog.engines.values()}
    return sorted(name for name in found if name)


def aggregate(function: str, asked: tuple[str, list[str]], *more: str) -> str:
    """An aggregate over the series of all engines; a target has those of one."""
    expression, names = asked
    each = " or ".join(expression.replace("{n}", name) for name in names)
    return f"{function} by ({', '.join((*OWNER, *more))}) ({each})"


def _key(labels: Mapping[str, str]) -> str:
    namespace, kind, name = (labels.get(label, "") for label in OWNER)
    return f"{kind}/{namespace}/{name}"


def steps_by(answer: Answer, times: list[int], label: str = "") -> dict[str, dict[str, Steps]]:
    """Steps by resource and value of a label."""
    made: dict[str, dict[str, Steps]] = {}
    for row in answer:
        labels = row["metric"]
        found = {round(float(at)): _number(value) for at, value in row["values"]}
        steps = tuple(found.get(at) for at in times)
        made.setdefault(_key(labels), {})[labels.get(label, "") if label else ""] = steps
    return made


def _values(answer: Answer, label: str = "") -> dict[str, dict[str, float]]:
    """Values by resource and value of a label."""
    made: dict[str, dict[str, float]] = {}
    for row in answer:
        labels, value = row["metric"], _number(row["value"][1])
        if value is not None:
            made.setdefault(_key(labels), {})[labels.get(label, "") if label else ""] = value
    return made


def _number(text: Any) -> float | None:
    """A sample's value; None for NaN, which is no figure."""
    value = float(text)
    return value if math.isfinite(value) else None


def _targets(component: str, found: Mapping[str, Mapping[str, float]], alive: Steps) -> Targets:
    seen, up, age = (found[name].get(component, 0.0) for name in ("seen", "up", "age"))
    return Targets(round(seen), round(up), age, alive)


def _histogram(buckets: Mapping[str, float], total: float | None) -> Histogram:
    found = sorted((float(le), n) for le, n in buckets.items())
    if not found or total is None or not math.isinf(found[-1][0]):
        return Histogram()
    counts, most = [], 0.0
    for _, n in found:  # extrapolated increases may shrink by rounding
        most = max(most, n)
        counts.append(most)
    return Histogram(tuple(le for le, _ in found), tuple(counts), total)
