"""Genetic search over partitions of the GPUs into groups, the best layout for each group.

A genome is a set of groups; on a table a group with its layout is a replica of a column (the
layouts that HexGen finds by dynamic programming, hexgen_layout.py, are the table's columns). A child
merges two groups, splits one, or swaps GPUs between groups; fitness is the objective that the best
routing gives, where HexGen simulates SLO attainment.

Source: Jiang et al., "HexGen", ICML 2024, arXiv 2311.11514 (two phases; merge, split, swap). Its
released search keeps a population of 100 over 300 generations of 10 children by tournaments of 3;
the population here is smaller, since each fitness is an LP.
"""

from __future__ import annotations

from random import Random

from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.strategies.finish import finish
from motley_planner.strategies.growth import Growth
from motley_planner.strategies.scorer import Scored, Scorer
from motley_planner.strategies.views import Counts, is_better

POPULATION = 24
CHILDREN = 10
GENERATIONS = 300
PATIENCE = 30  # generations without a better plan, then the search ends
TOURNAMENT = 3
SEED = 123


def solve(table: FleetTable) -> Solution:
    """The fittest plan found."""
    scorer = Scorer(table)
    scorer.relaxed()
    return finish(table, scorer, evolve(scorer))


def evolve(scorer: Scorer) -> Scored | None:
    """The fittest counts after the generations that time and patience allow."""
    growth, random = Growth(scorer, SEED), Random(SEED)
    population: list[Scored] = []
    best = scorer.score(scorer.nothing)
    for _ in range(POPULATION):
        _join(population, scorer, growth.grow(scorer.nothing))
    if best is not None:
        population.append(best)
    waited = 0
    for _ in range(GENERATIONS):
        if scorer.out_of_time or waited >= PATIENCE or not population:
            break
        for _ in range(CHILDREN):
            _join(population, scorer, _child(growth, _winner(population, random).counts))
        population = _fittest(population)
        waited = waited + 1
        if best is None or is_better(population[0].values, best.values):
            best, waited = population[0], 0
    return best


def _join(population: list[Scored], scorer: Scorer, counts: Counts) -> None:
    if scorer.out_of_time:
        return
    found = scorer.score(counts)
    if found is not None and all(found.counts != other.counts for other in population):
        population.append(found)


def _child(growth: Growth, counts: Counts) -> Counts:
    move = growth.random.choice((growth.merge, growth.split, growth.swap, growth.swap))
    child = move(counts)
    if growth.random.random() < 0.3:
        child, _ = growth.drop(child)
    return growth.grow(child) if growth.random.random() < 0.6 else child


def _winner(population: list[Scored], random: Random) -> Scored:
    best = random.choice(population)
    for _ in range(TOURNAMENT - 1):
        other = random.choice(population)
        if is_better(other.values, best.values):
            best = other
    return best


def _fittest(population: list[Scored]) -> list[Scored]:
    return sorted(population, key=lambda s: s.values, reverse=True)[:POPULATION]
