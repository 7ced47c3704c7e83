"""A plan as text for a terminal: the fleet, who sits where, what is promised, what falls short."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from textwrap import wrap

from motley_operator.cli.output import Row, columns, money, number, percent, plural, unproved_lines
from motley_operator.cli.plan_file import PlanFile, ShapeRow
from motley_planner.domain.plan import (
    Group,
    Move,
    NodesToAdd,
    Plan,
    PlannedFlow,
    PlannedReplica,
    Promise,
    Refusal,
    Slice,
)

Places = Mapping[str, tuple[str, str]]  # zone and capacity type by node
GroupId = tuple[str, str, str, str]  # stage, column, zone, capacity type

WIDTH = 100
BAR = 16
SHOWN_NODES = 4
LEAST_SHARE = 1e-5  # of a cascade's requests; policies below it are in PLAN.json alone
# Reasons of moves in words; a reason that is not here is shown as it is.
WHY = {
    "NodeLost": "its node is gone",
    "DemandGrew": "demand grew",
    "Saves": "saves more than the move costs",
    "PhaseShifted": "prompts and answers shifted",
    "NoLongerAllowed": "the resource no longer allows it",
    "NotNeeded": "no longer needed",
    "New": "new",
}


def render(content: PlanFile) -> str:
    """The whole plan."""
    plan = content.plan
    blocks = [_fleet(content)]
    places = {seat.node: (seat.zone, seat.capacity_type) for seat in content.seats}
    blocks += [_slice(part, places) for part in sorted(plan.slices, key=lambda part: part.key)]
    for entry in content.rejected:
        blocks.append("\n".join([f"{entry.key}: not planned", *refusal_lines(entry.refusals)]))
    # A first plan only starts things; the tables above say it all.
    if plan.kept or any(move.action != "start" for move in plan.moves):
        blocks.append(moves(plan.moves, plan.kept))
    if plan.nodes_coming:
        blocks.append(_coming(plan))
    if plan.nodes_to_add:
        blocks.append(_additions(plan))
    if plan.certificates:
        proofs = [
            f"  {c.level}: no plan is beyond {number(c.bound, 6)} (by {len(c.multipliers)} prices)"
            for c in plan.certificates
        ]
        proofs += [f"  {line}" for line in unproved_lines(plan.levels)]
        blocks.append("\n".join(["PROOFS that need no solver:", *proofs]))
    if content.unknown_gpus:
        lines = [
            f"  {u.product} ({plural(u.nodes, 'node')}): {u.reason}" for u in content.unknown_gpus
        ]
        blocks.append("\n".join(["Devices that are not planned:", *lines]))
    return "\n\n".join(blocks)


def _coming(plan: Plan) -> str:
    """Nodes that pods ask for."""
    title = "NODES that pods of this plan wait for, from an autoscaler:"
    return "\n".join([title, "", _shapes(plan.nodes_coming)])


def _shapes(found: Sequence[NodesToAdd]) -> str:
    rows = [("ADD", "SHAPE", "GPU", "$/H", "READY AFTER")]
    for add in found:
        price, delay = number(add.price_usd_per_hour), f"{add.delay_hours * 60:.0f} min"
        rows.append((f"+{add.count}", add.shape, add.gpu, price, delay))
    return columns(rows, right=frozenset({0, 3}), indent=2)


def _additions(plan: Plan) -> str:
    """Nodes that would serve the rest."""
    gains = ", ".join(
        f"{key} +{number(more * 3600)} steps/h"
        if key.startswith("RLJob/")
        else f"{key} +{number(more)} requests/s"
        for key, more in sorted(plan.nodes_to_add[0].gains.items())
    )
    title = f"NODES that would serve the rest: {gains}"
    return "\n".join([title, "", _shapes(plan.nodes_to_add)])


def headline(plan: Plan) -> str:
    """One line: how much of the fleet is used, at what price, and how good that is proved to be."""
    free = plan.gpus - plan.gpus_used
    fleet = (
        f"{plural(plan.nodes, 'node')}, {plan.gpus:,} GPUs: {plan.gpus_used:,} used, {free:,} free"
    )
    return f"{fleet} | {money(plan.price_usd_per_hour)} | {proof(plan)}"


def proof(plan: Plan) -> str:
    """Status, widest gap and time of the solve in words."""
    words = {
        "optimal": "proved optimal",
        "feasible": "valid, not proved optimal",
        "infeasible": "cannot all be served",
        "no_solution": "no plan in time",
    }
    gap, level = max(((one.gap or 0.0, one.name) for one in plan.levels), default=(0.0, ""))
    text = f", {level} within {percent(gap)} of the bound" if gap > 0 else ""
    return f"{words[plan.status]}{text}, {plan.solve_seconds:.2f} s"


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


def _slice(part: Slice, places: Places) -> str:
    lines = [slice_line(part), ""]
    rows: list[Row] = [("STAGE", "REPLICAS", "GPU", "WHERE", "$/H", "NODES")]
    seats = _seats(part, places)
    rows += [_group_row(group, seats) for group in part.groups]
    if part.groups:
        lines.append(columns(rows, right=frozenset({4}), indent=2))
    else:
        lines.append("  no replicas")
    details = [*_details(part)]
    if details:
        lines += ["", columns(details, indent=2)]
    lines += refusal_lines((*part.refusals, *part.unpromised))
    return "\n".join(lines)


def slice_line(part: Slice) -> str:
    """One line on a resource: what it gets of what it asked for, and the price."""
    words = [part.key]
    served, asked = part.served_requests_per_second, part.requests_per_second
    if part.steps_per_hour is not None:
        share = f", {percent(served / asked)} of what was asked" if served < asked else ""
        words.append(f"{number(part.steps_per_hour)} steps/h{share}")
    elif asked:
        words.append(f"{number(served)} of {number(asked)} requests/s")
    if part.expected_quality is not None:
        words.append(f"quality {percent(part.expected_quality)}")
    gpus = sum(replica.gpus for replica in part.replicas)
    words.append(f"{gpus} GPU" + ("" if gpus == 1 else "s"))
    words.append(money(part.price_usd_per_hour))
    return " | ".join(words)


def _seats(part: Slice, places: Places) -> Mapping[GroupId, Counter[str]]:
    seats: dict[GroupId, Counter[str]] = defaultdict(Counter)
    for replica in part.replicas:
        zone, capacity_type = places.get(replica.nodes[0], ("", "")) if replica.nodes else ("", "")
        seats[(replica.stage, replica.column, zone, capacity_type)].update(replica.nodes)
    return seats


def _group_row(group: Group, seats: Mapping[GroupId, Counter[str]]) -> tuple[str, ...]:
    where = " ".join(filter(None, (group.zone, group.capacity_type)))
    place = (group.stage, group.column, group.zone, group.capacity_type)
    size = f"{group.count} x {size_text(group)}"
    stage = group.stage if group.role in ("serve", group.stage) else f"{group.stage} ({group.role})"
    if group.phase != "both":
        stage += f" ({group.phase})"
    price = f"{group.price_usd_per_hour:,.2f}"
    return (stage, size, gpu_text(group), where, price, node_list(seats.get(place, Counter())))


def replica_text(one: PlannedReplica) -> str:
    """TP4 L40S, with the phase where it has only one."""
    phase = "" if one.phase == "both" else f" {one.phase}"
    return f"{size_text(one)} {gpu_text(one)}{phase}"


def gpu_text(one: Group | PlannedReplica) -> str:
    """The GPU type, of a pipeline the type of each fragment."""
    return " + ".join(fragment.gpu for fragment in one.pipeline) or one.gpu


def size_text(one: Group | PlannedReplica) -> str:
    """TP4, or TP4/2/2 layers 48/20/12 for a pipeline."""
    if not one.pipeline:
        return f"TP{one.tensor_parallel}"
    widths = "/".join(str(f.tensor_parallel) for f in one.pipeline)
    return f"TP{widths} layers {'/'.join(str(f.layers) for f in one.pipeline)}"


def node_list(seated: Mapping[str, int]) -> str:
    """ "l4-1 x4, l4-2 x2, 3 more"."""
    names = sorted(seated)
    shown = [f"{name} x{seated[name]}" if seated[name] > 1 else name for name in names]
    if len(shown) > SHOWN_NODES:
        return ", ".join(shown[: SHOWN_NODES - 1]) + f", {len(shown) - SHOWN_NODES + 1} more nodes"
    return ", ".join(shown)


def _details(part: Slice) -> Iterable[tuple[str, str]]:
    for choice in (one for one in part.policies if one.share >= LEAST_SHARE):
        steps = ", ".join(f"{stage} >= {value:.3g}" for stage, value in choice.thresholds.items())
        keep = f"keep an answer when {steps}" if steps else "every request takes the same path"
        only = f", all {'/'.join(choice.classes)}" if choice.classes else ""
        yield "policy", f"{percent(choice.share)} of requests{only}: {keep}"
    for promise in part.promises:
        yield "promise", promise_text(promise)
    for flow in part.flows:
        yield "moves", flow_text(flow)
    for caveat in part.caveats:
        yield "assumes", caveat
    for binding in part.binding:
        yield "binds", binding


def flow_text(flow: PlannedFlow) -> str:
    """KV caches from prefill to decode: which class, between which zones, how much."""
    where = f"{flow.source} -> {flow.target}"
    rate = f"{number(flow.requests_per_second)} requests/s"
    size = f"{number(flow.bytes_per_second / 1e9)} GB/s"
    scale = "" if flow.kv_scale == 1.0 else f" in {16 * flow.kv_scale:g} bits"
    return f"{flow.stage} {flow.request_class}: KV caches {where}, {rate}, {size}{scale}"


def promise_text(promise: Promise) -> str:
    """A promise with its band and where it comes from; times below a second in milliseconds."""
    metric, _, about = promise.what.partition(" ")
    values = (promise.value, promise.low, promise.high)
    unit = ""
    if metric.endswith("_s"):
        metric = metric.removesuffix("_s").upper()
        unit, scale = ("s", 1.0) if max(values) >= 1.0 else ("ms", 1e3)
        values = (values[0] * scale, values[1] * scale, values[2] * scale)
    value, low, high = (number(figure) for figure in values)
    return f"{metric} {about}: {value} {unit} ({low} to {high}, {promise.provenance})"


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
    """What starts, stops and changes its role, and why; equal moves share a line."""
    counted: Counter[tuple[str, str, str, str]] = Counter()
    nodes: dict[tuple[str, str, str, str], Counter[str]] = defaultdict(Counter)
    for move in found:
        stage = move.replica.rpartition("/")[2].split("-")[0]
        kind = (move.action, move.key, stage, WHY.get(move.reason, move.reason))
        counted[kind] += 1
        nodes[kind].update(move.nodes)
    starts = sum(count for kind, count in counted.items() if kind[0] == "start")
    stops = sum(count for kind, count in counted.items() if kind[0] == "stop")
    flips = sum(count for kind, count in counted.items() if kind[0] == "flip")
    rows = [("", "RESOURCE", "STAGE", "REPLICAS", "NODES", "WHY")]
    for kind in sorted(counted, key=lambda k: (k[0] != "stop", k[1:])):
        action, key, stage, why = kind
        rows.append((action, key, stage, str(counted[kind]), node_list(nodes[kind]), why))
    title = f"MOVES  {kept} kept, {starts} started, {stops} stopped"
    title += f", {flips} change role" if flips else ""
    return f"{title}\n\n{columns(rows, right=frozenset({3}), indent=2)}"
