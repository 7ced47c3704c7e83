"""`motley what-if PLAN.json --change ...`: the plan after a change, and what would move."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from motley_operator.cli import plan_file, plan_table
from motley_operator.cli.diff import difference
from motley_operator.cli.diff import render as render_difference
from motley_operator.cli.output import Row, columns, emit, money, number, plain
from motley_operator.cli.plan import exit_status, seconds
from motley_operator.cli.plan_file import PlanFile, Problem

if TYPE_CHECKING:
    from motley_operator.cli.main import Subparsers
    from motley_planner.domain.hardware import Catalog
    from motley_planner.domain.plan import Plan, Slice

MOST_TIME_LIMIT_S = 5.0  # of a plan that begins from the one that is asked about
DESCRIPTION = """\
Plans again after one or more changes, with the plan in PLAN.json running, and says what would
start, stop and move. `-o json` prints the new plan as a PLAN.json.

  motley what-if plan.json --change '+1 H100'            a node like the others of that GPU joins
  motley what-if plan.json --change 'lose a100-80-2'     that node is lost ('-1 A100' picks the fullest)
  motley what-if plan.json --change 'support rate +20%'  rate, budget, gpus, ttft, tpot, e2e, floor,
                           --change 'budget =80'         headroom of a resource; budget of the fleet
"""


def add_parser(subparsers: Subparsers) -> None:
    """Declares the verb."""
    parser = subparsers.add_parser(
        "what-if",
        help="the plan after a change, and what would move",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("plan", metavar="PLAN.json")
    parser.add_argument(
        "--change",
        dest="changes",
        action="append",
        required=True,
        metavar="CHANGE",
        help="see above; may be given more than once",
    )
    parser.add_argument(
        "--time-limit",
        type=seconds,
        metavar="10s",
        help=f"of each of two plans (default: the plan's own, at most {MOST_TIME_LIMIT_S:g}s)",
    )


def run(args: argparse.Namespace) -> int:
    """Plans and prints; the exit status is that of `motley plan`."""
    from motley_planner.planning.worth import after_change

    old = plan_file.read_plan(args.plan)
    problem = old.question(args.plan)
    limit_s = args.time_limit or min(problem.snapshot.time_limit_s, MOST_TIME_LIMIT_S)
    problem = limited(problem, limit_s)
    snapshot, made, unchanged = after_change(
        problem.snapshot, old.plan, tuple(args.changes), catalog_of(problem)
    )
    rejected = {entry.key: entry.refusals for entry in old.rejected}
    asked = replace(problem, snapshot=snapshot)
    new = plan_file.plan_file(made, asked, rejected, old.unknown_gpus)
    document = plan_file.to_document(new) | {"unchanged": plain(summary(unchanged))}
    emit(args, document, lambda: render(old, new, unchanged))
    return exit_status(new)


def limited(problem: Problem, time_limit_s: float) -> Problem:
    """The problem with another time limit."""
    return replace(problem, snapshot=replace(problem.snapshot, time_limit_s=time_limit_s))


def catalog_of(problem: Problem) -> Catalog:
    """The catalog that the plan was made with: ours, what the Fleet added and what was learned."""
    from motley_planner.catalog import load_catalog

    catalog = load_catalog()
    added = {gpu.name: gpu for gpu in problem.gpus}
    learned = {one.key: one for one in problem.learned}
    return replace(catalog, gpus={**catalog.gpus, **added}, learned=learned)


@dataclass(frozen=True, slots=True)
class Summary:
    """What planning again gives without any change, to compare with: a longer search finds more."""

    price_usd_per_hour: float
    gpus_used: int
    started: int
    stopped: int
    served_requests_per_second: Mapping[str, float]  # by resource


def summary(plan: Plan) -> Summary:
    """The figures of a plan that `what-if` prints beside its own."""
    actions = Counter(move.action for move in plan.moves)
    return Summary(
        plan.price_usd_per_hour,
        plan.gpus_used,
        actions["start"],
        actions["stop"],
        {part.key: part.served_requests_per_second for part in plan.slices},
    )


def render(old: PlanFile, new: PlanFile, unchanged: Plan) -> str:
    """Both plans side by side, what planning again alone gives, and what lies between them."""
    before = {part.key: part for part in old.plan.slices}
    rows: list[Row] = [("RESOURCE", "SERVED", "", "GPUS", "", "$/H", "")]
    for part in new.plan.slices:
        was = before.get(part.key)
        rows.append((part.key, *_pair(was, part)))
    prices = money(old.plan.price_usd_per_hour), "-> " + money(new.plan.price_usd_per_hour)
    gpus = str(old.plan.gpus_used), f"-> {new.plan.gpus_used}"
    rows.append(("all", "", "", *gpus, *prices))
    blocks = [columns(rows), _alone(old, unchanged), render_difference(difference(old, new))]
    for part in new.plan.slices:
        if part.refusals:
            blocks.append("\n".join([part.key, *plan_table.refusal_lines(part.refusals)]))
    return "\n\n".join(blocks)


def _alone(old: PlanFile, unchanged: Plan) -> str:
    """What planning again gives without the change: that much is not the change's doing."""
    found = summary(unchanged)
    same = "planning again without the change gives the plan as it was"
    if not unchanged.moves and found.gpus_used == old.plan.gpus_used:
        return same
    return (
        f"planning again without the change gives {money(found.price_usd_per_hour)} $/h on "
        f"{found.gpus_used} GPUs, {found.started} replicas started and {found.stopped} stopped: "
        "so much is not the change's doing"
    )


def _pair(was: Slice | None, now: Slice) -> tuple[str, ...]:
    def served(part: Slice) -> str:
        if part.steps_per_hour is not None:
            return f"{number(part.steps_per_hour)} steps/h"
        return f"{number(part.served_requests_per_second)}/s"

    def gpus(part: Slice) -> str:
        return str(sum(replica.gpus for replica in part.replicas))

    old = (served(was), gpus(was), money(was.price_usd_per_hour)) if was else ("-", "-", "-")
    return (
        old[0],
        "-> " + served(now),
        old[1],
        "-> " + gpus(now),
        old[2],
        "-> " + money(now.price_usd_per_hour),
    )
