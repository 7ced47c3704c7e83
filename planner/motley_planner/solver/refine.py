"""What a search does with the time that is left: nothing yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from motley_planner.solver.search import Search


def refine(search: Search) -> None:
    """placeholder"""
