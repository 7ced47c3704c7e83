"""Reads: the API server's objects as ClusterFacts."""

from motley_operator.facts.gathering import gather
from motley_operator.facts.store import Store

__all__ = ["Store", "gather"]
