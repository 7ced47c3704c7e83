"""Reads: the API server's objects as ClusterFacts.

The store comes with an HTTP client that costs a quarter of a second to import; whoever only parses
documents (`motley plan` on files) does not pay for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from motley_operator.facts.gathering import gather
    from motley_operator.facts.prometheus import Measurer
    from motley_operator.facts.store import Store

__all__ = ["Measurer", "Store", "gather"]


def __getattr__(name: str) -> Any:
    if name == "gather":
        from motley_operator.facts.gathering import gather

        return gather
    if name == "Store":
        from motley_operator.facts.store import Store

        return Store
    if name == "Measurer":
        from motley_operator.facts.prometheus import Measurer

        return Measurer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
