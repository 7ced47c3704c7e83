"""The pytest fixtures of every test that needs a real control plane.

A folder's conftest.py takes them with `from e2e.fixtures import cluster, scenario`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e import rights
from e2e.cluster.binaries import BinariesError
from e2e.cluster.local import LocalCluster
from e2e.cluster.nodes import Node
from e2e.cluster.scenario import Scenario
from e2e.cluster.state import load
from e2e.demo_api import Refused
from e2e.motley import Installation


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster to test on; `local` is None where MOTLEY_KUBECONFIG chose one."""

    kubeconfig: Path
    local: LocalCluster | None


@pytest.fixture(scope="session")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """The session's cluster: MOTLEY_KUBECONFIG's, else one started here and ended after.

    At the end of a session here the operator must have been refused nothing under the chart's roles.
    Logs of a session in which something failed are kept in its temporary directory.
    """
    chosen = os.environ.get("MOTLEY_KUBECONFIG")
    if chosen:
        # One that `python -m e2e.cluster up` keeps running lies beside its state.
        kept = LocalCluster(Path(chosen).parent)
        yield Cluster(Path(chosen), kept if load(kept.directory) else None)
        return
    local = LocalCluster(tmp_path_factory.mktemp("cluster") / "state")
    try:
        local.up()
    except BinariesError as error:
        pytest.skip(f"no control plane: {error}")
    try:
        yield Cluster(local.kubeconfig, local)
        rights.assert_kept(local.audit_log)
    finally:
        if request.session.testsfailed:
            local.keep_logs(tmp_path_factory.mktemp("logs"))
        local.down()


@pytest.fixture
def scenario(cluster: Cluster) -> Iterator[Scenario]:
    """One test's hands on the session's cluster; what it did is undone after."""
    hands = Scenario(cluster.kubeconfig, cluster.local)
    try:
        yield hands
    finally:
        hands.close()


@contextmanager
def installation(
    cluster: Cluster, folder: Path, nodes: Iterable[Node] = (), namespace: str = ""
) -> Iterator[Installation]:
    """An installed operator, not started yet, with nodes and a namespace; all of it is taken away after."""
    hands = Scenario(cluster.kubeconfig, cluster.local)
    made = Installation.install(cluster.kubeconfig, folder)
    try:
        hands.add_nodes(nodes)
        if namespace:
            space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
            made.api.apply(space)
        yield made
    finally:
        if namespace:
            with suppress(Refused):
                made.api.delete("Namespace", "", namespace)
        made.stop()
        hands.close()
