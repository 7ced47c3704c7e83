"""`motley calibrate`: scores a cascade's stages on questions; thresholds, table, or a refusal."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motley_operator.cli.output import InputError, emit, say

if TYPE_CHECKING:
    from motley_operator.cli.calibrate_inputs import Outcome
    from motley_operator.cli.calibrate_report import Report
    from motley_operator.cli.main import Subparsers

DESCRIPTION = """\
Runs every question through every stage once, fits each stage's estimator, picks thresholds that
keep the floor with confidence, and writes the calibration table that the planner reads. Where
deferring is worthless it says why, and ends with status 1.

  motley calibrate --templates 300 --stage small=http://s:8000 --stage large=http://l:8000 \\
      --floor 82% --journal run.jsonl --table table.csv --estimator estimator.json
  motley calibrate --replay table.csv --stage small --stage large --floor 82%"""
DONE, FALLS_SHORT = 0, 1


def add_parser(subparsers: Subparsers) -> None:
    """Declares the verb."""
    parser = subparsers.add_parser(
        "calibrate",
        help="score a cascade's stages on questions; thresholds and the table",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--questions", metavar="FILE", help="questions, a JSON object a line")
    source.add_argument("--templates", type=_count, metavar="N", help="so many made from templates")
    source.add_argument("--replay", metavar="TABLE", help="outcomes that are there: .csv, .csv.gz")
    for flag, options in _OPTIONS:
        parser.add_argument(flag, **options)


def run(args: argparse.Namespace) -> int:
    """Calibrates; 0 where a cascade is worth it, 1 where it is refused."""
    from motley_operator.cli.calibrate_inputs import asked_stages, outcome_of
    from motley_operator.cli.calibrate_report import render, report_of
    from motley_planner.errors import SnapshotError

    stages = asked_stages(args)
    try:
        outcome = outcome_of(args, stages)
        report = report_of(args, outcome)
    except SnapshotError as error:
        raise InputError(args.replay or "motley calibrate", str(error)) from error
    _write(args, outcome, report)
    emit(args, report, lambda: render(report))
    return DONE if report.verdict.cascades else FALLS_SHORT


def _write(args: argparse.Namespace, outcome: Outcome, report: Report) -> None:
    from motley_planner.calibrating import table_text

    table = table_text(outcome.table, outcome.ids, outcome.tokens)
    if args.table:
        Path(args.table).write_text(table, encoding="utf-8")
        say(args, f"motley: wrote {args.table}: {outcome.table.rows:,} questions")
    if args.estimator:
        text = json.dumps(outcome.estimator_document(table), indent=2, sort_keys=True)
        Path(args.estimator).write_text(text + "\n", encoding="utf-8")
    if args.svg:
        from motley_planner.calibrating.frontier import frontier
        from motley_planner.calibrating.picture import picture_of

        if report.rule.prices is None:
            raise InputError("--svg", "the picture shows dollars: give every stage a --price")
        made, choice = frontier(outcome.table, report.rule), report.verdict.choice
        title = " → ".join(outcome.table.stages) + f", {outcome.table.rows:,} questions"
        text = picture_of(title, made, [choice] if choice else [])
        Path(args.svg).write_text(text, encoding="utf-8")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text[:-1]) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share such as 82% or 0.82")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text.removesuffix("s"))
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a temperature of 0 or more")
    return value


_MANY: dict[str, Any] = {"action": "append", "default": []}
_OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "--stage",
        {**_MANY, "metavar": "NAME=URL", "help": "a stage, small to large; with --replay "
         "NAME or NAME=MODEL, the model of its columns"},
    ),
    ("--model", {**_MANY, "metavar": "NAME=ID", "help": "model to ask for (default: its name)"}),
    (
        "--price",
        {**_MANY, "metavar": "NAME=USD", "help": "dollars per 1,000 questions, or IN/OUT: dollars "
         "per million prompt and output tokens"},
    ),
    (
        "--score",
        {**_MANY, "metavar": "NAME=WHAT", "help": "with --replay: score (default), column:NAME, "
         "agree:M1,M2 or history:NAME"},
    ),
    ("--class-column", {"metavar": "NAME", "help": "with --replay: the column of request classes"}),
    ("--floor", {"type": _share, "required": True, "metavar": "Q", "help": "mean quality, 82%%"}),
    ("--confidence", {"type": _share, "default": 0.95, "metavar": "C", "help": "default 95%%"}),
    (
        "--population",
        {"type": _count, "metavar": "N", "help": "the floor is for N questions that these are "
         "drawn from, not for traffic without end"},
    ),
    (
        "--fit",
        {"choices": ("none", "logistic", "isotonic"), "default": "none",
         "help": "turns log-probabilities into chances of being right (default: none)"},
    ),
    (
        "--by",
        {"default": "LogProb", "metavar": "ESTIMATOR", "help": "LogProb (default), SelfConsistency, "
         "SelfVerify, or a YAML file with what spec.quality.estimator holds"},
    ),
    (
        "--features",
        {"metavar": "F,...", "help": "of a fit: mean, least, tenth, margin, and the estimator's own "
         "(passed, agreement, verified; default: that, or mean)"},
    ),
    ("--seed", {"type": int, "default": 0, "metavar": "N", "help": "of --templates (default 0)"}),
    ("--form", {"choices": ("choice", "number"), "default": "choice", "help": "of --templates"}),
    ("--journal", {"metavar": "FILE", "help": "keeps every answer; a second run goes on from it"}),
    ("--table", {"metavar": "FILE", "help": "writes the calibration table (CSV)"}),
    ("--estimator", {"metavar": "FILE", "help": "writes the fitted estimators (JSON)"}),
    ("--svg", {"metavar": "FILE", "help": "writes quality against dollars as a picture"}),
    ("--commands", {"metavar": "DIR", "help": "lets checks run the programs in this folder"}),
    ("--api-key-env", {"metavar": "NAME", "help": "variable that holds the endpoints' key"}),
    ("--concurrency", {"type": _count, "default": 8, "metavar": "N", "help": "a stage (default 8)"}),
    ("--timeout", {"type": _seconds, "default": 300.0, "metavar": "S", "help": "an answer (300s)"}),
    ("--attempts", {"type": _count, "default": 4, "metavar": "N", "help": "a question (default 4)"}),
    ("--max-tokens", {"type": _count, "default": 1024, "metavar": "N", "help": "default 1024"}),
    ("--temperature", {"type": _temperature, "metavar": "T", "help": "default: the engine's"}),
    (
        "--completions",
        {"action": "store_true", "help": "prompts go to /v1/completions as they are: for models "
         "that were not taught to chat"},
    ),
    ("--stop", {**_MANY, "metavar": "TEXT", "help": "ends an answer; \\n is a line's end"}),
)  # fmt: skip
