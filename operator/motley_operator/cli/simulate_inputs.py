"""What `motley simulate` replays: requests, outcomes and re-plans, from its options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from motley_operator.cli.output import InputError
from motley_operator.cli.plan_file import read_plan
from motley_operator.cli.texts import read_text
from motley_planner.candidates.calibration import read_calibration
from motley_planner.simulator import (
    Arrivals,
    Change,
    Kind,
    Outcomes,
    TableOutcomes,
    deployment_of,
    drawn,
    kinds_of,
    like_trace,
    outcomes_of,
    read_trace,
    stages_of,
)
from motley_planner.simulator.arrivals import nearest_class
from motley_planner.simulator.traces import drawn_from_rates, is_rate_table, read_rates

if TYPE_CHECKING:
    from motley_planner.dispatch import DispatchRule
    from motley_planner.domain.hardware import Catalog
    from motley_planner.domain.plan import Slice

DRAWN = ("poisson", "gamma")
DEFAULT_REQUESTS = 20_000
NO_LIMIT = 10**9
MOST_RATE = 1e9  # requests/s, or times a rate


def arrivals_of(args: argparse.Namespace, part: Slice) -> Arrivals:
    """The requests that the options ask for. Raises: InputError, SnapshotError, OSError."""
    kinds = tuple(kind for kind in kinds_of(part) if kind.requests_per_second > 0)
    if not kinds:
        raise InputError(args.plan, f"{part.key} has no planned rate: nothing to simulate")
    planned = sum(kind.requests_per_second for kind in kinds)
    form, _, value = args.trace.partition(":")
    if form in DRAWN:
        variation = _variation(form, value)
        scaled = _at_rate(kinds, _rate(args, planned, planned))
        count = args.requests or DEFAULT_REQUESTS
        return drawn(scaled, count, seed=args.seed, variation=variation)
    if is_rate_table(args.trace):
        return _from_rates(args, kinds, planned)
    found = read_trace(args.trace).first(args.requests or NO_LIMIT)
    if len(found) < 2 or found.rate <= 0.0:
        raise InputError(args.trace, "needs at least 2 requests at different times")
    rate = _rate(args, planned, found.rate)
    if args.lengths == "class":
        return like_trace(_at_rate(kinds, rate), found, seed=args.seed)
    return _sorted_into(found.at_rate(rate), kinds, args.trace)


def _at_rate(kinds: Sequence[Kind], rate: float) -> list[Kind]:
    total = sum(kind.requests_per_second for kind in kinds)
    return [replace(k, requests_per_second=k.requests_per_second * rate / total) for k in kinds]


def _from_rates(args: argparse.Namespace, kinds: tuple[Kind, ...], planned: float) -> Arrivals:
    if args.column is None:
        raise InputError("motley simulate", "a table of rates needs --column NAME")
    starts, rates = read_rates(args.trace, args.column)
    most = args.requests or DEFAULT_REQUESTS
    if args.rate in (None, "recorded"):
        rates = rates * args.load
    else:
        rates = rates * (_rate(args, planned, planned) / max(1e-12, float(rates.mean())))
    return drawn_from_rates(kinds, starts, rates, seed=args.seed, most=most)


def _sorted_into(found: Arrivals, kinds: tuple[Kind, ...], name: str) -> Arrivals:
    """The trace's requests in the plan's classes: by name, else by the nearest prompt length."""
    names = tuple(kind.name for kind in kinds)
    if found.classes == ("",):
        lengths = {kind.name: (kind.prompt_tokens, kind.output_tokens) for kind in kinds}
        index = nearest_class(lengths, found.prompt_tokens)
        return replace(found, classes=names, class_index=index)
    unknown = [each for each in found.classes if each not in names]
    if unknown:
        raise InputError(
            name, f"class {unknown[0]!r} is not in the plan: it has {', '.join(names)}"
        )
    return found


def _rate(args: argparse.Namespace, planned: float, recorded: float) -> float:
    """Requests/s to simulate, `--load` included."""
    load: float = args.load
    if args.rate is None or args.rate == "recorded":
        return recorded * load
    if args.rate == "planned":
        return planned * load
    try:
        return positive(args.rate) * load
    except argparse.ArgumentTypeError as error:
        raise InputError("--rate", f"{error}, `planned` or `recorded`") from error


def _variation(form: str, value: str) -> float:
    if form == "poisson":
        return 1.0
    try:
        found = float(value)
    except ValueError:
        found = 0.0
    if not 0.01 <= found <= 100.0:
        raise InputError(
            "--trace", f"gamma:{value}: write a coefficient of variation, e.g. gamma:2"
        )
    return found


def outcomes_for(args: argparse.Namespace, part: Slice) -> Outcomes | None:
    """Who is escalated: by the calibration table's rows where given, else at the plan's visits."""
    if args.calibration is None or not part.policies:
        return outcomes_of(part)
    return TableOutcomes(read_calibration(read_text(args.calibration), stages_of(part)))


def changes_of(
    args: argparse.Namespace, part: Slice, catalog: Catalog, rule: DispatchRule | None = None
) -> tuple[Change, ...]:
    """The plans that take over meanwhile, under the same rule of dispatch."""
    found = []
    for text in args.replan:
        when, _, path = text.partition("=")
        if not path:
            raise InputError("--replan", f"{text!r}: write T=PLAN.json, e.g. 10m=new.json")
        new = [each for each in read_plan(path).plan.slices if each.key == part.key]
        if not new:
            raise InputError(path, f"has no {part.key}")
        deployment = deployment_of(new[0], catalog, rule)
        found.append(Change(seconds_of(when), deployment, seconds_of(args.start_delay)))
    return tuple(found)


def seconds_of(text: str) -> float:
    """The seconds that "90s", "10m", "2h" or a bare number say. Raises: InputError."""
    units = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|)", text.strip())
    if found is None:
        raise InputError("motley simulate", f"{text!r}: write a time such as 90s, 10m or 2h")
    return float(found[1]) * units[found[2]]


def positive(text: str) -> float:
    """A number above 0 and at most 1e9. Raises: ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= MOST_RATE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0, at most 1e9")
    return value


def share(text: str) -> float:
    """A share: "0.01" or "1%". Raises: ArgumentTypeError."""
    try:
        value = float(text[:-1]) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return value
