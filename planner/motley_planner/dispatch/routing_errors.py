"""The error of a routing document, apart so that every part of the parser can raise it."""

from __future__ import annotations

from motley_planner.errors import PlannerError


class RoutingError(PlannerError):
    """A routing document that no gateway may run: `field` says where, `rule` what it breaks."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}")
        self.field, self.rule = field, rule
