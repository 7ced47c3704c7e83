"""What `motley calibrate` reports: stages, deferral, the choice, and the verdict in words."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from motley_operator.cli.calibrate_inputs import Outcome, by_stage
from motley_operator.cli.output import InputError, columns, percent
from motley_planner.calibrating import Rule, Verdict, judge
from motley_planner.candidates.calibration import CalibrationTable
from motley_planner.candidates.certify import Indices, folds, lower_bound
from motley_planner.dispatch.estimators import Calibrator


@dataclass(frozen=True, slots=True)
class StageReport:
    """A stage alone: mean quality, its lower bound, mean tokens, dollars a question, failures."""

    name: str
    quality: float
    quality_low: float
    output_tokens: float | None
    usd_per_question: float | None
    failures: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a calibration. `judged` counts the questions that the verdict rests on."""

    questions: int
    judged: int
    rule: Rule
    stages: tuple[StageReport, ...]
    oracle_quality: float
    verdict: Verdict
    calibrators: Mapping[str, Calibrator]


def report_of(args: argparse.Namespace, outcome: Outcome) -> Report:
    """The report; where estimators learned from rows, the others judge."""
    table = outcome.table
    prices = _prices(args, table)
    rule = Rule(args.floor, args.confidence, prices, args.population)
    if args.population is not None and args.population < table.rows:
        raise InputError("--population", f"the table alone has {table.rows:,} questions")
    judged = _rows(table, folds(table.rows)[1]) if outcome.learned else table
    best = np.max([table.qualities[stage] for stage in table.stages], axis=0)
    return Report(
        questions=table.rows,
        judged=judged.rows,
        rule=rule,
        stages=tuple(_stage(outcome, stage, rule) for stage in table.stages),
        oracle_quality=float(best.mean()),
        verdict=judge(judged, rule),
        calibrators=outcome.calibrators,
    )


def _stage(outcome: Outcome, stage: str, rule: Rule) -> StageReport:
    quality = np.asarray(outcome.table.qualities[stage])
    mean, variance = float(quality.mean()), float(quality.var(ddof=1))
    tokens = outcome.table.mean_tokens.get(stage)
    return StageReport(
        name=stage,
        quality=mean,
        quality_low=lower_bound(mean, variance, len(quality), rule.confidence),
        output_tokens=tokens[1] if tokens else None,
        usd_per_question=rule.prices[stage] if rule.prices else None,
        failures=outcome.failures.get(stage, {}),
    )


def _rows(table: CalibrationTable, rows: Indices) -> CalibrationTable:
    def picked(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(np.asarray(values)[rows].tolist())

    return replace(
        table,
        scores={stage: picked(values) for stage, values in table.scores.items()},
        qualities={stage: picked(values) for stage, values in table.qualities.items()},
        classes=tuple(table.classes[i] for i in rows) if table.classes else (),
    )


def _prices(args: argparse.Namespace, table: CalibrationTable) -> dict[str, float] | None:
    given = by_stage("--price", args.price, {stage: "" for stage in table.stages})
    if not given:
        return None
    missing = [stage for stage in table.stages if stage not in given]
    if missing:
        raise InputError("--price", f"give one for {', '.join(missing)} too, or for none")
    return {stage: _price(text, stage, table) for stage, text in given.items()}


def _price(text: str, stage: str, table: CalibrationTable) -> float:
    """Dollars a question."""
    try:
        parts = [float(part) for part in text.split("/")]
    except ValueError:
        parts = []
    if len(parts) not in (1, 2) or not all(0.0 <= part <= 1e9 for part in parts):
        raise InputError("--price", f"{stage}={text}: give dollars per 1,000 questions, or IN/OUT")
    if len(parts) == 1:
        return parts[0] / 1000.0
    tokens = table.mean_tokens.get(stage)
    if tokens is None:
        raise InputError(
            "--price", f"{stage}: no tokens are known; give dollars per 1,000 questions"
        )
    return (parts[0] * tokens[0] + parts[1] * tokens[1]) / 1e6


def render(report: Report) -> str:
    """The report for a terminal."""
    rows = [("STAGE", "QUALITY", "AT LEAST", "TOKENS", "$/1000", "FAILED")]
    for each in report.stages:
        usd, tokens = each.usd_per_question, each.output_tokens
        rows.append(
            (
                each.name,
                percent(each.quality),
                percent(each.quality_low),
                "-" if tokens is None else f"{tokens:.0f}",
                "-" if usd is None else f"{1000 * usd:.3g}",
                ", ".join(f"{count} {why}" for why, count in each.failures.items()) or "-",
            )
        )
    lines = [columns(rows, right=frozenset({1, 2, 3, 4})), ""]
    for found in report.verdict.deferrals:
        auroc = "" if found.auroc is None else f", AUROC {found.auroc:.2f}"
        lines.append(
            f"{found.stage} defers {found.deferred:.0%}: the last stage gains "
            f"{100 * found.gain:+.1f} points there (at least {100 * found.gain_low:+.1f}) and "
            f"{100 * found.gain_kept:+.1f} on the rest{auroc}"
        )
    choice, verdict = report.verdict.choice, report.verdict
    if choice is not None:
        lines.append(f"thresholds: {_limits(choice.thresholds)}")
        if choice.cheaper is not None:
            share = percent(choice.cheaper_share)
            lines.append(f"for {share} of the requests: {_limits(choice.cheaper)}")
        if choice.usd_per_question is not None:
            lines.append(f"dollars per 1,000 questions: {1000 * choice.usd_per_question:.3g}")
    word = "Cascade" if verdict.cascades else "Do not cascade"
    lines += ["", f"{word} ({verdict.reason}): {verdict.message}."]
    return "\n".join(lines)


def _limits(thresholds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {limit:.4g}" for name, limit in thresholds.items())
