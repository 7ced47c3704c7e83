"""What a shortfall is said to be short of, on tables where one limit alone can be meant."""

from __future__ import annotations

from dataclasses import replace

import pytest

from motley_planner.domain.table import (
    CascadeDemand,
    CascadePolicy,
    Column,
    FleetTable,
    Fragment,
    Link,
    NodeGroup,
    RequestClass,
)
from motley_planner.formulations.fleet import solve_table


def column(name: str, gpu: str = "H100", tp: int = 4, each: float = 3.2, **other: object) -> Column:
    """One replica configuration for class `k` of model `m` in z0."""
    plain = Column(name, "m", "z0", (Fragment(gpu, tp),), {"k": each})
    return replace(plain, **other)  # type: ignore[arg-type]


def table(*columns: Column, rate: float = 50.0, **other: object) -> FleetTable:
    """Two nodes of H100 and two of A100 in z0, one of L40S in z1, and demand k."""
    nodes = (
        NodeGroup("H100", "z0", 8, 2),
        NodeGroup("A100", "z0", 8, 2),
        NodeGroup("L40S", "z1", 8, 1),
    )
    plain = FleetTable((RequestClass("k", "m", rate, kv_bytes=1e9),), columns, nodes)
    return replace(plain, **other)  # type: ignore[arg-type]


def pair(**prefill: object) -> tuple[Column, Column]:
    """Prefill in z0 and decode in z1."""
    first = column("p", tp=1, each=2.0, phase="prefill")
    second = column("d", "L40S", 1, 2.0, phase="decode", zone="z1")
    return replace(first, **prefill), second  # type: ignore[arg-type]


def binding(found: FleetTable) -> dict[str, str]:
    """Name -> what it is short of."""
    return {s.what: s.binding for s in solve_table(found, use_worker=False).shortfalls}


CASES: dict[str, tuple[FleetTable, str]] = {
    "one column and too few GPUs": (table(column("c")), "gpus[H100,z0,tp>=4]"),
    "the same as max_min": (table(column("c"), objective="max_min"), "gpus[H100,z0,tp>=4]"),
    "the same as min_cost": (table(column("c"), objective="min_cost"), "gpus[H100,z0,tp>=4]"),
    "two columns of one GPU": (
        table(column("c"), column("e", tp=8, each=7.0)),
        "gpus[H100,z0,tp>=4]",
    ),
    "a budget": (table(column("c", price_usd_per_hour=12.0), budget_usd_per_hour=13.0), "budget"),
    "a budget of nothing": (
        table(column("c", price_usd_per_hour=12.0), budget_usd_per_hour=0.0),
        "budget",
    ),
    "a budget for nodes": (
        table(
            column("c"),
            nodes=(NodeGroup("H100", "z0", 8, 9, 10.0),),
            budget_usd_per_hour=25.0,
        ),
        "budget",
    ),
    "priced nodes of which there are few": (
        table(
            column("c"),
            nodes=(NodeGroup("H100", "z0", 8, 2, 10.0),),
            budget_usd_per_hour=250.0,
        ),
        "gpus[H100,z0,tp>=4]",
    ),
    "max_count": (table(column("c", max_count=1)), "max_count[c]"),
    "a link": (table(*pair(), links=(Link("z0", "z1", 5e9),)), "link[z0,z1]"),
    "a link that is closed": (table(*pair(), links=(Link("z0", "z1", 0.0),)), "link[z0,z1]"),
    "a NIC": (table(*pair(nic_bytes_per_second=5e8)), "nic[p]"),
    "decode where prefill has room": (table(*pair()), "gpus[L40S,z1,tp>=1]"),
    "caches that no decode takes": (
        table(*pair(kv_scale=0.25)),
        "no decode column takes the KV caches of a prefill column (kv_scale)",
    ),
    "no decode replica that fits": (
        table(pair()[0], replace(pair()[1], zone="z9")),
        "no node fits a decode replica that serves k",
    ),
    "weight 0": (
        table(column("c"), classes=(RequestClass("k", "m", 1.0, weight=0.0),)),
        "weight 0: serving it gains nothing",
    ),
    "starting costs more than it gains": (
        table(column("c"), penalty_per_started_gpu=9.0),
        "penalty_per_started_gpu",
    ),
    "whole replicas": (
        table(column("c", tp=8, each=1.0), rate=1.9, nodes=(NodeGroup("H100", "z0", 15, 1),)),
        "gpus[H100,z0,tp>=8]",
    ),
    "no column": (table(), "no column serves k"),
    "no node": (table(column("c", tp=16)), "no node fits a replica that serves k"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_limit_that_stands_in_the_way_is_named(name: str) -> None:
    made, expected = CASES[name]
    assert binding(made) == {"k": expected}


def test_no_class_is_told_the_limit_of_what_others_use() -> None:
    policies = (
        CascadePolicy("small", 0.7, {"s": 1.0}),
        CascadePolicy("both", 0.95, {"s": 1.0, "l": 1.0}),
    )
    made = table(
        column("c"),
        replace(column("cs", "A100", 1), model="s", requests_per_second={"s": 1.0}),
        replace(column("cl", "L40S", 8, zone="z1"), model="l", requests_per_second={"l": 1.0}),
        classes=(RequestClass("k", "m", 50), RequestClass("s", "s", 0), RequestClass("l", "l", 0)),
        cascades=(CascadeDemand("sup", 10.0, 0.8, policies),),
    )
    assert binding(made) == {"k": "gpus[H100,z0,tp>=4]", "sup": "gpus[L40S,z1,tp>=8]"}


def test_a_cascade_whose_policies_cannot_meet_its_floor_often_enough_is_short_of_quality() -> None:
    policies = (CascadePolicy("good", 0.9, {"k": 40.0}), CascadePolicy("bad", 0.1, {}))
    made = table(
        column("c"),
        classes=(RequestClass("k", "m", 0),),
        cascades=(CascadeDemand("sup", 1.0, 0.8, policies),),
    )
    assert binding(made)["sup"] in ("quality[sup]", "gpus[H100,z0,tp>=4]")


def test_in_max_min_a_class_that_has_room_of_its_own_is_told_what_limits_the_scale() -> None:
    made = table(
        column("c"),
        replace(column("e", "A100", 1), model="n", requests_per_second={"j": 9.0}),
        classes=(RequestClass("k", "m", 50), RequestClass("j", "n", 1)),
        objective="max_min",
    )
    assert binding(made) == {"k": "gpus[H100,z0,tp>=4]", "j": "gpus[H100,z0,tp>=4]"}
