"""How well floors hold on published outcomes, what margins cost, and what a cascade saves.

    python -m tests.bench.calibration            prints the tables
    python -m tests.bench.calibration --write    puts them into docs/benchmarks.md, with a picture

Needs ../shared/data/cascade (see there for sources). The two stages of MMLU-Pro are
Llama-3.1-8B-Instruct and -70B-Instruct; the score is how many of four other small models agree,
ties broken by the length of the answer. Dollars are assumed: 1 and 8.75 per 1,000 questions, the
ratio of the models' parameters.
"""

from __future__ import annotations

import argparse
import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests.bench import page
from tests.bench.least_calls import least_calls

from motley_planner.calibrating import Rule, choose, read_outcomes
from motley_planner.calibrating.frontier import at_floors, frontier
from motley_planner.calibrating.outcomes import Asked
from motley_planner.calibrating.picture import picture_of
from motley_planner.calibrating.thresholds import path, policy_of
from motley_planner.candidates.calibration import CalibrationTable
from motley_planner.candidates.policies import ESCALATE_ALL

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "cascade"
PICTURE = ROOT / "docs" / "pictures" / "frontier.svg"

SMALL, LARGE = "Meta-Llama-3_1-8B-Instruct", "Meta-Llama-3_1-70B-Instruct"
OTHERS = "Llama-2-7b-hf,Qwen1.5-7B-Chat,Mistral-7B-Instruct-v0.2,Phi-3-mini-4k-instruct"
PRICES = {"small": 1.0 / 1000, "large": 8.75 / 1000}
GAPS = (0.3, 0.5, 0.7, 0.85)  # floors, as shares of the way from the small to the large model
HALVES = 200
FINITE_CONFIDENCE = 0.97  # for the 95 % that are asked; 200 halves are too few to sit on the edge


def lines_of(name: str) -> list[str]:
    """The lines of one of the tables."""
    with gzip.open(DATA / name, "rt", encoding="utf-8") as lines:
        return lines.read().splitlines()


def mmlu_pro() -> CalibrationTable:
    """12,032 questions: agreement of four others, then the length, as the small model's score."""
    lines, stages = lines_of("mmlu_pro_preds.csv.gz"), {"small": SMALL, "large": LARGE}
    agree = read_outcomes(lines, Asked(stages, {"small": f"agree:{OTHERS}"}))
    short = read_outcomes(lines, Asked(stages, {"small": f"column:-{SMALL}:outchars"}))
    pairs = zip(agree.scores["small"], short.scores["small"], strict=True)
    return replace(agree, scores={"small": tuple(0.8 * a + 0.2 * s for a, s in pairs)})


def dates() -> CalibrationTable:
    """369 questions on dates: the vote share of 20 samples of Llama-2-13B, then GPT-4."""
    stages = {"small": "llama2-13b", "large": "gpt-4"}
    scores = {"small": "column:llama2-13b:vote_share"}
    return read_outcomes(lines_of("mot_date_selfconsistency.csv.gz"), Asked(stages, scores))


def routellm(task: str | None = None) -> CalibrationTable:
    """Mixtral-8x7B and GPT-4-1106 on MMLU and GSM8K; `task` is mmlu, gsm8k or None for both."""
    lines = lines_of("routellm_mmlu_gsm8k.csv.gz")
    if task is not None:
        kept = [x for x in lines[1:] if x.startswith("gsm8k,") == (task == "gsm8k")]
        lines = [lines[0], *kept]
    stages = {"small": "mixtral-8x7b-instruct", "large": "gpt-4-1106"}
    return read_outcomes(lines, Asked(stages, {"small": "column:prompt_chars"}))


def part(table: CalibrationTable, rows: NDArray[np.intp]) -> CalibrationTable:
    """Some rows of a table."""
    scores = {s: tuple(np.asarray(v)[rows].tolist()) for s, v in table.scores.items()}
    worth = {s: tuple(np.asarray(v)[rows].tolist()) for s, v in table.qualities.items()}
    return replace(table, scores=scores, qualities=worth)


def floor_at(table: CalibrationTable, gap: float) -> float:
    """The quality so far on the way from the small to the large model."""
    small, large = (float(np.mean(table.qualities[stage])) for stage in table.stages)
    return small + gap * (large - small)


def oracle_of(table: CalibrationTable, floor: float) -> float:
    """Share of calls to the large model at the cheapest threshold that keeps a floor."""
    every = (policy_of(table, limits, Rule(floor)) for limits in path(table, ("small",)))
    return min(each.escalation for each in every if each.quality >= floor)


def halves(table: CalibrationTable, floor: float, rule: Rule, count: int) -> tuple[float, float]:
    """Share of halves whose choice keeps the floor on the whole table; calls over the oracle's.

    A half that can promise nothing escalates everything. A mixture counts with its mean.
    """
    exact, oracle = Rule(floor), oracle_of(table, floor)
    kept, ratios = 0, []
    for seed in range(count):
        half = np.random.default_rng(seed).permutation(table.rows)[: table.rows // 2]
        choice = choose(part(table, half), replace(rule, floor=floor))
        limits = tuple(choice.thresholds.values()) if choice else (ESCALATE_ALL,)
        mixed = (tuple(choice.cheaper.values()),) if choice and choice.cheaper else (None,)
        share = choice.cheaper_share if choice else 0.0
        whole = policy_of(table, limits, exact, *mixed, share)
        kept += whole.quality >= floor
        ratios.append(whole.escalation / oracle)
    return kept / count, float(np.mean(ratios))


def halves_rows(name: str, table: CalibrationTable) -> list[str]:
    """Markdown rows of one data set."""
    rows = []
    for gap in GAPS:
        floor = floor_at(table, gap)
        for what, rule in (
            ("these questions", Rule(0.5, FINITE_CONFIDENCE, population=table.rows)),
            ("traffic", Rule(0.5, 0.95)),
        ):
            kept, ratio = halves(table, floor, rule, HALVES)
            least = "-"
            if rule.population:
                least = f"{least_calls(table, floor) / oracle_of(table, floor):.2f}"
            rows.append(f"| {name} | {floor:.1%} | {what} | {kept:.1%} | {ratio:.2f} | {least} |")
            print(rows[-1], flush=True)
    return rows


def frontier_rows(name: str, table: CalibrationTable) -> list[str]:
    """Dollars per 1,000 questions at each floor."""
    rule = Rule(0.5, prices=PRICES)
    rows = []
    for each in at_floors(table, rule, [floor_at(table, gap) for gap in GAPS]):
        cells = [
            "none" if usd is None else f"{1000 * usd:.2f}"
            for usd in (each.cascade, each.static, each.single)
        ]
        rows.append(f"| {name} | {each.floor:.1%} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    return rows


def accuracy_rows() -> list[str]:
    """Accuracies that RouteLLM's outcomes give, and of whichever is right."""
    rows = []
    for name, task in (("MMLU", "mmlu"), ("GSM8K", "gsm8k"), ("both", None)):
        table = routellm(task)
        small, large = (np.asarray(table.qualities[stage]) for stage in table.stages)
        figures = " | ".join(f"{x.mean():.1%}" for x in (small, large, np.maximum(small, large)))
        rows.append(f"| {name} | {table.rows:,} | {figures} |")
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Makes the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put them into the page")
    options = parser.parse_args()
    table = mmlu_pro()
    tables = [
        "| outcomes | floor | promised for | halves that keep it | calls to the large model | least |",
        "|---|---|---|---|---|---|",
        *halves_rows("MMLU-Pro, 12,032", table),
        *halves_rows("dates, 369", dates()),
        "",
        "| outcomes | floor | cascade | best of 19 fixed thresholds | one model |",
        "|---|---|---|---|---|",
        *frontier_rows("MMLU-Pro", table),
        *frontier_rows("dates", dates()),
        "",
        "| RouteLLM's outcomes | questions | Mixtral-8x7B | GPT-4-1106 | either right |",
        "|---|---|---|---|---|",
        *accuracy_rows(),
    ]
    if options.write:
        page.put("calibration", "\n".join(tables))
        rule = Rule(0.5, prices=PRICES)
        chosen = [choose(table, replace(rule, floor=floor_at(table, gap))) for gap in GAPS]
        title = "MMLU-Pro: Llama-3.1-8B, then 70B; chosen under four floors"
        text = picture_of(title, frontier(table, rule), [each for each in chosen if each])
        PICTURE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
