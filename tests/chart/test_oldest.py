"""What the oldest Kubernetes says of the CRDs and policies: its own libraries, built by e2e/oldest."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from e2e import chart, goprogram
from e2e.cluster import gomodule

pytestmark = pytest.mark.slow  # the first build takes about two minutes

ROOT = Path(__file__).parents[2]
NEWER = "ip('1.1.1.1').family() == 4"  # of 1.31
COSTLY = "".join(f"self.classes.all({name}, " for name in "abcdef") + "a.name != f.name" + 6 * ")"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built program."""
    try:
        return goprogram.build("oldest", tmp_path_factory.mktemp("oldest"))
    except goprogram.GoError as error:
        pytest.skip(str(error))


def shipped(kind: str) -> list[dict[str, Any]]:
    found = chart.shipped(kind)
    assert found
    return list(found)


def said(program: Path, *documents: dict[str, Any]) -> list[str]:
    """What is refused, a line each."""
    done = subprocess.run(
        [program], input=json.dumps(documents), capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    assert bool(done.stdout) == bool(done.returncode)
    return done.stdout.splitlines()


def test_it_is_of_the_version_that_is_stated() -> None:
    text = (ROOT / "e2e" / "oldest" / "go.mod").read_text()
    version = gomodule.MINIMUM.partition(".")[2]
    assert f"k8s.io/apiextensions-apiserver v0.{version}\n" in text
    assert f"k8s.io/apiserver v0.{version}\n" in text


@pytest.mark.parametrize("kind", ["CustomResourceDefinition", "ValidatingAdmissionPolicy"])
def test_what_is_shipped_is_accepted(program: Path, kind: str) -> None:
    assert said(program, *shipped(kind)) == []


@pytest.mark.parametrize(("rule", "words"), [(NEWER, "undeclared reference"), (COSTLY, "cost")])
def test_a_rule_of_a_crd_that_is_newer_or_too_costly_is_refused(
    program: Path, rule: str, words: str
) -> None:
    pools = next(
        d for d in shipped("CustomResourceDefinition") if d["metadata"]["name"][:2] == "se"
    )
    changed = copy.deepcopy(pools)
    spec = changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    workload = spec["properties"]["workload"]
    workload["x-kubernetes-validations"] = [{"rule": rule}]
    assert any(words in line for line in said(program, changed))


def test_an_expression_of_a_policy_that_is_newer_is_refused(program: Path) -> None:
    changed = copy.deepcopy(shipped("ValidatingAdmissionPolicy")[0])
    changed["spec"]["validations"][0]["expression"] = NEWER
    assert any("undeclared reference" in line for line in said(program, changed))


def test_a_field_that_it_lacks_is_named(program: Path) -> None:
    changed = copy.deepcopy(shipped("ValidatingAdmissionPolicy")[0])
    changed["spec"]["inventedSince"] = "1.99"
    assert any("inventedSince" in line for line in said(program, changed))
