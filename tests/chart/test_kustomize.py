"""The kustomize base is the plain manifest, and the overlay in the documents sets every image."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from e2e.chart import CHART, Document, documents, shipped
from e2e.cluster import binaries

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "image.md"


def kubectl() -> str:
    """A kubectl; skips where there is none."""
    built = binaries.find()
    found = shutil.which("kubectl") or (str(built / "kubectl") if built else None)
    if found is None:
        pytest.skip("needs kubectl on PATH or the programs of e2e/cluster")
    return found


def built(folder: Path) -> dict[tuple[str, str], Document]:
    """The objects that kustomize builds, by kind and name."""
    done = subprocess.run(
        [kubectl(), "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return by_name(documents(done.stdout))


def by_name(objects: tuple[Document, ...]) -> dict[tuple[str, str], Document]:
    """The objects of a manifest by kind and name, which are unique in it."""
    found = {(d["kind"], d["metadata"]["name"]): d for d in objects}
    assert len(found) == len(objects)
    return found


def test_the_base_has_the_objects_of_the_plain_manifest() -> None:
    assert built(CHART) == by_name(shipped())


def test_the_overlay_of_the_page_gives_operator_and_gateways_the_same_image(tmp_path: Path) -> None:
    (overlay,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "kustomization.yaml").write_text(overlay)
    shutil.copytree(CHART, tmp_path / "charts" / "motley", symlinks=False)
    pod = built(tmp_path)["Deployment", "motley"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    flags = [a.split("=", 1)[1] for a in container["args"] if a.startswith("--gateway-image=")]
    assert flags[-1] == container["image"] == "registry.example/motley:0.1.0"  # the last one wins


def test_the_chart_gives_operator_and_gateways_the_same_image() -> None:
    objects = by_name(shipped())
    (container,) = objects["Deployment", "motley"]["spec"]["template"]["spec"]["containers"]
    assert f"--gateway-image={container['image']}" in container["args"]
