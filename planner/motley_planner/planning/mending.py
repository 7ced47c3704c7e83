"""What happened is mended around what goes on: only resources that are short get something new.

Theory of operation. After a loss, a restart or an edit money may move nothing of what was not edited, so a plan in
which all that runs goes on and everything is served in full cannot be bettered: service has no higher level to reach.
Such a plan needs no look at what the others could run on. It is sought in the part of the table with the columns
that run, and all columns of the resources that are short with those alone, or were edited; of
500 resources that is a fiftieth of the program. What was edited may be rebuilt, where that is
worth it. Where all that serves less than everything, nothing is concluded and the whole table decides.

After an edit only a large table is looked at in this way: of a small one the whole is solved soon, and says
what a fleet that is free to move would cost.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Set as AbstractSet
from dataclasses import replace

from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Level, Solution
from motley_planner.domain.table import FleetTable, Scenario, SideRow
from motley_planner.formulations.fleet import solve_table
from motley_planner.planning.assembly import Assembly
from motley_planner.planning.editing import is_enough

TIME_SHARE = 0.5  # of the time limit, for one try
LARGE_COLUMNS = 3000  # a table of which solving the whole takes seconds
MOST_STRUCK = 0.5  # of the resources; beyond, the part is no smaller than the whole
ENOUGH = 1e-9


def mend(
    table: FleetTable, assembly: Assembly, snapshot: Snapshot, *, use_worker: bool
) -> tuple[Solution | None, float]:
    """The plan that stops nothing but of what was edited and serves everything in full, and the seconds
    it was sought.

    None where there may be none. Its bounds on service are those of full service; the price has none.
    """
    if table.previous is None or table.objective != "goodput" or not table.penalty_in_price:
        return None, 0.0
    if not snapshot.steady or (snapshot.edited and len(table.columns) < LARGE_COLUMNS):
        return None, 0.0
    running = {c for r in table.previous.replicas for c in (r.column, *r.flips_to)}
    struck = _surely_short(table, assembly) | snapshot.edited
    spent_s = 0.0
    while len(struck) <= MOST_STRUCK * len(snapshot.demands):
        part = _part(table, assembly, running, struck)
        found = _found(part, assembly, snapshot, use_worker)
        spent_s += found.solve_seconds
        if found.status == "no_solution":
            break
        short = _short(found)
        if not short and _is_whole(found):
            return replace(_proved(found), solve_seconds=spent_s), spent_s
        if short <= struck:
            break
        struck |= short
    return None, spent_s


def _found(part: FleetTable, assembly: Assembly, snapshot: Snapshot, use_worker: bool) -> Solution:
    """The part's plan; where something was edited the one that rebuilds it, if that is worth it."""
    if not snapshot.edited:
        return solve_table(part, use_worker=use_worker)
    half = replace(part, time_limit_s=0.5 * part.time_limit_s)
    still = solve_table(half, use_worker=use_worker)
    assert part.previous is not None
    candidates = assembly.candidates
    held = frozenset(
        r.id for r in part.previous.replicas if candidates[r.column].key not in snapshot.edited
    )
    freer = replace(half, held_replicas=held, start=still.placement or part.start)
    built = solve_table(freer, use_worker=use_worker)
    best = still if is_enough(still, built, assembly, snapshot) else built
    return replace(
        best,
        solve_seconds=still.solve_seconds + built.solve_seconds,
        cut_short=still.cut_short or built.cut_short,
    )


def _surely_short(table: FleetTable, assembly: Assembly) -> set[str]:
    """Keys of resources that their survivors cannot serve; not all of them, the solve finds the rest.

    With worths w of a request of each class, replicas j serve no more than sum_j max_c w_c cap_jc:
    short, where sum_c w_c rate_c is more. w_c = 1 / mean of cap_jc over the replicas that serve c,
    which makes it exact where they are alike.
    """
    assert table.previous is not None
    rates = {c.name: c.requests_per_second for c in table.classes if c.requests_per_second > 0}
    survivors = (r for r in table.previous.replicas if not table.lost_nodes & set(r.nodes))
    counts = Counter(replica.column for replica in survivors)
    running = [c for c in table.columns if counts[c.id]]
    capacity: dict[str, float] = defaultdict(float)
    replicas: dict[str, int] = defaultdict(int)
    for column in running:
        for name, rate in column.requests_per_second.items():
            capacity[name] += rate * counts[column.id]
            replicas[name] += counts[column.id]
    worth = {name: replicas[name] / capacity[name] for name in rates if capacity[name] > 0}
    most: dict[str, float] = defaultdict(float)
    for column in running:
        each = [worth[n] * r for n, r in column.requests_per_second.items() if n in worth]
        key = assembly.candidates[column.id].key
        most[key] += max(each, default=0.0) * column.worth_of(counts[column.id])
    asked: dict[str, float] = defaultdict(float)
    for name, rate in rates.items():
        asked[_key_of(name)] += worth.get(name, math.inf) * rate
    return {key for key, amount in asked.items() if amount > most[key] * (1.0 + ENOUGH)}


def _part(
    table: FleetTable, assembly: Assembly, running: AbstractSet[str], struck: AbstractSet[str]
) -> FleetTable:
    """The table with the columns that run and those of `struck`; every survivor goes on."""
    assert table.previous is not None
    candidates = assembly.candidates
    columns = tuple(c for c in table.columns if c.id in running or candidates[c.id].key in struck)
    ids = {c.id for c in columns}
    return replace(
        table,
        columns=columns,
        side_rows=tuple(_row_over(row, ids) for row in table.side_rows),
        scenarios=tuple(_scenario_over(scenario, ids) for scenario in table.scenarios),
        held_replicas=frozenset(replica.id for replica in table.previous.replicas),
        start=tuple(placed for placed in table.start if placed.column in ids),
        starts=(),
        time_limit_s=TIME_SHARE * table.time_limit_s,
    )


def _row_over(row: SideRow, columns: AbstractSet[str]) -> SideRow:
    """The row where all other columns are at 0."""
    if not row.per_replica and not row.per_rate:
        return row
    return replace(
        row,
        per_replica={c: v for c, v in row.per_replica.items() if c in columns},
        per_rate={at: v for at, v in row.per_rate.items() if at[0] in columns},
    )


def _scenario_over(scenario: Scenario, columns: AbstractSet[str]) -> Scenario:
    """The scenario where all other columns are at 0."""
    return replace(
        scenario,
        lost={c: v for c, v in scenario.lost.items() if c in columns},
        thinned={c: v for c, v in scenario.thinned.items() if c in columns},
    )


def _short(solution: Solution) -> set[str]:
    """Keys of the resources that are not served in full."""
    unserved = solution.unserved or {}
    return {_key_of(name) for name, rate in unserved.items() if rate > 0.0}


def _key_of(name: str) -> str:
    """The resource that a demand of the table belongs to: kind, namespace and name come first."""
    return "/".join(name.split("/", 3)[:3])


def _is_whole(solution: Solution) -> bool:
    """Whether nothing else is missing that comes before money: minimums, scenarios."""
    return not solution.shortfalls and all(
        level.value is not None and level.value >= -ENOUGH
        for level in solution.levels
        if level.name in ("minimums", "tolerance")
    )


def _proved(solution: Solution) -> Solution:
    """The solution with the bounds that hold for the whole table: nothing serves more than all."""
    levels = tuple(
        Level(level.name, level.value, None, None)
        if level.name == "price"
        else Level(level.name, level.value, level.value, 0.0)
        for level in solution.levels
    )
    return replace(solution, status="feasible", levels=levels, bound=solution.objective, gap=0.0)
