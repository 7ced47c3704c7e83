"""The real control plane for the tests of this folder."""

from __future__ import annotations

from e2e.fixtures import cluster, scenario

__all__ = ["cluster", "scenario"]
