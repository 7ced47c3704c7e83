"""`motley simulate PLAN.json --trace TRACE`: replays requests on a plan by discrete events."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motley_operator.cli.output import InputError, emit, say

if TYPE_CHECKING:
    from motley_operator.cli.main import Subparsers
    from motley_operator.cli.plan_file import PlanFile
    from motley_operator.cli.simulate_table import Tuned
    from motley_planner.dispatch import DispatchRule
    from motley_planner.domain.hardware import Catalog
    from motley_planner.domain.plan import Slice
    from motley_planner.simulator import Report, Scenario

DESCRIPTION = """\
Replays requests on a plan that `motley plan -o json` wrote, with the gateway's own dispatcher and
the cost model's engines, and says whether the plan's targets hold.

  motley simulate plan.json --trace poisson
  motley simulate plan.json --trace AzureLLMInferenceTrace_conv.csv --rate planned --svg out.svg
  motley simulate plan.json --trace poisson --requests 5000 --tune-alpha
"""
DONE, FALLS_SHORT = 0, 1
MOST_REQUESTS = 5_000_000  # as many as a trace is drawn for
GRACE_S = 60.0  # after the last arrival; what is not answered by then is a miss


def add_parser(subparsers: Subparsers) -> None:
    """Declares the verb."""
    parser = subparsers.add_parser(
        "simulate",
        help="replay requests on a plan by discrete events",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("plan", metavar="PLAN.json", help="what `motley plan -o json` printed")
    for flag, options in _options():
        parser.add_argument(flag, **options)


def _options() -> list[tuple[str, dict[str, Any]]]:
    from motley_operator.cli.simulate_inputs import positive, share
    from motley_planner.dispatch import DISPATCH_POLICIES

    files: dict[str, dict[str, Any]] = {
        "--trace": {"metavar": "TRACE", "help": "a file, `poisson`, or `gamma:CV`"},
        "--resource": {"metavar": "KEY", "help": 'only this one, e.g. "ServingPool/team-a/chat"'},
        "--rate": {"metavar": "R", "help": "requests/s, planned, or recorded (files: the default)"},
        "--column": {"metavar": "NAME", "help": "of a table of rates"},
        "--calibration": {"metavar": "TABLE.csv", "help": "a cascade's outcomes, row by row"},
        "--svg": {"metavar": "FILE", "help": "writes a picture"},
    }
    files["--trace"]["required"] = True
    numbers: dict[str, tuple[Any, Any, str, str]] = {
        "--load": (positive, 1.0, "X", "times the rate"),
        "--requests": (_count, None, "N", "at most (default: all; 20,000 drawn)"),
        "--seed": (_seed, 0, "N", "of everything drawn (default 0)"),
        "--alpha": (share, 0.2, "A", "of hexgen (default 0.2)"),
        "--deadline": (str, None, "T", "of each request; refuses those that cannot be in time"),
        "--start-delay": (str, "120s", "T", "until a re-plan's new replicas serve (default 120s)"),
        "--margin": (share, 0.01, "M", "of a target's share (default 1%%)"),
        "--warm-up": (share, 0.05, "S", "of the time, not judged (default 5%%)"),
    }
    again = {"action": "append", "default": [], "metavar": "T=PLAN.json", "help": "takes over at T"}
    tune = {"action": "store_true", "help": "finds hexgen's alpha by replay, and the field to set"}
    return [
        *files.items(),
        ("--tune-alpha", tune),
        (
            "--lengths",
            {"choices": ("trace", "class"), "help": "tokens: recorded (default), typical"},
        ),
        ("--policy", {"choices": DISPATCH_POLICIES, "help": "how replicas are picked"}),
        ("--replan", again),
        *(
            (flag, {"type": kind, "default": default, "metavar": name, "help": text})
            for flag, (kind, default, name, text) in numbers.items()
        ),
    ]


def run(args: argparse.Namespace) -> int:
    """Simulates every serving resource of the plan; 1 if a target is missed."""
    from motley_operator.cli.plan_file import read_plan
    from motley_operator.cli.simulate_table import render, render_tuned
    from motley_planner.errors import SnapshotError

    content = read_plan(args.plan)
    parts, catalog = _parts(args, content), _catalog(content)
    idle = [part for part in parts if not part.replicas]
    for part in idle:
        say(args, f"motley: {part.key}: has no replicas in this plan; nothing to simulate")
    parts = tuple(part for part in parts if part.replicas)
    try:
        if args.tune_alpha:
            found = tuple(_tuned(args, part, catalog) for part in parts)
            emit(args, {"resources": found}, lambda: "\n\n".join(render_tuned(f) for f in found))
            return DONE
        reports = tuple(_simulated(args, part, catalog, len(parts) > 1) for part in parts)
    except SnapshotError as error:
        raise InputError("motley simulate", str(error)) from error
    except OSError as error:
        rule = f"{error.strerror or 'cannot be used'}; name a file that can be read or written"
        raise InputError(error.filename or args.trace, rule) from error
    emit(args, {"resources": reports}, lambda: "\n\n".join(render(each) for each in reports))
    is_kept = not idle and all(report.is_kept for report in reports)
    return DONE if is_kept else FALLS_SHORT


def _catalog(content: PlanFile) -> Catalog:
    """The catalog with the GPUs and models that the plan brings with it."""
    from motley_operator.cli.what_if import catalog_of
    from motley_planner.catalog import load_catalog

    if content.problem is None:
        return load_catalog()
    services = content.problem.snapshot.services
    models = {stage.model.name: stage.model for one in services for stage in one.stages}
    catalog = catalog_of(content.problem)
    return replace(catalog, models={**catalog.models, **models})


def _parts(args: argparse.Namespace, content: PlanFile) -> tuple[Slice, ...]:
    serving = tuple(part for part in content.plan.slices if part.steps_per_hour is None)
    if args.resource is not None:
        serving = tuple(part for part in serving if part.key == args.resource)
        if not serving:
            raise InputError(args.plan, f"has no pool or cascade {args.resource!r}")
    if not serving:
        raise InputError(args.plan, "has no pool or cascade to simulate")
    return serving


def _scenario(
    args: argparse.Namespace, part: Slice, catalog: Catalog
) -> Callable[[DispatchRule | None], Scenario]:
    """The scenario under any rule; what is drawn is the same under all."""
    from motley_operator.cli import simulate_inputs as inputs
    from motley_planner import simulator
    from motley_planner.dispatch import DispatchRule

    deployment = simulator.deployment_of(part, catalog)
    arrivals = inputs.arrivals_of(args, part)
    say(args, f"motley: {part.key}: {len(arrivals):,} requests at {arrivals.rate:.3g}/s")
    outcomes = inputs.outcomes_for(args, part)
    return lambda rule: simulator.Scenario(
        replace(deployment, table=replace(deployment.table, dispatch=rule or DispatchRule())),
        arrivals,
        outcomes,
        inputs.changes_of(args, part, catalog, rule),
        end_s=float(arrivals.time_s[-1]) + GRACE_S,
        seed=args.seed,
        deadline_s=None if args.deadline is None else inputs.seconds_of(args.deadline),
    )


def _tuned(args: argparse.Namespace, part: Slice, catalog: Catalog) -> Tuned:
    from motley_operator.cli.simulate_table import Tuned
    from motley_planner.simulator.workflow_tuning import least_of, tuned_plan_alpha

    scenario_of = _scenario(args, part, catalog)
    last = float(scenario_of(None).arrivals.time_s[-1])
    by_alpha, default_s = tuned_plan_alpha(scenario_of, args.warm_up * last)
    return Tuned(part.key, *least_of(by_alpha), by_alpha, default_s)


def _simulated(args: argparse.Namespace, part: Slice, catalog: Catalog, several: bool) -> Report:
    from motley_planner import simulator
    from motley_planner.dispatch import DispatchRule

    rule = DispatchRule(args.policy, args.alpha) if args.policy else None
    scenario = _scenario(args, part, catalog)(rule)
    last = float(scenario.arrivals.time_s[-1])
    result, stages, warm_up = (
        simulator.simulate(scenario),
        simulator.stages_of(part),
        args.warm_up * last,
    )
    terms = simulator.Terms(part.slo, warm_up, args.margin, scenario.deadline_s)
    report = simulator.report_of(result, part.key, stages, terms)
    if args.svg:
        name = Path(args.svg)
        if several:
            name = name.with_stem(f"{name.stem}-{part.key.rpartition('/')[2]}")
        samples = simulator.samples_of(result, stages, warm_up)
        name.write_text(simulator.picture_of(report, samples), encoding="utf-8")
    return report


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_REQUESTS:
        rule = f"{text!r} is not a whole number from 1 to {MOST_REQUESTS:,}"
        raise argparse.ArgumentTypeError(rule)
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)
