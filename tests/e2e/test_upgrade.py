"""An upgrade from an earlier commit to this one, with its CRDs and roles, moves no pod of an engine.

The earlier operator is taken out of git: MOTLEY_PREVIOUS names a commit or tag; without it the newest tag,
or, before there is one, what the main line was STEPS commits ago.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from e2e import demo_operator
from e2e.cluster import processes
from e2e.cluster.nodes import demo_nodes
from e2e.cluster.scenario import Scenario
from e2e.demo_picture import OURS, Picture
from e2e.fixtures import Cluster
from e2e.motley import Installation

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
STEPS = 30
ROOMS = ("operator", "planner", "runtime", "crds", "charts", "examples")
CALM_S = 10.0
DEPLOYMENTS = "/apis/apps/v1/deployments"


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


def earlier() -> str:
    """The commit to upgrade from."""
    chosen = os.environ.get("MOTLEY_PREVIOUS")
    if chosen:
        return chosen
    try:
        tags = git("tag", "--merged", "HEAD~1", "--sort=-creatordate").decode().split()
        return tags[0] if tags else git("rev-parse", f"HEAD~{STEPS}").decode().strip()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no history: a checkout with at least one earlier release is needed")


@pytest.fixture
def previous(tmp_path: Path) -> Path:
    """The earlier commit's code, in a folder of its own."""
    commit = earlier()
    print(f"from {commit}")
    with tarfile.open(fileobj=io.BytesIO(git("archive", commit, *ROOMS))) as archive:
        archive.extractall(tmp_path / "previous", filter="data")
    return tmp_path / "previous"


@contextmanager
def code_of(root: Path) -> Iterator[None]:
    """Processes that are started meanwhile run that code."""
    before = os.environ.get("PYTHONPATH")
    rooms = (str(root / room) for room in ("planner", "operator", "runtime"))
    os.environ["PYTHONPATH"] = os.pathsep.join(rooms)
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def engines(picture: Picture) -> dict[str, str]:
    """Node of each live engine pod, by UID."""
    return {uid: pod.node for uid, pod in picture.live().items()}


def install(installed: Installation, root: Path) -> None:
    """That release's CRDs, and its roles for the operator's account."""
    for path in sorted((root / "crds").glob("*.yaml")):
        installed.api.apply(yaml.safe_load(path.read_text()))
    demo_operator.install_rbac(installed.api, files=root / "charts" / "motley" / "files")


class Gateways:
    """How many gateways were available, at the least, of each Deployment, over some seconds."""

    def __init__(self, installed: Installation) -> None:
        self.installed = installed
        self.least: dict[str, int] = {}

    def watch(self, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            found = self.installed.api.request("GET", f"{DEPLOYMENTS}?labelSelector={OURS}")
            for one in found["items"]:
                name, now = one["metadata"]["name"], one["status"].get("availableReplicas", 0)
                self.least[name] = min(now, self.least.get(name, now))
            time.sleep(0.1)


def test_an_upgrade_moves_no_engine_and_every_gateway_answers_on(
    cluster: Cluster, tmp_path: Path, previous: Path
) -> None:
    hands = Scenario(cluster.kubeconfig, cluster.local)
    installed = Installation.install(cluster.kubeconfig, tmp_path)
    try:
        install(installed, previous)
        hands.add_nodes(demo_nodes())
        with code_of(previous):
            installed.start()
        installed.apply_examples()
        before = engines(installed.settle(120.0))
        assert before
        assert installed.process is not None
        processes.stop(installed.process, grace_s=10.0)
        install(installed, ROOT)
        gateways = Gateways(installed)
        installed.start()
        gateways.watch(CALM_S)
        after = installed.settle(120.0)
        assert engines(after) == before
        assert processes.is_alive(installed.process)
        assert all(one.is_true("Ready") for one in after.resources.values())
        assert gateways.least and min(gateways.least.values()) >= 1, gateways.least
    finally:
        install(installed, ROOT)
        installed.stop()
        hands.close()
