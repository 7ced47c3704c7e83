"""The strategies by name, each with the paper it comes from; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StrategyInfo:
    """One strategy: its name, where it comes from, what it does, and its module."""

    name: str
    source: str
    summary: str
    module: str


STRATEGIES: tuple[StrategyInfo, ...] = (
    StrategyInfo(
        "exact",
        "Motley",
        "one mixed-integer program for the whole fleet, with bound and gap",
        "exact",
    ),
    StrategyInfo(
        "repair",
        "Motley; what schedulers do after a loss",
        "restarts lost replicas where they fit, largest first, and routes anew",
        "repair",
    ),
    StrategyInfo(
        "homogeneous",
        "baseline of Demystifying Cost-Efficiency, ICML 2025, arXiv 2502.00722",
        "the best fleet of one GPU type, found exactly",
        "homogeneous",
    ),
    StrategyInfo(
        "round-robin",
        "baseline of arXiv 2502.00722",
        "buys configurations in turn and gives each replica an equal share",
        "round_robin",
    ),
    StrategyInfo(
        "cost-efficient",
        "Demystifying Cost-Efficiency in LLM Serving, ICML 2025, arXiv 2502.00722",
        "binary search on the makespan (or budget) with a feasibility MILP",
        "cost_efficient",
    ),
    StrategyInfo(
        "cascadia",
        "Cascadia, ICLR 2026, arXiv 2506.04203",
        "bi-level: sweeps cascade policies around a min-max split of GPUs over models",
        "cascadia",
    ),
    StrategyInfo(
        "hexgen",
        "HexGen, ICML 2024, arXiv 2311.11514",
        "genetic search over groups of GPUs, the best layout for each group",
        "hexgen",
    ),
    StrategyInfo(
        "hexgen2",
        "HexGen-2, ICLR 2025, arXiv 2502.07903",
        "graph partition into prefill and decode, max-flow, flow-guided swaps",
        "hexgen2",
    ),
    StrategyInfo(
        "thunderserve",
        "ThunderServe, MLSys 2025, arXiv 2502.09334",
        "tabu search over groups and phases, two-stage transportation below",
        "thunderserve",
    ),
    StrategyInfo(
        "melange",
        "Melange, 2024, arXiv 2404.14527",
        "cheapest bin packing of sliced demand onto GPU types",
        "melange",
    ),
    StrategyInfo(
        "greedy-regret",
        "llm-d workload-variant-autoscaler (Apache-2.0), its greedy solver's idea",
        "model by model, the one that loses most by waiting first",
        "greedy_regret",
    ),
)
