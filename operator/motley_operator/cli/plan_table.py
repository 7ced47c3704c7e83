"""A plan as text for a terminal: the fleet, who sits where, what is promised, what falls short."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from textwrap import wrap

from motley_operator.cli.output import Row, columns, money, number, percent, plural
from motley_operator.cli.plan_file import PlanFile, ShapeRow
from motley_planner.domain.plan import Group, Move, Plan, Promise, Refusal, Slice

WIDTH = 100
BAR = 16
SHOWN_NODES = 4
# Reasons of moves in words; a reason that is not here is shown as it is.
WHY = {
    "NodeLost": "its node is gone",
    "DemandGrew": "demand grew",
    "Saves": "saves more than the move costs",
    "NoLongerAllowed": "the resource no longer allows it",
    "NotNeeded": "no longer needed",
    "New": "new",
}


def render(content: PlanFile) -> str:
    """The whole plan."""
    plan = content.plan
    blocks = [_fleet(content)]
    blocks += [_slice(part) for part in sorted(plan.slices, key=lambda part: part.key)]
    for entry in content.rejected:
        blocks.append("\n".join([f"{entry.key}: not planned", *refusal_lines(entry.refusals)]))
    if plan.moves:
        blocks.append(moves(plan.moves, plan.kept))
    if content.unknown_gpus:
        names = ", ".join(content.unknown_gpus)
        blocks.append(f"GPUs that the catalog does not know (their nodes are left out): {names}")
    return "\n\n".join(blocks)


def headline(plan: Plan) -> str:
    """One line: how much of the fleet is used, at what price, and how good that is proved to be."""
    free = plan.gpus - plan.gpus_used
    fleet = (
        f"{plural(plan.nodes, 'node')}, {plan.gpus:,} GPUs: {plan.gpus_used:,} used, {free:,} free"
    )
    return f"{fleet} | {money(plan.price_usd_per_hour)} | {proof(plan)}"


def proof(plan: Plan) -> str:
    """Status, gap and time of the solve in words."""
    words = {
        "optimal": "proved optimal",
        "feasible": "valid, not proved optimal",
        "infeasible": "cannot all be served",
        "no_solution": "no plan in time",
    }
    gap = "" if plan.gap is None else f", gap {percent(plan.gap)}"
    return f"{words[plan.status]}{gap}, {plan.solve_seconds:.2f} s"


def _fleet(content: PlanFile) -> str:
    rows = [("GPU", "ZONE", "CAPACITY", "$/GPU-H", "NODES", "GPUS", "USED", "FREE", "")]
    for row in content.inventory:
        nodes = str(row.nodes) + (f" ({row.cordoned} cordoned)" if row.cordoned else "")
        price = number(row.price_usd_per_gpu_hour)
        counts = (str(row.total), str(row.used), str(row.free))
        rows.append((row.gpu, row.zone, row.capacity_type, price, nodes, *counts, bar(row)))
    table = columns(rows, right=frozenset({3, 4, 5, 6, 7}), indent=2)
    legend = "  {} this plan  {} other pods  {} free".format(*_marks())
    return "\n".join([f"FLEET  {headline(content.plan)}", "", table, legend])


def bar(row: ShapeRow) -> str:
    """The shape's GPUs as a bar: held by the plan, by other pods, free."""
    if not row.total:
        return ""
    ours, others, free = _marks()
    scale = min(1.0, BAR / row.total)
    used = round(row.used * scale) or int(row.used > 0)
    foreign = round(row.foreign * scale) or int(row.foreign > 0)
    rest = max(0, round(row.total * scale) - used - foreign)
    return ours * used + others * foreign + free * rest


def _marks() -> tuple[str, str, str]:
    unicode = "utf" in (sys.stdout.encoding or "").lower()
    return ("■", "▨", "□") if unicode else ("#", "x", ".")


def _slice(part: Slice) -> str:
    lines = [slice_line(part), ""]
    rows: list[Row] = [("STAGE", "REPLICAS", "GPU", "WHERE", "$/H", "NODES")]
    seats = _seats(part)
    rows += [_group_row(group, seats) for group in part.groups]
    if part.groups:
        lines.append(columns(rows, right=frozenset({4}), indent=2))
    else:
        lines.append("  no replicas")
    details = [*_details(part)]
    if details:
        lines += ["", columns(details, indent=2)]
    lines += refusal_lines(part.refusals)
    return "\n".join(lines)


def slice_line(part: Slice) -> str:
    """One line on a resource: what it gets of what it asked for, and the price."""
    words = [part.key]
    if part.steps_per_hour is not None:
        words.append(f"{number(part.steps_per_hour)} steps/h")
    if part.requests_per_second:
        served, asked = part.served_requests_per_second, part.requests_per_second
        words.append(f"{number(served)} of {number(asked)} requests/s")
    if part.expected_quality is not None:
        words.append(f"quality {percent(part.expected_quality)}")
    gpus = sum(replica.gpus for replica in part.replicas)
    words.append(f"{gpus} GPU" + ("" if gpus == 1 else "s"))
    words.append(money(part.price_usd_per_hour))
    return " | ".join(words)


def _seats(part: Slice) -> Mapping[tuple[str, str, str], Counter[str]]:
    seats: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for replica in part.replicas:
        seats[(replica.stage, replica.role, replica.column)].update(replica.nodes)
    return seats


def _group_row(group: Group, seats: Mapping[tuple[str, str, str], Counter[str]]) -> tuple[str, ...]:
    where = " ".join(filter(None, (group.zone, group.capacity_type)))
    seated = seats.get((group.stage, group.role, group.column), Counter())
    size = f"{group.count} x TP{group.tensor_parallel}"
    stage = group.stage if group.role in ("serve", group.stage) else f"{group.stage} ({group.role})"
    price = f"{group.price_usd_per_hour:,.2f}"
    return (stage, size, group.gpu, where, price, node_list(seated))


def node_list(seated: Mapping[str, int]) -> str:
    """ "l4-1 x4, l4-2 x2, 3 more"."""
    names = sorted(seated)
    shown = [f"{name} x{seated[name]}" if seated[name] > 1 else name for name in names]
    if len(shown) > SHOWN_NODES:
        return ", ".join(shown[: SHOWN_NODES - 1]) + f", {len(shown) - SHOWN_NODES + 1} more nodes"
    return ", ".join(shown)


def _details(part: Slice) -> Iterable[tuple[str, str]]:
    for choice in part.policies:
        steps = ", ".join(f"{stage} >= {value:.3g}" for stage, value in choice.thresholds.items())
        keep = f"keep an answer when {steps}" if steps else "every request takes the same path"
        yield "policy", f"{percent(choice.share)} of requests: {keep}"
    for promise in part.promises:
        yield "promise", promise_text(promise)
    for binding in part.binding:
        yield "binds", binding


def promise_text(promise: Promise) -> str:
    """A promise with its band and where it comes from."""
    band = f"{number(promise.low)} to {number(promise.high)}"
    return f"{promise.what} {number(promise.value)} ({band}, {promise.provenance})"


def refusal_lines(refusals: Iterable[Refusal]) -> list[str]:
    """Each refusal with the field it is about and what would lift it."""
    lines = []
    for refusal in refusals:
        place = f" at {refusal.field}" if refusal.field else ""
        unserved = refusal.unserved_requests_per_second
        short = f" ({number(unserved)} requests/s unserved)" if unserved else ""
        text = f"! {refusal.reason}{place}: {refusal.message}{short}"
        lines += wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
        if refusal.lift:
            lines += wrap(f"would help: {refusal.lift}", WIDTH, initial_indent="    ")
    return lines


def moves(found: Iterable[Move], kept: int) -> str:
    """What starts and stops, and why; equal moves share a line."""
    counted: Counter[tuple[str, str, str, str]] = Counter()
    nodes: dict[tuple[str, str, str, str], Counter[str]] = defaultdict(Counter)
    for move in found:
        stage = move.replica.rpartition("/")[2].split("-")[0]
        kind = (move.action, move.key, stage, WHY.get(move.reason, move.reason))
        counted[kind] += 1
        nodes[kind].update(move.nodes)
    starts = sum(count for kind, count in counted.items() if kind[0] == "start")
    stops = sum(count for kind, count in counted.items() if kind[0] == "stop")
    rows = [("", "RESOURCE", "STAGE", "REPLICAS", "NODES", "WHY")]
    for kind in sorted(counted, key=lambda k: (k[0] != "stop", k[1:])):
        action, key, stage, why = kind
        rows.append((action, key, stage, str(counted[kind]), node_list(nodes[kind]), why))
    title = f"MOVES  {kept} kept, {starts} started, {stops} stopped"
    return f"{title}\n\n{columns(rows, right=frozenset({3}), indent=2)}"
