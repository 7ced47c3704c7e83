"""The kustomize base is the plain manifest, and the overlay in the documents sets every image."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.cluster import binaries

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "motley"
PAGE = ROOT / "docs" / "image.md"


def kubectl() -> str:
    """A kubectl; skips where there is none."""
    built = binaries.find()
    found = shutil.which("kubectl") or (str(built / "kubectl") if built else None)
    if found is None:
        pytest.skip("needs kubectl on PATH or the programs of e2e/cluster")
    return found


def built(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The objects that kustomize builds, by kind and name."""
    done = subprocess.run(
        [kubectl(), "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return by_name(done.stdout)


def by_name(text: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The documents of a manifest by kind and name, which are unique in it."""
    documents = [d for d in yaml.safe_load_all(text) if d]
    found = {(d["kind"], d["metadata"]["name"]): d for d in documents}
    assert len(found) == len(documents)
    return found


def test_the_base_has_the_objects_of_the_plain_manifest() -> None:
    assert built(CHART) == by_name((CHART / "install.yaml").read_text())


def test_the_overlay_of_the_page_gives_operator_and_gateways_the_same_image(tmp_path: Path) -> None:
    (overlay,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "kustomization.yaml").write_text(overlay)
    shutil.copytree(CHART, tmp_path / "charts" / "motley", symlinks=False)
    pod = built(tmp_path)["Deployment", "motley"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    flags = [a.split("=", 1)[1] for a in container["args"] if a.startswith("--gateway-image=")]
    assert flags[-1] == container["image"] == "registry.example/motley:0.1.0"  # the last one wins


def test_the_chart_gives_operator_and_gateways_the_same_image() -> None:
    objects = by_name((CHART / "install.yaml").read_text())
    (container,) = objects["Deployment", "motley"]["spec"]["template"]["spec"]["containers"]
    assert f"--gateway-image={container['image']}" in container["args"]
