"""Demand from counts: what is planned for, and whether a measurement may change it (pure)."""

from motley_operator.demand.settling import Settled, settle

__all__ = ["Settled", "settle"]
