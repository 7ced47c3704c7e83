"""The chart on the real API server: installed, edited, uninstalled and installed anew, by helm.

Without helm the rendered manifest is applied by kubectl instead, as clusters without helm do it.
kwok's nodes run the pods, so what is judged is what the API server, admission and controllers say.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e import helm
from e2e.cluster import binaries
from e2e.cluster.local import wait_for
from e2e.cluster.nodes import make_nodes
from e2e.cluster.scenario import Scenario
from e2e.demo_api import Api
from e2e.fixtures import Cluster
from e2e.helm import needs_helm

pytestmark = pytest.mark.e2e

CHART = Path(__file__).parents[2] / "charts" / "motley"
RELEASE = "charted"  # cluster roles called motley are those of the other tests
CLUSTER_WIDE = [
    (kind, start)
    for kind in (
        "ValidatingAdmissionPolicyBinding",
        "ValidatingAdmissionPolicy",
        "ClusterRoleBinding",
        "ClusterRole",
    )
    for start in (RELEASE, "motley")
]
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def ran(*argv: str, given: str = "") -> str:
    """What a command prints, with this on its standard input; it must succeed."""
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=120, input=given
    )
    assert done.returncode == 0, f"{argv}: {done.stderr}{done.stdout}"
    return done.stdout


@dataclass(frozen=True, slots=True)
class Place:
    """A cluster with the CRDs and a node, and a namespace where only restricted pods may run."""

    api: Api
    kubeconfig: str
    space: str

    def kubectl(self, *arguments: str) -> str:
        return ran(*self._kubectl(), "-n", self.space, *arguments)

    def apply(self, *arguments: str, given: str = "") -> str:
        """Server-side apply; the objects say their namespaces themselves."""
        return ran(*self._kubectl(), "apply", "--server-side", *arguments, given=given)

    def _kubectl(self) -> tuple[str, str]:
        folder = binaries.find()
        program = str(folder / "kubectl") if folder else "kubectl"
        return program, f"--kubeconfig={self.kubeconfig}"

    def helm(self, *arguments: str) -> str:
        at = (f"--kubeconfig={self.kubeconfig}", "--namespace", self.space)
        done = helm.run(*arguments, *at)
        assert done.returncode == 0, f"{arguments}: {done.stderr}{done.stdout}"
        return done.stdout

    def available(self, name: str) -> None:
        """Waits until a Deployment is: its pods were admitted, scheduled and run."""
        self.kubectl("rollout", "status", "deployment", name, "--timeout=60s")

    def refuses_pods(self, name: str, words: str) -> None:
        """Waits until a Deployment says, in these words, that its pods are not admitted."""

        def is_said() -> bool:
            found = json.loads(self.kubectl("get", "deployment", name, "-o", "json"))
            told = [c["message"] for c in found["status"]["conditions"]]
            return any(words in message for message in told)

        wait_for(is_said, 60.0, f"{name} to say {words!r}")

    def await_without(self, crds: list[str]) -> None:
        """Waits until these are gone; says what stands in the way of those that stay."""
        left: dict[str, Any] = {}

        def are_gone() -> bool:
            found = [self.api.get("CustomResourceDefinition", "", name) for name in crds]
            left.clear()
            left.update((c["metadata"]["name"], c["status"]["conditions"]) for c in found if c)
            return not left

        try:
            wait_for(are_gone, 180.0, "the CRDs to be gone")
        except TimeoutError as error:
            raise AssertionError(f"{error}: {json.dumps(left)}") from error

    def objects(self) -> dict[tuple[str, str], Any]:
        """What there is of the chart in the namespace."""
        kinds = (
            "deployments,services,serviceaccounts,roles,rolebindings,poddisruptionbudgets,"
            "resourcequotas"
        )
        items = json.loads(self.kubectl("get", kinds, "-o", "json"))["items"]
        return {(i["kind"], i["metadata"]["name"]): i for i in items}


def generated() -> list[Any]:
    """The CRDs of this checkout."""
    paths = sorted((CHART.parents[1] / "crds").glob("*.yaml"))
    return [yaml.safe_load(path.read_text()) for path in paths]


@pytest.fixture
def place(cluster: Cluster, scenario: Scenario) -> Iterator[Place]:
    """Taken away again, with all that the chart makes for the whole cluster."""
    scenario.add_nodes(make_nodes("l4", 1, prefix="chart"))
    hands = Api(str(cluster.kubeconfig))
    for crd in generated():
        hands.apply(crd)
    space = scenario.namespace("chart")
    hands.patch("Namespace", "", space, {"metadata": {"labels": RESTRICTED}})
    yield Place(hands, str(cluster.kubeconfig), space)
    for kind, start in CLUSTER_WIDE:  # a policy that stayed would refuse the pods of later tests
        for found in hands.list(kind):
            if found["metadata"]["name"].startswith(start):
                hands.delete(kind, "", found["metadata"]["name"])
    for kind in ("RoleBinding", "Role"):
        for start in (RELEASE, "motley"):
            hands.delete(kind, "default", f"{start}-events")
    hands.close()


@needs_helm
def test_helm_installs_edits_and_uninstalls_and_the_crds_stay(place: Place) -> None:
    # The CRDs are there already, as after an installation that was taken away.
    owned = ("--set", "crds.install=false", "--set", "replicas=2")
    place.helm("install", RELEASE, str(CHART), *owned)
    place.available(RELEASE)
    first = place.objects()
    assert first["Deployment", RELEASE]["status"]["availableReplicas"] == 2
    place.helm("upgrade", RELEASE, str(CHART), *owned, "--set", "operator.logLevel=debug")
    place.available(RELEASE)
    second = place.objects()
    assert second.keys() == first.keys()
    (container,) = second["Deployment", RELEASE]["spec"]["template"]["spec"]["containers"]
    assert "--log-level=debug" in container["args"]
    assert all(second[at]["metadata"]["uid"] == first[at]["metadata"]["uid"] for at in first)
    # The API server limits this class, as GKE's does: without the quota no pod is admitted any more.
    assert ("ResourceQuota", f"{RELEASE}-system-cluster-critical") in first
    place.helm("upgrade", RELEASE, str(CHART), *owned, "--set", "priorityClassQuota=false")
    place.kubectl("delete", "pods", "--all")
    place.refuses_pods(RELEASE, "insufficient quota to match these scopes")
    place.helm("uninstall", RELEASE, "--wait")
    assert ("Deployment", RELEASE) not in place.objects()
    assert place.api.get("CustomResourceDefinition", "", "servingpools.motley.dev") is not None


@needs_helm
def test_the_crds_that_helm_installed_are_upgraded_by_what_motley_prints(place: Place) -> None:
    names = [crd["metadata"]["name"] for crd in generated()]
    place.kubectl("delete", "crd", *names, "--wait=false")  # the other tests' are not helm's
    place.await_without(names)
    place.helm("install", RELEASE, str(CHART))
    place.available(RELEASE)
    for name in names:
        place.kubectl("wait", "crd", name, "--for=condition=Established", "--timeout=30s")
    printed = ran(sys.executable, "-m", "motley_operator.cli.main", "crds")
    said = place.apply("-f", "-", given=printed)  # the same version: two own what is equal
    assert said.count("serverside-applied") == len(names) == 4
    # A later version differs, and what differs is helm's until it is taken over.
    newer = printed.replace("Catalog GPU id or product label.", "Another description.")
    assert newer != printed
    with pytest.raises(AssertionError, match="conflict"):
        place.apply("-f", "-", given=newer)
    place.apply("--force-conflicts", "-f", "-", given=newer)
    place.helm(
        "upgrade", RELEASE, str(CHART), "--set", "crds.install=false"
    )  # not helm's any longer
    fleets = place.api.get("CustomResourceDefinition", "", "fleets.motley.dev")
    assert "Another description." in json.dumps(fleets)
    place.helm("uninstall", RELEASE, "--wait")
    assert place.api.get("CustomResourceDefinition", "", "fleets.motley.dev") is not None
    place.apply("--force-conflicts", "-f", "-", given=printed)


def test_the_rendered_manifest_is_applied_by_the_server_and_runs_restricted(
    place: Place, tmp_path: Path
) -> None:
    documents = [d for d in yaml.safe_load_all((CHART / "install.yaml").read_text()) if d]
    moved = yaml.safe_dump_all(documents).replace("motley-system", place.space)
    elsewhere = [d for d in yaml.safe_load_all(moved) if d["kind"] != "Namespace"]
    path = tmp_path / "install.yaml"
    path.write_text(yaml.safe_dump_all(elsewhere))
    for _ in range(2):  # twice: applying what is there changes nothing
        place.apply("--force-conflicts", "-f", str(path))
    place.available("motley")
    (pod,) = (p for p in place.api.list("Pod") if p["metadata"]["namespace"] == place.space)
    assert pod["status"]["phase"] == "Running"
