"""What `motley calibrate` works on: answers of live engines, or a table that is there."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motley_operator.cli.output import InputError, say
from motley_operator.cli.texts import read_text
from motley_planner.calibrating import Sample, fit, fitted_scores
from motley_planner.calibrating.tables import Tokens
from motley_planner.candidates.calibration import CalibrationTable, read_calibration
from motley_planner.candidates.certify import folds
from motley_planner.dispatch.estimators import (
    FEATURES,
    LOGPROB_FEATURES,
    Calibrator,
    calibrator_document,
)
from motley_planner.dispatch.rules import EstimatorRule, estimator_document

_NAME = "abcdefghijklmnopqrstuvwxyz0123456789-"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A table with its questions' ids, tokens by stage, and what was fitted.

    `learned` says that estimators learned from the rows of the choosing fold.
    """

    table: CalibrationTable
    ids: Sequence[str]
    tokens: Tokens = field(default_factory=dict)
    calibrators: Mapping[str, Calibrator] = field(default_factory=dict)
    learned: bool = False
    rule: EstimatorRule = field(default_factory=EstimatorRule)
    failures: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # by stage, reason

    def estimator_document(self, table_text: str) -> dict[str, Any]:
        """What the gateway needs to score as this table was scored."""
        return {
            "version": 1,
            **estimator_document(self.rule),
            "table_sha256": hashlib.sha256(table_text.encode()).hexdigest(),
            "calibrators": {name: calibrator_document(c) for name, c in self.calibrators.items()},
        }


def asked_stages(args: argparse.Namespace) -> dict[str, str]:
    """Stages in order: name to URL, or to model with --replay."""
    found: dict[str, str] = {}
    for text in args.stage:
        name, equals, value = text.partition("=")
        if not name or set(name) - set(_NAME) or name in found:
            rule = f"{text!r}: give NAME=URL, small letters, digits and dashes, each name once"
            raise InputError("--stage", rule)
        if not args.replay and not (equals and value.startswith(("http://", "https://"))):
            raise InputError("--stage", f"{text!r}: give the endpoint, {name}=http://HOST:PORT")
        found[name] = value.rstrip("/").removesuffix("/v1") if value else name
    if len(found) < 2:
        raise InputError("--stage", "give at least two, small to large")
    return found


def by_stage(flag: str, given: Sequence[str], stages: Mapping[str, str]) -> dict[str, str]:
    """The values of a repeated NAME=VALUE flag."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not value or name not in stages:
            raise InputError(flag, f"{text!r}: give NAME=VALUE, NAME one of {', '.join(stages)}")
        found[name] = value
    return found


def outcome_of(args: argparse.Namespace, stages: Mapping[str, str]) -> Outcome:
    """The outcome of a run, or of a table."""
    return _replayed(args, stages) if args.replay else _asked(args, stages)


def _replayed(args: argparse.Namespace, stages: Mapping[str, str]) -> Outcome:
    text = read_text(args.replay)
    header = text.partition("\n")[0]
    if not args.score and not args.class_column and header.startswith("question_id"):
        wanted = all(f"{name}:quality" in header for name in stages)
        if wanted and all(name == model for name, model in stages.items()):
            return _numbered(read_calibration(text, tuple(stages)))
    from motley_planner.calibrating.outcomes import Asked, read_outcomes

    scores = by_stage("--score", args.score, stages)
    asked = Asked(stages, scores, args.class_column)
    return _numbered(read_outcomes(text.splitlines(), asked))


def _numbered(table: CalibrationTable) -> Outcome:
    tokens = {
        stage: ((prompt,) * table.rows, (output,) * table.rows)
        for stage, (prompt, output) in table.mean_tokens.items()
    }
    return Outcome(table, [str(i) for i in range(table.rows)], tokens)


def _asked(args: argparse.Namespace, stages: Mapping[str, str]) -> Outcome:
    from motley_runtime.calibration import Endpoint, Journal, Pace, Run, ask_all
    from motley_runtime.calibration.asking import AskingError
    from motley_runtime.gateway.openai_api import CHAT, COMPLETIONS

    models = {**{name: name for name in stages}, **by_stage("--model", args.model, stages)}
    key = os.environ.get(args.api_key_env) if args.api_key_env else None
    if args.api_key_env and not key:
        raise InputError("--api-key-env", f"the variable {args.api_key_env} is empty")
    endpoints = [Endpoint(name, url, models[name], key) for name, url in stages.items()]
    fields: dict[str, Any] = {"max_tokens": args.max_tokens}
    if args.temperature is not None:
        fields["temperature"] = args.temperature
    if args.stop:
        fields["stop"] = [text.replace("\\n", "\n") for text in args.stop]
    pace = Pace(args.concurrency, args.timeout, args.attempts)
    estimating = _estimating(args, stages)
    path = COMPLETIONS if args.completions else CHAT
    run = Run(endpoints, _questions(args), fields, pace, estimating, path)
    total = len(run.questions) * len(endpoints)
    try:
        kept = Journal(Path(args.journal) if args.journal else None)
    except ValueError as error:
        raise InputError("--journal", str(error)) from error
    try:
        with kept as journal:
            answers = asyncio.run(ask_all(run, journal, progress_bar(total, args.quiet)))
    except AskingError as error:
        hint = "; what was answered is in the journal" if args.journal else ""
        raise InputError("motley calibrate", f"{error}{hint}") from error
    return _fitted(args, run, answers)


def _questions(args: argparse.Namespace) -> list[Any]:
    from motley_runtime.calibration import QuestionError, read_questions

    commands = Path(args.commands) if args.commands else None
    try:
        if args.questions:
            with open(args.questions, encoding="utf-8") as lines:
                found = list(read_questions(lines, commands))
            if args.completions and (chat := next((q.id for q in found if not q.prompt), None)):
                rule = f"question {chat!r} has messages: --completions needs prompts"
                raise InputError(args.questions, rule)
            return found
        return list(read_questions(_templates(args), commands))
    except (QuestionError, UnicodeDecodeError) as error:
        raise InputError(args.questions or "--templates", str(error)) from error


def _templates(args: argparse.Namespace) -> Iterator[str]:
    import json

    from motley_runtime.questions import FIELDS, document, question_set

    for question in question_set(FIELDS, args.seed, args.templates):
        yield json.dumps(document(question, args.form))


def _fitted(args: argparse.Namespace, run: Any, answers: Sequence[Any]) -> Outcome:
    """The table of a run's answers: scores fitted on the fold that chooses, given to all rows."""
    size, names = len(run.questions), [endpoint.stage for endpoint in run.endpoints]
    answers_of = {name: answers[i * size : (i + 1) * size] for i, name in enumerate(names)}
    samples = {
        name: Sample([a.features for a in each], [a.quality for a in each])
        for name, each in answers_of.items()
    }
    rule = run.estimating.rule
    features = run.estimating.features or (rule.feature,)
    learning = [int(i) for i in folds(size)[0]]
    calibrators = {}
    for name in names[:-1] if args.fit != "none" else ():
        part = Sample(
            [samples[name].features[i] for i in learning],
            [samples[name].quality[i] for i in learning],
        )
        calibrators[name] = fit(part, args.fit, features)
    for name in names[:-1]:
        scored = [each is not None and rule.feature in each for each in samples[name].features]
        unscored = sum(
            not s and a.wrong is None for s, a in zip(scored, answers_of[name], strict=True)
        )
        if unscored:
            what = "log-probabilities" if rule.type == "LogProb" else "a score"
            message = f"{unscored} of {size} answers of {name} came without {what}"
            say(args, f"motley: {message}: they count as escalated")
    classes = tuple(question.class_name for question in run.questions)
    table = CalibrationTable(
        stages=tuple(names),
        scores={n: fitted_scores(calibrators.get(n), samples[n], rule.feature) for n in names[:-1]},
        qualities={n: tuple(samples[n].quality) for n in names},
        mean_tokens={
            n: (_mean(a.prompt_tokens for a in each), _mean(a.output_tokens for a in each))
            for n, each in answers_of.items()
        },
        classes=classes if any(classes) else (),
    )
    # One feature through a rising curve orders answers as before: nothing was learned from rows.
    learned = bool(calibrators) and (args.fit == "isotonic" or len(features) > 1)
    return Outcome(
        table=table,
        ids=[question.id for question in run.questions],
        tokens={
            n: ([a.prompt_tokens for a in each], [a.output_tokens for a in each])
            for n, each in answers_of.items()
        },
        calibrators=calibrators,
        learned=learned,
        rule=rule,
        failures={n: _counted([a.wrong for a in each]) for n, each in answers_of.items()},
    )


def _estimating(args: argparse.Namespace, stages: Mapping[str, str]) -> Any:
    """The estimator that `--by` names or describes, with the features that a fit takes."""
    from motley_operator.cli.calibrate_rules import rule_of
    from motley_runtime.calibration import Estimating
    from motley_runtime.checks import CheckError
    from motley_runtime.gateway.estimators import graders_of

    commands = Path(args.commands) if args.commands else None
    rule = rule_of(args.by, list(stages))
    try:
        graders_of(rule, commands)
    except CheckError as error:
        raise InputError("--by", str(error)) from error
    names = _features(args.features) if args.features else ()
    known = {*LOGPROB_FEATURES, rule.feature}
    if not known.issuperset(names):
        rule_text = f"{args.features!r}: with {rule.type} use {', '.join(sorted(known))}"
        raise InputError("--features", rule_text)
    return Estimating(rule, names, commands)


def _features(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not set(names) <= set(FEATURES) or len(set(names)) < len(names):
        raise InputError("--features", f"{text!r}: use each of {', '.join(FEATURES)} once at most")
    return names


def _counted(reasons: Sequence[str | None]) -> dict[str, int]:
    return {r: reasons.count(r) for r in dict.fromkeys(reasons) if r is not None}


def _mean(values: Iterator[int]) -> float:
    known = list(values)
    return sum(known) / len(known)


def progress_bar(total: int, quiet: bool) -> Callable[[int], None]:
    """A bar on a terminal's stderr, a line each tenth elsewhere."""
    shown = -1

    def show(done: int) -> None:
        nonlocal shown
        tenth = 10 * done // total
        if quiet:
            return
        if sys.stderr.isatty():
            bar = "#" * (40 * done // total)
            end = "\n" if done == total else ""
            print(f"\rmotley: [{bar:<40}] {done:,}/{total:,}", end=end, file=sys.stderr, flush=True)
        elif tenth > shown:
            shown = tenth
            print(f"motley: {done:,} of {total:,} answers", file=sys.stderr)

    return show
