"""Frozen values that every room of the planner shares; no formulas live here."""
