"""Desired against observed: what to do now, in order (pure)."""

from motley_operator.changes.changing import changes

__all__ = ["changes"]
