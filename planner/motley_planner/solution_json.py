"""The answer of `motley solve` as JSON (docs/reference/solve.md); never with NaN or Infinity."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from motley_planner.domain.solution import Level, Solution


def solution_to_dict(solution: Solution) -> dict[str, Any]:
    """The answer of `motley solve` as plain values, with `certificates` or why there are none."""
    proofs = {"certificates": [asdict(one) for one in solution.certificates]}
    reason = {"no_certificates": solution.no_certificates} if solution.no_certificates else {}
    return (proofs if solution.certificates else reason) | {
        "status": solution.status,
        "objective": _finite(solution.objective),
        "bound": _finite(solution.bound),
        "gap": _finite(solution.gap),
        "levels": [_level(level) for level in solution.levels],
        "solve_seconds": solution.solve_seconds,
        "price_usd_per_hour": _finite(solution.price_usd_per_hour),
        "replicas": [{"column": r.column, "count": r.count} for r in solution.replicas],
        "rates": [
            {
                "column": r.column,
                "class": r.request_class,
                "requests_per_second": r.requests_per_second,
            }
            for r in solution.rates
        ],
        "policies": [
            {"cascade": p.cascade, "id": p.id, "share": p.share} for p in solution.policies
        ],
        "flows": [
            {
                "class": f.request_class,
                "from": f.source,
                "to": f.target,
                "kv_scale": f.kv_scale,
                "requests_per_second": f.requests_per_second,
            }
            for f in solution.flows
        ],
        "unserved": dict(solution.unserved or {}),
        "placement": [asdict(p) | {"nodes": list(p.nodes)} for p in solution.placement],
        "started": solution.started,
        "stopped": solution.stopped,
        "started_gpus": solution.started_gpus,
        "stopped_gpus": solution.stopped_gpus,
        "shortfalls": [asdict(s) for s in solution.shortfalls],
    }


def _level(level: Level) -> dict[str, Any]:
    return {
        "name": level.name,
        "value": _finite(level.value),
        "bound": _finite(level.bound),
        "gap": _finite(level.gap),
        "certified_bound": _finite(level.certified_bound),
        "bound_proof": level.bound_proof,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
