"""Desired against observed: what to do now, in order (pure)."""

from motley_operator.changes.changing import changes
from motley_operator.changes.judging import Trouble
from motley_operator.changes.trials import refused, tried

__all__ = ["Trouble", "changes", "refused", "tried"]
