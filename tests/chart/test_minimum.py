"""The oldest Kubernetes that is stated: in one version everywhere, and with all that expressions call.

That Motley works there is what `make test-minimum` tries, on a control plane of that version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.chart import shipped
from e2e.cluster import binaries, gomodule
from e2e.cluster.binaries import BinariesError

ROOT = Path(__file__).parents[2]
MINIMUM = tuple(int(n) for n in gomodule.MINIMUM.split(".")[:2])
UPSTREAM = """module k8s.io/kubernetes

go 1.22.0

require k8s.io/api v0.0.0

replace (
\tk8s.io/api => ./staging/src/k8s.io/api
\tk8s.io/kubelet => ./staging/src/k8s.io/kubelet
)
"""
# The minor of Kubernetes 1 since which the API server's CEL has it (documentation of CEL in Kubernetes:
# "CEL options, language features, and libraries"); macros and functions of the language are of 23, when
# custom resources first had rules.
SINCE = {
    **dict.fromkeys(("has", "all", "filter", "map", "size", "matches", "startsWith"), 23),
    **dict.fromkeys(("duration", "double", "sum", "replace"), 25),
    **dict.fromkeys(("group", "resource", "namespace", "name", "check", "allowed"), 27),
}


def expressions(document: Any) -> Iterator[str]:
    """Every CEL expression of a CRD or an admission policy."""
    if isinstance(document, dict):
        for key, value in document.items():
            if key in ("rule", "expression", "messageExpression") and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(document, list):
        for each in document:
            yield from expressions(each)


@pytest.mark.parametrize("kind", ["CustomResourceDefinition", "ValidatingAdmissionPolicy"])
def test_expressions_call_only_what_the_oldest_server_has(kind: str) -> None:
    found = [text for document in shipped(kind) for text in expressions(document)]
    assert found
    bare = (re.sub(r"'(\\.|[^'\\])*'", "''", text) for text in found)  # without its strings
    called = {name for text in bare for name in re.findall(r"\b([A-Za-z]\w*)\(", text)}
    assert called - SINCE.keys() == set(), "say in SINCE which Kubernetes has it first"
    assert {name for name in called if (1, SINCE[name]) > MINIMUM} == set()


def test_the_oldest_kubernetes_is_one_version_wherever_it_is_stated() -> None:
    stated = ".".join(map(str, MINIMUM))
    chart = yaml.safe_load((ROOT / "charts" / "motley" / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">={stated}.0-0"
    for page in ("README.md", "docs/reference/kubernetes.md", "docs/guides/admission.md"):
        text = (ROOT / page).read_text()
        versions = set(re.findall(r"Kubernetes (1\.\d+)(?:\.\d+)? or newer", text))
        assert versions == {stated}, page
    assert gomodule.MINIMUM in (ROOT / "docs/reference/kubernetes.md").read_text()


def test_another_version_is_built_of_the_releases_that_go_with_it() -> None:
    text = gomodule.text_of("1.30.14", UPSTREAM, ("k8s.io/kubernetes/cmd/kubectl",))
    assert "require k8s.io/kubernetes v1.30.14\n" in text
    assert (
        "\tk8s.io/api => k8s.io/api v0.30.14\n\tk8s.io/kubelet => k8s.io/kubelet v0.30.14\n" in text
    )
    assert "godebug default=go1.22\n" in text
    assert "\tk8s.io/kubernetes/cmd/kubectl\n" in text


def test_the_version_is_chosen_by_a_variable_and_has_a_folder_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MOTLEY_KUBERNETES", raising=False)
    pinned = binaries.version_key()
    assert binaries.kubernetes_version() == binaries.pinned_version()
    keys = {pinned}
    for chosen in ("minimum", "v1.31.14"):
        monkeypatch.setenv("MOTLEY_KUBERNETES", chosen)
        keys.add(binaries.version_key())
    assert binaries.kubernetes_version() == "1.31.14"
    assert len(keys) == 3
    monkeypatch.setenv("MOTLEY_KUBERNETES", binaries.pinned_version())
    assert binaries.version_key() == pinned
    for wrong in ("1.30", "2.0.0", "1.30.14-rc.0", "latest"):
        monkeypatch.setenv("MOTLEY_KUBERNETES", wrong)
        with pytest.raises(BinariesError, match="write one such as"):
            binaries.kubernetes_version()


def test_a_real_node_is_of_the_pinned_version_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTLEY_KUBERNETES", "minimum")
    with pytest.raises(BinariesError, match=binaries.pinned_version()):
        binaries.ensure(binaries.NODE_PROGRAMS)


def test_karpenter_is_built_once_whatever_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    for chosen in ("", "minimum", "1.31.14"):
        monkeypatch.setenv("MOTLEY_KUBERNETES", chosen)
        keys.add(binaries.version_key(binaries.KARPENTER_PROGRAMS))
    (key,) = keys
    assert key.startswith(f"karpenter-{binaries.required('karpenter', 'sigs.k8s.io/karpenter')}-")
