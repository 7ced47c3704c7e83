"""Desired against observed: what to do now, in order (pure)."""

from motley_operator.changes.changing import changes
from motley_operator.changes.judging import Trouble

__all__ = ["Trouble", "changes"]
