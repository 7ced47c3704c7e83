"""The quality floor, end to end: real outcomes of real models replayed through the live gateway.

The engines answer from a table of what gpt-3.5-turbo and gpt-4 did with 369 questions, and say of
each token that it was as probable as the model's samples agreed. Thresholds are chosen and certified
on one half of the table; the other half is asked.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from motley_planner.candidates.policies import policies_from_table
from motley_planner.domain.demand import RoutingPolicy

TABLE = Path("../shared/data/cascade/mot_date_selfconsistency.csv.gz")
MODELS = {"small": "gpt-3.5-turbo", "large": "gpt-4"}
Row = dict[str, str]

pytestmark = pytest.mark.skipif(not TABLE.exists(), reason="the outcome tables are not here")


def rows() -> list[Row]:
    with gzip.open(TABLE, "rt") as stream:
        return list(csv.DictReader(stream))


def score_of(row: Row, stage: str) -> float:
    return min(1.0, max(0.01, float(row[f"{MODELS[stage]}:vote_share"])))


def is_right(row: Row, stage: str) -> bool:
    return row[f"{MODELS[stage]}:correct"] == "1"


def calibration(table: Sequence[Row]) -> str:
    """The CSV that a cascade's `quality.calibration` names."""
    columns = ("score", "quality", "prompt_tokens", "output_tokens")
    lines = [",".join(["question_id", *(f"{s}:{c}" for s in MODELS for c in columns)])]
    for row in table:
        cells = [row["idx"]]
        for stage in MODELS:
            cells += [f"{score_of(row, stage):.4f}", str(int(is_right(row, stage))), "100", "50"]
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


def mixture(policies: Sequence[RoutingPolicy], floor: float) -> list[tuple[RoutingPolicy, float]]:
    """Of one policy, or two mixed, that keep the floor: the one that asks the large model least."""
    visits = {p.id: p.visits["large"] for p in policies}
    found = [(visits[p.id], [(p, 1.0)]) for p in policies if p.quality >= floor]
    for low in policies:
        for high in policies:
            if low.quality < floor < high.quality:
                share = (floor - low.quality) / (high.quality - low.quality)
                cost = visits[low.id] * (1 - share) + visits[high.id] * share
                found.append((cost, [(low, 1 - share), (high, share)]))
    return min(found, key=lambda one: one[0])[1]


async def answer_from(engine: Any, stage: str, table: Sequence[Row]) -> None:
    """Makes a stub answer question "q<n>" as the model did."""
    plain = engine.answer

    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        row = table[int(body["messages"][0]["content"].removeprefix("q"))]
        engine.text = "right" if is_right(row, stage) else "wrong"
        engine.token_probability = score_of(row, stage)
        return dict(plain(path, body))

    engine.answer = answer


@pytest.mark.parametrize("part", [1 / 4, 1 / 2, 3 / 4])
async def test_the_floor_holds_on_questions_that_nobody_calibrated_on(
    part: float, start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any
) -> None:
    known, asked = rows()[::2], rows()[1::2]
    policies = policies_from_table(calibration(known), tuple(MODELS), 0.95)
    low, high = (f(p.quality for p in policies) for f in (min, max))
    floor = low + part * (high - low)
    mixed = mixture(policies, floor)
    stages = []
    for stage in MODELS:
        engine = await start_engine(stage)
        await answer_from(engine, stage, asked)
        stages.append((stage, [replica_of(engine)]))
    document = routing_of(
        *stages,
        policies=[{"id": p.id, "share": s, "thresholds": dict(p.thresholds)} for p, s in mixed],
    )
    gateway = await start_gateway(document)
    right, by_stage = 0, {"small": 0, "large": 0}
    for number in range(len(asked)):
        response = await gateway.chat(f"q{number}")
        told = await response.json()
        assert response.status == 200, told
        right += told["choices"][0]["message"]["content"] == "right"
        by_stage[response.headers["x-motley-stage"]] += 1
    assert right / len(asked) >= floor
    planned = sum(s * p.visits["large"] for p, s in mixed)
    # The share that goes on differs between the halves by chance: four standard deviations.
    spread = 4 * (planned * (1 - planned) * 2 / len(asked)) ** 0.5
    assert by_stage["large"] / len(asked) == pytest.approx(planned, abs=spread + 1 / len(asked))
    # The small model alone would not have kept the highest floor, nor need all be escalated.
    assert 0 < by_stage["large"] < len(asked)
