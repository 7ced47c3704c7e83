"""JSON Schemas of the files that outsiders write or read: solve tables and results, plans, routing.

The formats are described in docs/reference/; where the schema of a file and its reader disagree, the
reader is right and this is a mistake. `calibration` is CSV: its schema is of one row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motley_planner.domain.solution import PROVED, UNPROVED

Schema = dict[str, Any]

NAME: Schema = {"type": "string", "minLength": 1}
RATE: Schema = {"type": "number", "minimum": 0}
COUNT: Schema = {"type": "integer", "minimum": 0}
OPTIONAL_RATE: Schema = {"type": ["number", "null"], "minimum": 0}
OPTIONAL_COUNT: Schema = {"type": ["integer", "null"], "minimum": 0}
NUMBER_OR_NULL: Schema = {"type": ["number", "null"]}
UNIT: Schema = {"type": "number", "minimum": 0, "maximum": 1}


def closed(properties: Mapping[str, Schema], optional: str = "") -> Schema:
    """An object that allows nothing else; every field is required but those in `optional`."""
    left_out = set(optional.split())
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [name for name in properties if name not in left_out],
        "properties": dict(properties),
    }


def listed(item: Schema, **limits: int) -> Schema:
    """A list of equal items."""
    return {"type": "array", "items": item, **limits}


def by_name(value: Schema) -> Schema:
    """An object from names to equal values."""
    return {"type": "object", "additionalProperties": value}


def table(name: str, title: str, body: Schema) -> Schema:
    """A schema with the frame that says what it is of."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"https://motley.dev/schemas/{name}.json",
        "title": title,
        **body,
    }


def _solve_table() -> Schema:
    fragment = closed(
        {"gpu": NAME, "tp": {"enum": [1, 2, 4, 8, 16, 32, 64, 128]}, "layers": COUNT}, "layers"
    )
    column = closed(
        {
            "id": NAME,
            "model": NAME,
            "zone": NAME,
            "phase": {"enum": ["both", "prefill", "decode"], "default": "both"},
            "fragments": listed(fragment, minItems=1),
            "price_usd_per_hour": {**OPTIONAL_RATE, "default": 0},
            "max_count": OPTIONAL_COUNT,
            "kv_scale": {**RATE, "default": 1},
            "nic_bytes_per_second": OPTIONAL_RATE,
            "requests_per_second": by_name(RATE),
        },
        "phase price_usd_per_hour max_count kv_scale nic_bytes_per_second requests_per_second",
    )
    policy = closed({"id": NAME, "quality": {"type": "number"}, "load": by_name(RATE)}, "load")
    cascade = closed(
        {
            "name": NAME,
            "requests_per_second": RATE,
            "priority": {"type": "integer", "default": 0},
            "weight": {**RATE, "default": 1},
            "quality_floor": {"type": "number"},
            "mixture": {"type": "boolean", "default": True},
            "policies": listed(policy, minItems=1),
        },
        "priority weight quality_floor mixture",
    )
    return closed(_solve_fields(column, cascade), _SOLVE_OPTIONAL)


_SOLVE_OPTIONAL = (
    "nodes links cascades classes columns objective budget_usd_per_hour previous lost_nodes time_limit_s "
    "penalty_per_started_gpu penalty_per_stopped_gpu relative_gap strategy"
)


def _solve_fields(column: Schema, cascade: Schema) -> dict[str, Schema]:
    node = closed(
        {
            "gpu": NAME,
            "zone": NAME,
            "gpus": COUNT,
            "count": OPTIONAL_COUNT,
            "price_usd_per_hour": OPTIONAL_RATE,
        },
        "count price_usd_per_hour",
    )
    demand = closed(
        {
            "name": NAME,
            "model": NAME,
            "requests_per_second": RATE,
            "priority": {"type": "integer", "default": 0},
            "weight": {**RATE, "default": 1},
            "kv_bytes": {**RATE, "default": 0},
        },
        "priority weight kv_bytes",
    )
    running = closed(
        {"id": NAME, "column": NAME, "nodes": listed(NAME), "flips_to": listed(NAME)}, "flips_to"
    )
    previous = closed(
        {
            "nodes": listed(closed({"name": NAME, "gpu": NAME, "zone": NAME, "gpus": COUNT})),
            "replicas": listed(running),
        },
        "replicas",
    )
    link = closed({"from": NAME, "to": NAME, "bytes_per_second": RATE})
    return {
        "nodes": listed(node),
        "classes": listed(demand),
        "columns": listed(column),
        "links": listed(link),
        "cascades": listed(cascade),
        "objective": {"enum": ["max_min", "goodput", "min_cost"]},
        "budget_usd_per_hour": OPTIONAL_RATE,
        "previous": {"anyOf": [previous, {"type": "null"}]},
        "lost_nodes": listed(NAME),
        "penalty_per_started_gpu": RATE,
        "penalty_per_stopped_gpu": RATE,
        "time_limit_s": {"type": "number", "exclusiveMinimum": 0},
        "relative_gap": RATE,
        "strategy": NAME,
    }


def _solve_result() -> Schema:
    level = closed(
        {
            "name": NAME,
            **dict.fromkeys(("value", "bound", "gap", "certified_bound"), NUMBER_OR_NULL),
            "bound_proof": {"enum": [PROVED, UNPROVED, None]},
        }
    )
    flow = {"class": NAME, "from": NAME, "to": NAME, "kv_scale": RATE, "requests_per_second": RATE}
    kept: Schema = {"type": ["string", "null"]}
    body = closed(
        {
            "status": {"enum": ["optimal", "feasible", "infeasible", "no_solution"]},
            "objective": NUMBER_OR_NULL,
            "bound": NUMBER_OR_NULL,
            "gap": NUMBER_OR_NULL,
            "levels": listed(level),
            "solve_seconds": RATE,
            "price_usd_per_hour": NUMBER_OR_NULL,
            "replicas": listed(closed({"column": NAME, "count": COUNT})),
            "rates": listed(closed({"column": NAME, "class": NAME, "requests_per_second": RATE})),
            "policies": listed(closed({"cascade": NAME, "id": NAME, "share": UNIT})),
            "flows": listed(closed(flow)),
            "unserved": by_name(RATE),
            "placement": listed(closed({"column": NAME, "nodes": listed(NAME), "kept": kept})),
            **dict.fromkeys(("started", "stopped", "started_gpus", "stopped_gpus"), COUNT),
            "shortfalls": listed({"type": "object", "required": ["what", "how_much", "binding"]}),
        }
    )
    return {**body, "additionalProperties": True}  # more fields may be added; read what you know


def _routing() -> Schema:
    rates = {"rates": by_name(RATE), "capacity": by_name(RATE)}
    replica = closed(
        {"name": NAME, "url": NAME, **rates, "trust_zone": {"type": "string"}}, "trust_zone"
    )
    request_class = closed({"name": NAME, "prompt_tokens": RATE, "output_tokens": RATE})
    resource = closed({"kind": NAME, "namespace": NAME, "name": NAME})
    body = closed(
        {
            "version": {"const": 1},
            "plan_hash": NAME,
            "resource": resource,
            "served_model_names": listed(NAME, minItems=1),
            "classes": listed(request_class, minItems=1),
            "stages": listed(
                closed(
                    {
                        "name": NAME,
                        "model": NAME,
                        "replicas": listed(replica),
                        "branches": {"type": "object", "required": ["samples"]},
                    },
                    "branches",
                ),
                minItems=1,
            ),
            "policies": listed(
                closed(
                    {
                        "id": NAME,
                        "share": UNIT,
                        "thresholds": by_name({"type": "number"}),
                        "classes": listed(NAME),
                    },
                    "classes",
                )
            ),
            "estimator": closed({"type": NAME}),
            "routing": closed({"policy": NAME, "alpha": UNIT}, "alpha"),
            "workflows": closed({"admission": NAME}),
        },
        "policies estimator routing workflows",
    )
    return {**body, "additionalProperties": True}


def _calibration() -> Schema:
    fields = {"score": UNIT, "quality": UNIT, "prompt_tokens": RATE, "output_tokens": RATE}
    return {
        "type": "object",
        "description": "One row of the CSV table; per stage of the cascade the four columns <stage>:<field>.",
        "required": ["question_id"],
        "properties": {"question_id": NAME, "class": {"type": "string"}},
        "patternProperties": {f"^[a-z][-a-z0-9]*:{name}$": rule for name, rule in fields.items()},
        "additionalProperties": False,
    }


def _cells(required: str, optional: str) -> Schema:
    """A row of a CSV table: cells are text."""
    text = {"type": "string"}
    names = [*required.split(), *optional.split()]
    return {
        "type": "object",
        "required": required.split(),
        "properties": dict.fromkeys(names, text),
    }


def _predict_row() -> Schema:
    required = "model system isl osl concurrency tp_size"
    optional = "precision backend gemm_quant_mode moe_quant_mode pp_size attention_dp"
    return _cells(required, f"{optional} moe_tp_size moe_ep_size prefix_hit_rate")


def _predict_result() -> Schema:
    row = _predict_row()
    value = {"type": ["number", "null"], "exclusiveMinimum": 0}
    numbers = (
        "predicted_ttft_ms",
        "predicted_tpot_ms",
        "predicted_tokens_per_s_per_gpu",
        "tpot_low_ms",
        "tpot_high_ms",
    )
    added = {**dict.fromkeys(numbers, value), "refused": {"type": "string"}}
    row["properties"] |= added
    row["required"] += added
    return {"type": "array", "items": row}


def _profile() -> Schema:
    required = "model gpu tp precision prompt_tokens output_tokens"
    optional = "batch concurrency ttft_ms tpot_ms requests_per_second tokens_per_second"
    return {**_cells(required, optional), "additionalProperties": False}


FILES: Mapping[str, tuple[str, Any]] = {
    "solve-table": ("Input of `motley solve`", _solve_table),
    "solve-result": ("Output of `motley solve`", _solve_result),
    "routing": ("What the gateway reads (ConfigMap <resource>-routing)", _routing),
    "calibration": ("A row of a cascade's calibration table", _calibration),
    "predict-row": ("A row of the table that `motley predict` reads", _predict_row),
    "predict-result": ("Output of `motley predict -o json`", _predict_result),
    "profile": ("A row of a measured profile", _profile),
}


def file_schema(name: str) -> Schema:
    """The JSON Schema of a file format. Raises: KeyError for an unknown name."""
    title, body = FILES[name]
    return table(name, title, body())
