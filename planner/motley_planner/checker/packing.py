"""Does it fit: counts, budgets, and replicas on nodes."""

from __future__ import annotations

from collections import Counter, defaultdict

from motley_planner.checker.ledger import Ledger
from motley_planner.domain.solution import PlacedReplica
from motley_planner.domain.table import Previous, TableNode

Bin = tuple[int, float]  # gpus, price


def check_counts(ledger: Ledger) -> None:
    """max_count and min_count."""
    for column in ledger.table.columns:
        count = ledger.counts[column.id]
        if column.max_count is not None and count > column.max_count:
            ledger.complain(f"max_count: {column.id} runs {count} replicas")
        if 0 < count < column.min_count:
            ledger.complain(f"min_count: {column.id} runs only {count} replicas")


def check_price(ledger: Ledger) -> None:
    """The price is that of columns and nodes in use, and within the budget."""
    solution, table = ledger.solution, ledger.table
    price = solution.price_usd_per_hour
    if price is None:
        ledger.complain("price: missing")
        return
    columns = sum(n * ledger.columns[c].price_usd_per_hour for c, n in ledger.counts.items())
    least = columns + _least_node_price(ledger)
    exact = table.previous is not None or all(not g.price_usd_per_hour for g in table.nodes)
    if (exact and ledger.differ(price, least)) or ledger.over(least, price):
        ledger.complain(f"price: says {price}, is {least}")
    budget = table.budget_usd_per_hour
    if budget is not None and ledger.over(price, budget):
        ledger.complain(f"budget: {price} is over {budget}")


def _least_node_price(ledger: Ledger) -> float:
    """Price of the nodes that carry something; without a placement, a lower bound of it."""
    previous = ledger.table.previous
    if previous is None:
        return 0.0
    used = {name for placed in ledger.solution.placement for name in placed.nodes}
    nodes = (*previous.nodes, *bought_nodes(ledger))
    return sum((n.price_usd_per_hour or 0.0) for n in nodes if n.name in used)


def bought_nodes(ledger: Ledger) -> list[TableNode]:
    """Nodes of the table's shapes that the placement names, as far as a shape has so many."""
    used = {name for placed in ledger.solution.placement for name in placed.nodes}
    found = []
    for name in sorted(used):
        stem, _, number = name.removeprefix("+").rpartition("/")
        for shape in ledger.table.purchasable:
            there = number.isdigit() and (shape.count is None or int(number) < shape.count)
            if name.startswith("+") and stem == shape.name and there:
                price = shape.price_usd_per_hour
                found.append(TableNode(name, shape.gpu, shape.zone, shape.gpus, price))
    return found


def delay_of(ledger: Ledger) -> float:
    """USD/h that waiting for the bought nodes is worth."""
    names = [node.name.removeprefix("+").rpartition("/")[0] for node in bought_nodes(ledger)]
    worth = {shape.name: shape.delay_usd_per_hour for shape in ledger.table.purchasable}
    return sum(worth[name] for name in names)


def check_inventory(ledger: Ledger) -> None:
    """Without `previous`: some set of nodes, bought for what the price leaves, holds everything."""
    table = ledger.table
    fragments: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for column_id, count in ledger.counts.items():
        column = ledger.columns[column_id]
        for fragment in column.fragments:
            fragments[fragment.gpu, column.zone][fragment.tp] += count
    columns = sum(n * ledger.columns[c].price_usd_per_hour for c, n in ledger.counts.items())
    left = (ledger.solution.price_usd_per_hour or 0.0) - columns
    for (gpu, zone), wanted in sorted(fragments.items()):
        groups = [g for g in table.nodes if (g.gpu, g.zone) == (gpu, zone)]
        most = sum(wanted.values())
        bins: Counter[Bin] = Counter()
        for group in groups:
            number = most if group.count is None else min(most, group.count)
            bins[group.gpus, group.price_usd_per_hour or 0.0] += number
        price = cheapest_packing(wanted, bins)
        if price is None:
            ledger.complain(f"nodes: {gpu} in {zone} cannot hold {dict(wanted)}")
            continue
        left -= price
    if left < -1e-6 * max(1.0, columns):
        ledger.complain(f"price: nodes in use cost {-left} more than it says")


def cheapest_packing(wanted: Counter[int], bins: Counter[Bin]) -> float | None:
    """A price no packing is below (0 where nodes are free), or None where nothing fits.

    Feasibility is tried by packing: largest first, each into the fullest bin that takes it, which
    finds a packing whenever sizes divide one another. The price is the knapsack's relaxation by
    GPUs: it may be lower than the truth, never higher. Works on numbers of equal sizes and equal
    bins, so that a million replicas take no longer than ten.
    """
    free: Counter[int] = Counter()
    for (gpus, _), number in bins.items():
        free[gpus] += number
    if any(not _pack(size, wanted[size], free) for size in sorted(wanted, reverse=True)):
        return None
    need, price = float(sum(size * n for size, n in wanted.items())), 0.0
    for gpus, cost in sorted((b for b in bins if b[0]), key=lambda b: b[1] / b[0]):
        part = min(float(bins[gpus, cost]), need / gpus)
        price, need = price + part * cost, need - part * gpus
    return price


def _pack(size: int, number: int, free: Counter[int]) -> bool:
    """Puts so many pieces of a size into the fullest bins that take it; False where they do not fit."""
    for room in sorted(r for r in free if r >= size):
        per_bin = room // size
        full = min(free[room], number // per_bin)
        free[room] -= full
        free[room % size] += full
        number -= full * per_bin
        if number and free[room]:  # fewer than a bin takes are left
            free[room] -= 1
            free[room - number * size] += 1
            number = 0
    return not number


def check_placement(ledger: Ledger) -> None:
    """With `previous`: every replica on live nodes with room, survivors where they ran."""
    previous = ledger.table.previous
    if previous is None:
        check_inventory(ledger)
        return
    nodes = {n.name: n for n in previous.nodes if n.name not in ledger.table.lost_nodes}
    nodes |= {n.name: n for n in bought_nodes(ledger)}
    taken: Counter[str] = Counter()
    for placed in ledger.solution.placement:
        _check_one(ledger, placed, nodes, taken)
    for name, gpus in taken.items():
        if name in nodes and gpus > nodes[name].gpus:
            ledger.complain(f"placement: {gpus} GPUs on {name}, which has {nodes[name].gpus}")
    placed_counts = Counter(p.column for p in ledger.solution.placement)
    if placed_counts != +ledger.counts:
        ledger.complain(f"placement: places {dict(placed_counts)}, not {dict(+ledger.counts)}")
    _check_moves(ledger, previous)


def _check_one(
    ledger: Ledger, placed: PlacedReplica, nodes: dict[str, TableNode], taken: Counter[str]
) -> None:
    column = ledger.columns.get(placed.column)
    if column is None or len(column.fragments) != len(placed.nodes):
        ledger.complain(f"placement: {placed} does not match its column")
        return
    for name, fragment in zip(placed.nodes, column.fragments, strict=True):
        node = nodes.get(name)
        if node is None:
            ledger.complain(f"placement: {name} is lost or unknown")
        elif (node.gpu, node.zone) != (fragment.gpu, column.zone):
            ledger.complain(f"placement: {placed.column} does not belong on {name}")
        elif placed.kept is None and name in ledger.table.cordoned_nodes:
            ledger.complain(f"placement: {name} is cordoned and gets a new replica")
        taken[name] += fragment.tp


def _check_moves(ledger: Ledger, previous: Previous) -> None:
    solution, table = ledger.solution, ledger.table
    running = {r.id: r for r in previous.replicas}
    survivors = {i for i, r in running.items() if not set(r.nodes) & table.lost_nodes}
    kept = [p for p in solution.placement if p.kept is not None]
    for placed in kept:
        replica = running.get(placed.kept or "")
        same = (
            replica is not None
            and placed.column in (replica.column, *replica.flips_to)
            and placed.nodes == replica.nodes
        )
        if not same or placed.kept not in survivors:
            ledger.complain(f"placement: {placed.kept} is kept where it did not run or is lost")
    names = {p.kept for p in kept}
    if len(names) != len(kept):
        ledger.complain("placement: a replica is kept twice")
    gone = survivors - {n for n in names if n is not None}
    gpus = {c.id: c.gpus for c in table.columns}
    new = [p.column for p in solution.placement if p.kept is None]
    if table.most_stopped is not None and len(gone) > table.most_stopped:
        ledger.complain(f"moves: stops {len(gone)} and may stop {table.most_stopped}")
    said = (solution.started, solution.stopped, solution.started_gpus, solution.stopped_gpus)
    stopped_gpus = sum(gpus[running[i].column] for i in gone)
    found = (len(new), len(gone), sum(gpus.get(c, 0) for c in new), stopped_gpus)
    if said != found:
        ledger.complain(f"moves: says {said}, is {found}")
