"""The control plane is of the version that was asked for: else `make test-minimum` would say nothing."""

from __future__ import annotations

import os

import pytest
from e2e.cluster import binaries
from e2e.demo_api import Api
from e2e.fixtures import Cluster

pytestmark = pytest.mark.e2e


def test_the_server_is_of_the_version_that_was_asked_for(cluster: Cluster) -> None:
    if os.environ.get("MOTLEY_KUBECONFIG"):
        pytest.skip("MOTLEY_KUBECONFIG chose a cluster of any version")
    api = Api(str(cluster.kubeconfig))
    found = api.request("GET", "/version")
    api.close()
    major, minor, _ = binaries.kubernetes_version().split(".")
    assert found["gitVersion"] == f"v{binaries.kubernetes_version()}"
    assert (found["major"], found["minor"]) == (major, minor)
