"""What strategies share: packing without a solver, scores of counts, plans of counts, moves."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from motley_planner.checker import check
from motley_planner.checker.best_rates import Rates
from motley_planner.domain.table import FleetTable
from motley_planner.errors import SnapshotError
from motley_planner.strategies.finish import plan_counts
from motley_planner.strategies.growth import Growth, gpus_by_type
from motley_planner.strategies.scorer import Scorer
from motley_planner.strategies.stock import Stock, plus
from motley_planner.strategies.views import from_scratch, is_better, only_columns
from motley_planner.testing.corpus import after_a_loss, mixed_pool, split_phases
from motley_planner.testing.oracle import fits
from motley_planner.testing.tables import tiny_table


def bare_tables(first: int, last: int) -> list[FleetTable]:
    """Tiny tables as if nothing ran, without prices of nodes in use."""
    found = []
    for seed in range(first, last):
        table = from_scratch(tiny_table(seed))
        nodes = tuple(replace(n, price_usd_per_hour=None) for n in table.nodes)
        found.append(replace(table, nodes=nodes))
    return found


def random_counts(random: Random, table: FleetTable) -> tuple[int, ...]:
    return tuple(random.choice((0, 0, 1, 1, 2, 3)) for _ in table.columns)


def may_run(table: FleetTable, counts: tuple[int, ...]) -> bool:
    """Placed by search, paid and allowed, without the code under test."""
    columns = list(zip(table.columns, counts, strict=True))
    if any(c.max_count is not None and n > c.max_count for c, n in columns):
        return False
    price = sum(n * c.price_usd_per_hour for c, n in columns)
    if table.budget_usd_per_hour is not None and price > table.budget_usd_per_hour + 1e-9:
        return False
    number = {c.id: n for c, n in columns}
    for row in table.side_rows:
        amount = sum(v * number[c] for c, v in row.per_replica.items())
        if row.at_most is not None and amount > row.at_most + 1e-9:
            return False
    wanted = sorted(
        (f.gpu, c.zone, f.tp) for c, n in columns for f in c.fragments for _ in range(n)
    )
    bins = sorted((g.gpu, g.zone, g.gpus) for g in table.nodes for _ in range(g.count or 0))
    return fits(tuple(wanted), tuple(bins))


def test_stock_says_what_fits_as_a_search_for_a_packing_does() -> None:
    random, seen = Random(0), {True: 0, False: 0}
    for table in bare_tables(0, 60):
        stock = Stock(table)
        for _ in range(6):
            counts = random_counts(random, table)
            assert stock.fits(counts) == may_run(table, counts)
            seen[stock.fits(counts)] += 1
    assert min(seen.values()) > 40


def test_one_more_fits_exactly_where_there_is_room_for_one() -> None:
    random = Random(1)
    for table in bare_tables(0, 60):
        stock = Stock(table)
        counts = stock.trimmed(random_counts(random, table))
        assert stock.fits(counts)
        mask = stock.fitting(counts)
        for i in range(len(counts)):
            room = stock.most_more(counts, i)
            assert (room > 0) == mask[i] == stock.fits(plus(counts, i))
            if 0 < room < 1000:
                assert stock.fits(plus(counts, i, room))
                assert not stock.fits(plus(counts, i, room + 1))


def test_trimming_leaves_counts_that_fit_alone() -> None:
    for table in bare_tables(0, 20):
        stock = Stock(table)
        counts = stock.trimmed((9,) * len(table.columns))
        assert stock.trimmed(counts) == counts


def test_the_score_of_counts_is_the_best_service_that_an_independent_lp_finds() -> None:
    random, compared = Random(2), 0
    for table in bare_tables(100, 115):
        table = replace(table, objective="goodput", penalty_per_started_gpu=0.0, side_rows=())
        table = replace(table, cascades=tuple(replace(c, mixture=True) for c in table.cascades))
        scorer, rates = Scorer(table), Rates(table)
        for _ in range(3):
            counts = scorer.stock.trimmed(random_counts(random, table))
            scored, best = scorer.score(counts), rates.best(counts)
            assert scored is not None and best is not None
            assert scored.values[:-1] == pytest.approx(best, abs=1e-6)
            price = sum(
                n * c.price_usd_per_hour for n, c in zip(counts, table.columns, strict=True)
            )
            assert scored.values[-1] == pytest.approx(-price)
            compared += sum(counts) > 0
    assert compared > 5


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_placed_beside_what_runs_and_keep_what_they_can(seed: int) -> None:
    table = after_a_loss(seed, "goodput", 1)
    assert table.previous is not None
    lost = {r.id for r in table.previous.replicas if set(r.nodes) & table.lost_nodes}
    survivors = [r for r in table.previous.replicas if r.id not in lost]
    counts = tuple(sum(r.column == c.id for r in survivors) for c in table.columns)
    plan = plan_counts(table, counts, 5.0)
    assert plan is not None and check(table, plan) == ()
    assert (plan.started, plan.stopped) == (0, 0)
    fewer = tuple(n // 2 for n in counts)
    plan = plan_counts(table, fewer, 5.0)
    assert plan is not None and check(table, plan) == ()
    assert (plan.started, plan.stopped) == (0, sum(counts) - sum(fewer))


def test_counts_above_a_columns_limit_have_no_plan() -> None:
    table = mixed_pool(0, "goodput", 1)
    capped = replace(table, columns=tuple(replace(c, max_count=1) for c in table.columns))
    two = (2,) + (0,) * (len(table.columns) - 1)
    assert plan_counts(capped, two, 1.0) is None
    assert plan_counts(table, two, 1.0) is not None


def test_moves_keep_to_the_gpus_they_free() -> None:
    scorer = Scorer(split_phases(0, "max_min"))
    growth = Growth(scorer, 3)
    columns = scorer.table.columns
    counts = growth.grow(scorer.nothing)
    assert scorer.stock.fits(counts) and sum(counts) > 3

    def used(numbers: tuple[int, ...]) -> dict[tuple[str, str], int]:
        total: dict[tuple[str, str], int] = {}
        for n, c in zip(numbers, columns, strict=True):
            for key, gpus in gpus_by_type(c).items():
                total[key] = total.get(key, 0) + n * gpus
        return total

    for _ in range(40):
        before = used(counts)
        for move in (growth.merge, growth.split, growth.flip, growth.thin):
            after = used(move(counts))
            assert all(after[key] <= before[key] for key in before), move.__name__
    flipped = {growth.flip(counts) for _ in range(20)} - {counts}
    assert flipped and all(sum(f) == sum(counts) and used(f) == used(counts) for f in flipped)


def test_growing_ends_where_all_demand_is_covered_unless_the_scale_is_open() -> None:
    cheap = Scorer(mixed_pool(0, "min_cost", 2))
    counts = Growth(cheap, 0).grow(cheap.nothing)
    assert cheap.score(counts) is not None
    assert any(cheap.stock.fitting(counts))
    open_end = Scorer(mixed_pool(0, "max_min", 2))
    assert not any(open_end.stock.fitting(Growth(open_end, 0).grow(open_end.nothing)))


def test_a_narrowed_table_keeps_running_columns_at_zero() -> None:
    table = after_a_loss(0, "goodput", 1)
    assert table.previous is not None
    running = {r.column for r in table.previous.replicas}
    kept = next(c.id for c in table.columns if c.id not in running)
    narrowed = only_columns(table, {kept})
    assert {c.id for c in narrowed.columns} == running | {kept}
    assert all(c.max_count == 0 for c in narrowed.columns if c.id in running)


def test_better_looks_at_the_first_difference_and_none_is_worst() -> None:
    assert is_better((1.0, -5.0), (1.0, -6.0))
    assert not is_better((1.0, -6.0), (1.0 - 1e-12, -5.0))
    assert is_better((0.9,), None) and not is_better(None, (0.1,)) and not is_better(None, None)


def test_a_scorer_refuses_max_min_without_demand() -> None:
    table = mixed_pool(0, "max_min", 1)
    idle = tuple(replace(c, requests_per_second=0.0) for c in table.classes)
    with pytest.raises(SnapshotError, match="positive rate"):
        Scorer(replace(table, classes=idle))
