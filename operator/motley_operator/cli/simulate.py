"""`motley simulate PLAN.json --trace TRACE`: replays requests on a plan by discrete events."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motley_operator.cli.output import InputError, emit, say

if TYPE_CHECKING:
    from motley_operator.cli.main import Subparsers
    from motley_planner.domain.hardware import Catalog
    from motley_planner.domain.plan import Slice
    from motley_planner.simulator import Report

DESCRIPTION = """\
Replays requests on a plan that `motley plan -o json` wrote, with the gateway's own dispatcher and
the cost model's engines, and says whether the plan's targets hold.

  motley simulate plan.json --trace poisson
  motley simulate plan.json --trace AzureLLMInferenceTrace_conv.csv --rate planned --svg out.svg
"""
DONE, FALLS_SHORT = 0, 1
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

    text: dict[str, dict[str, Any]] = {
        "--trace": {"metavar": "TRACE", "help": "a file, `poisson`, or `gamma:CV`"},
        "--resource": {"metavar": "KEY", "help": 'only this one, e.g. "ServingPool/team-a/chat"'},
        "--rate": {"metavar": "R", "help": "requests/s, planned, or recorded (files: the default)"},
        "--column": {"metavar": "NAME", "help": "of a table of rates"},
        "--calibration": {"metavar": "TABLE.csv", "help": "a cascade's outcomes, row by row"},
        "--svg": {"metavar": "FILE", "help": "writes a picture"},
    }
    text["--trace"]["required"] = True
    after = {"metavar": "T", "help": "until new replicas of a re-plan serve (default 120s)"}
    return [
        *text.items(),
        (
            "--lengths",
            {"choices": ("trace", "class"), "help": "tokens: as recorded (default) or typical"},
        ),
        ("--load", {"type": positive, "default": 1.0, "metavar": "X", "help": "times the rate"}),
        (
            "--requests",
            {"type": _count, "metavar": "N", "help": "at most (default: all; 20,000 drawn)"},
        ),
        (
            "--seed",
            {"type": int, "default": 0, "metavar": "N", "help": "of everything drawn (default 0)"},
        ),
        ("--policy", {"choices": DISPATCH_POLICIES, "help": "how replicas are picked"}),
        (
            "--alpha",
            {"type": share, "default": 0.2, "metavar": "A", "help": "of hexgen (default 0.2)"},
        ),
        (
            "--replan",
            {
                "action": "append",
                "default": [],
                "metavar": "T=PLAN.json",
                "help": "takes over at T",
            },
        ),
        ("--start-delay", {"default": "120s", **after}),
        (
            "--margin",
            {"type": share, "default": 0.01, "metavar": "M", "help": "of a target's share (1%%)"},
        ),
        (
            "--warm-up",
            {
                "type": share,
                "default": 0.05,
                "metavar": "S",
                "help": "of the time, not judged (5%%)",
            },
        ),
    ]


def run(args: argparse.Namespace) -> int:
    """Simulates every serving resource of the plan; 1 if a target is missed."""
    from motley_operator.cli.simulate_table import render
    from motley_planner.catalog import load_catalog
    from motley_planner.errors import SnapshotError

    parts = _parts(args)
    catalog = load_catalog()
    idle = [part for part in parts if not part.replicas]
    for part in idle:
        say(args, f"motley: {part.key}: has no replicas in this plan; nothing to simulate")
    parts = tuple(part for part in parts if part.replicas)
    try:
        reports = tuple(_simulated(args, part, catalog, len(parts) > 1) for part in parts)
    except SnapshotError as error:
        raise InputError("motley simulate", str(error)) from error
    except OSError as error:
        rule = f"{error.strerror or 'cannot be used'}; name a file that can be read or written"
        raise InputError(error.filename or args.trace, rule) from error
    emit(args, {"resources": reports}, lambda: "\n\n".join(render(each) for each in reports))
    is_kept = not idle and all(report.is_kept for report in reports)
    return DONE if is_kept else FALLS_SHORT


def _parts(args: argparse.Namespace) -> tuple[Slice, ...]:
    from motley_operator.cli.plan_file import read_plan

    slices = read_plan(args.plan).plan.slices
    serving = tuple(part for part in slices if part.steps_per_hour is None)
    if args.resource is not None:
        serving = tuple(part for part in serving if part.key == args.resource)
        if not serving:
            raise InputError(args.plan, f"has no pool or cascade {args.resource!r}")
    if not serving:
        raise InputError(args.plan, "has no pool or cascade to simulate")
    return serving


def _simulated(args: argparse.Namespace, part: Slice, catalog: Catalog, several: bool) -> Report:
    from motley_operator.cli import simulate_inputs as inputs
    from motley_planner import simulator
    from motley_planner.dispatch import DispatchRule

    rule = DispatchRule(args.policy, args.alpha) if args.policy else None
    deployment = simulator.deployment_of(part, catalog, rule)
    arrivals = inputs.arrivals_of(args, part)
    last = float(arrivals.time_s[-1])
    scenario = simulator.Scenario(
        deployment,
        arrivals,
        inputs.outcomes_for(args, part),
        inputs.changes_of(args, part, catalog),
        end_s=last + GRACE_S,
        seed=args.seed,
    )
    say(args, f"motley: {part.key}: {len(arrivals):,} requests at {arrivals.rate:.3g}/s")
    result, stages, warm_up = (
        simulator.simulate(scenario),
        simulator.stages_of(part),
        args.warm_up * last,
    )
    report = simulator.report_of(
        result, part.key, stages, part.slo, warm_up_s=warm_up, margin=args.margin
    )
    if args.svg:
        name = Path(args.svg)
        if several:
            name = name.with_stem(f"{name.stem}-{part.key.rpartition('/')[2]}")
        samples = simulator.samples_of(result, stages, warm_up)
        name.write_text(simulator.picture_of(report, samples), encoding="utf-8")
    return report


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
