"""Does it serve: time, KV memory, NIC, demand, policies, P/D balance, flows and links."""

from __future__ import annotations

from collections import defaultdict

from motley_planner.checker.ledger import TOLERANCE, Ledger
from motley_planner.checker.room import flipped_gpus
from motley_planner.domain.table import CascadeDemand


def check_time(ledger: Ledger) -> None:
    """sum of rate / capacity x share <= replicas in time and in memory; bytes <= NIC x replicas."""
    busy: dict[str, float] = defaultdict(float)
    held: dict[str, float] = defaultdict(float)
    moved: dict[str, float] = defaultdict(float)
    for (column_id, name), rate in ledger.rates.items():
        column = ledger.columns[column_id]
        alone = rate / column.requests_per_second[name]
        busy[column_id] += alone * column.time_share.get(name, 1.0)
        held[column_id] += alone * column.kv_share.get(name, 0.0)
        if column.phase != "both" and column.nic_bytes_per_second is not None:
            moved[column_id] += rate * ledger.classes[name].kv_bytes * column.kv_scale
    for what, needed in (("time", busy), ("kv", held)):
        for column_id, replicas in needed.items():
            have = ledger.columns[column_id].worth_of(ledger.counts[column_id])
            if replicas > have * (1 + TOLERANCE):
                ledger.complain(f"{what}: {column_id} needs {replicas} replicas and has {have}")
    for column_id, byte_rate in moved.items():
        nic = ledger.columns[column_id].nic_bytes_per_second or 0.0
        if byte_rate > nic * ledger.counts[column_id] * (1 + TOLERANCE):
            ledger.complain(f"nic: {column_id} moves {byte_rate} bytes/s")


def check_demand(ledger: Ledger) -> None:
    """Every class gets its own share and its load from cascades, in both phases."""
    given: dict[tuple[str, str], float] = defaultdict(float)
    for (column_id, name), rate in ledger.rates.items():
        given[name, ledger.columns[column_id].phase] += rate
    asked: dict[str, float] = defaultdict(float)
    nominal = {name: one.requests_per_second for name, one in ledger.classes.items()}
    for demand in ledger.demands():
        share = ledger.served_share(demand) if demand.name in _unserved(ledger) else 1.0
        share = scale_of(ledger, share)
        if isinstance(demand, CascadeDemand):
            for name, load in _loads(ledger, demand).items():
                asked[name] += load * share * demand.requests_per_second
                nominal[name] += load * demand.requests_per_second
        else:
            asked[demand.name] += share * demand.requests_per_second
    for name in ledger.classes:
        # A scale read back as level + P carries rounding of the order of P, hence the floor.
        total = max(asked[name], 1e-6 * nominal[name], 1e-300)
        first = given[name, "both"] + given[name, "prefill"]
        second = given[name, "both"] + given[name, "decode"]
        for served, what in ((first, "prefill"), (second, "decode")):
            if abs(served - asked[name]) > TOLERANCE * total:
                text = f"demand: {name} is served {served}/s in {what} and asked {asked[name]}/s"
                ledger.complain(text)


def _unserved(ledger: Ledger) -> dict[str, float]:
    return dict(ledger.solution.unserved or {})


def scale_of(ledger: Ledger, share: float) -> float:
    """How far a demand is served, in units of its rate: in max_min everything is served at a x its rate, and a may pass 1."""
    level = next((lv for lv in ledger.solution.levels if lv.name == "max_min"), None)
    if level is None or level.value is None:
        return share
    return level.value + (0.0 if ledger.table.penalty_in_price else penalty(ledger))


def penalty(ledger: Ledger) -> float:
    """P, from the moves that the solution states, and from the roles that its placement changes."""
    table, solution = ledger.table, ledger.solution
    moved = table.penalty_per_started_gpu * solution.started_gpus
    moved += table.penalty_per_stopped_gpu * solution.stopped_gpus
    return moved + table.penalty_per_flipped_gpu * flipped_gpus(table, solution.placement)


def _loads(ledger: Ledger, cascade: CascadeDemand) -> dict[str, float]:
    """Visits per served request by class, under the solution's policy shares."""
    policies = {p.id: p for p in cascade.policies}
    loads: dict[str, float] = defaultdict(float)
    for share in ledger.solution.policies:
        if share.cascade == cascade.name and share.id in policies:
            for name, load in policies[share.id].load.items():
                loads[name] += load * share.share
    return loads


def check_policies(ledger: Ledger) -> None:
    """Shares add up to 1, keep the quality floor, and are one-hot where a mixture is refused."""
    cascades = {c.name: c for c in ledger.table.cascades}
    for share in ledger.solution.policies:
        cascade = cascades.get(share.cascade)
        known = cascade is not None and share.id in {p.id for p in cascade.policies}
        if not known or not 0 <= share.share <= 1 + TOLERANCE:
            ledger.complain(f"policies: {share} is not possible")
    for cascade in cascades.values():
        mine = [p for p in ledger.solution.policies if p.cascade == cascade.name and p.share > 0]
        served = cascade.requests_per_second > 0 and (
            scale_of(ledger, ledger.served_share(cascade)) > TOLERANCE
        )
        total = sum(p.share for p in mine)
        if (served or mine) and ledger.differ(total, 1.0):
            ledger.complain(f"policies: shares of {cascade.name} add up to {total}")
        quality = {p.id: p.quality for p in cascade.policies}
        mean = sum(p.share * (quality.get(p.id, 0.0) - cascade.quality_floor) for p in mine)
        if mean < -TOLERANCE:
            ledger.complain(f"quality: {cascade.name} is {-mean} under its floor")
        tier = {p.id: p.tier for p in cascade.policies}
        if len({tier.get(p.id, "") for p in mine if p.share > TOLERANCE}) > 1:
            ledger.complain(f"policies: {cascade.name} mixes tiers and may not")
        if not cascade.mixture and len([p for p in mine if p.share > TOLERANCE]) > 1:
            ledger.complain(f"policies: {cascade.name} mixes policies and may not")


def check_flows(ledger: Ledger) -> None:
    """Flows carry every prefill to a decode of the same KV scale, within the links."""
    balance: dict[tuple[str, str, str, float], float] = defaultdict(float)
    size: dict[str, float] = defaultdict(float)
    for (column_id, name), rate in ledger.rates.items():
        column = ledger.columns[column_id]
        if column.phase != "both":
            balance[column.phase, name, column.zone, column.kv_scale] += rate
            size[name] += rate
    moved: dict[tuple[str, str], float] = defaultdict(float)
    for flow in ledger.solution.flows:
        rate, scale = flow.requests_per_second, flow.kv_scale
        if not rate >= 0 or flow.request_class not in ledger.classes:
            ledger.complain(f"flows: {flow} is not possible")
            continue
        balance["prefill", flow.request_class, flow.source, scale] -= rate
        balance["decode", flow.request_class, flow.target, scale] -= rate
        kv_bytes = ledger.classes[flow.request_class].kv_bytes
        moved[flow.source, flow.target] += rate * kv_bytes * scale
        if rate > 0 and any(
            (k.source, k.target, k.bytes_per_second) == (flow.source, flow.target, 0)
            for k in ledger.table.links
        ):
            ledger.complain(f"flows: {flow.source} to {flow.target} is forbidden")
    for (phase, name, zone, _), left in balance.items():
        if abs(left) > TOLERANCE * max(size[name], 1e-300):
            ledger.complain(f"flows: {phase} of {name} in {zone} is off by {left}/s")
    for link in ledger.table.links:
        if moved[link.source, link.target] > link.bytes_per_second * (1 + TOLERANCE):
            ledger.complain(f"link: {link.source} to {link.target} is over its bytes/s")
