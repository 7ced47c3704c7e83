"""Carries out actions; the only room that writes to the cluster."""

from motley_operator.apply.applying import CONFLICT, DONE, EXISTS, FAILED, Applier, View

__all__ = ["CONFLICT", "DONE", "EXISTS", "FAILED", "Applier", "View"]
