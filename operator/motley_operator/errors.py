"""Every exception the operator can raise; `cycle.py` alone turns them into conditions and waits."""

from __future__ import annotations

from motley_planner.errors import MotleyError


class OperatorError(MotleyError):
    """Something the operator cannot go on with."""


class SpecError(OperatorError):
    """A person must edit the resource: reason (enumerated), field path, and the fix in words."""

    def __init__(self, reason: str, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.reason, self.field, self.message = reason, field, message


class FactsIncomplete(OperatorError):
    """The view of the cluster is not whole yet: wait, and keep the plan."""


class ApplyConflict(OperatorError):
    """The world moved between gathering and applying: the next cycle decides again."""
