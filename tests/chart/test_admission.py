"""The admission policies of the chart say what the operator says, and give way where an admin allows it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import get_args

import pytest
from e2e.chart import CHART, Document, rendered
from e2e.chart import shipped as objects
from e2e.helm import needs_helm
from tests.isolation.templates import ROWS

from motley_operator.api.podsecurity import (
    CAPABILITIES,
    SELINUX_TYPES,
    SYSCTLS,
    VOLUMES,
    PodPermission,
)

TEMPLATES, PODS = "motley-pod-templates", "motley-pods"


def policies(documents: Iterable[Document]) -> dict[str, Document]:
    """The policies of a rendered chart, by name."""
    return {
        d["metadata"]["name"]: d["spec"]
        for d in documents
        if d["kind"] == "ValidatingAdmissionPolicy"
    }


def expressions(policy: Document) -> list[str]:
    """What the API server evaluates."""
    return [rule["expression"] for rule in policy["validations"]]


def shipped() -> dict[str, Document]:
    """The policies of the plain manifest."""
    return policies(objects())


@pytest.mark.parametrize(
    "known", [CAPABILITIES, SYSCTLS, VOLUMES | {"name", "hostPath"}, SELINUX_TYPES]
)
def test_the_policy_and_the_operator_have_the_same_lists(known: frozenset[str]) -> None:
    written = " ".join(expressions(shipped()[TEMPLATES]))
    lists = [
        set(re.findall(r"'([^']*)'", inside)) for inside in re.findall(r"\[([^\]]*)\]", written)
    ]
    assert known in lists


def test_each_permission_is_one_of_the_rows_and_of_the_charts_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    listed = schema["admission"]["properties"]["allow"]["items"]["enum"]
    assert set(listed) == set(get_args(PodPermission)) == {row.needs for row in ROWS if row.needs}


@needs_helm
@pytest.mark.parametrize("permission", get_args(PodPermission))
def test_a_permission_takes_its_own_checks_out_of_the_policy(permission: str) -> None:
    allowing = policies(rendered(f"--set=admission.allow={{{permission}}}"))
    every, found = expressions(shipped()[TEMPLATES]), expressions(allowing[TEMPLATES])
    gone = [each for each in every if each not in found]
    assert len(gone) == (2 if permission == "SecurityProfiles" else 1)
    assert [each for each in every if each not in gone] == found
    word = {
        "Capabilities": "capabilities.add",
        "Privileged": "privileged",
        "ProcMount": "procMount",
        "SecurityProfiles": "s.se",
        "ServiceAccountToken": "automountServiceAccountToken",
        "Sysctls": "sysctls",
        "VolumeTypes": "persistentVolumeClaim",
    }
    field = word.get(permission, f"{permission[0].lower()}{permission[1:]}")
    assert all(field in each for each in gone)


def test_no_shipped_role_lets_anybody_but_an_admin_write_the_fleet() -> None:
    rules = [rule for role in objects("Role", "ClusterRole") for rule in role["rules"]]
    writes = {verb for rule in rules if "fleets" in rule["resources"] for verb in rule["verbs"]}
    assert writes == {"list", "watch"}
