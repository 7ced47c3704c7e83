"""The real control plane for the tests of this folder, and the small fleet that faults strike."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e.cluster.nodes import make_nodes
from e2e.fixtures import Cluster, cluster, scenario
from e2e.trial import Trial

__all__ = ["cluster", "fleet", "scenario", "trial"]


@pytest.fixture(scope="module")
def fleet(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Trial]:
    """Five nodes called after the test's file, and an operator."""
    prefix = request.path.stem.removeprefix("test_").replace("_", "-")
    nodes = make_nodes("l4", 5, prefix=f"{prefix}-l4")
    with Trial.begin(cluster, tmp_path_factory.mktemp("operator"), nodes) as trial:
        yield trial


@pytest.fixture
def trial(fleet: Trial) -> Iterator[Trial]:
    """Two pools that are served, and afterwards the judges' verdict."""
    fleet.serve_two()
    yield fleet
    fleet.judge()
