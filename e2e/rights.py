"""What the operator asked of the API server, and what it was refused, by the audit log.

The operator runs under the chart's roles in every test of tests/e2e, on an API server that enforces
permissions on owner references (which some distributions do). So whatever it asks for is granted, and
what is granted and never asked for is too much.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from e2e.demo_operator import ACCOUNT, CHART_FILES, NAMESPACE

ALWAYS = ("rules-cluster.yaml", "rules-namespace.yaml", "rules-leader.yaml")
Right = tuple[str, str, str]  # group, resource or resource/subresource, verb
Place = tuple[Right, str]  # and the namespace


@dataclass(slots=True)
class Asked:
    """Rights that were used, where, and requests that were refused for want of one."""

    used: set[Right] = field(default_factory=set)
    granted: set[Place] = field(default_factory=set)
    refusals: list[tuple[Place, str]] = field(default_factory=list)

    @property
    def refused(self) -> list[str]:
        """What was refused and never granted there: an API server that starts has read no roles yet."""
        return [text for place, text in self.refusals if place not in self.granted]


def user_of(account: str) -> str:
    """What the API server calls an operator's service account."""
    return f"system:serviceaccount:{NAMESPACE}:{account}"


USER = user_of(ACCOUNT)


def asked(log: Path, user: str = USER) -> Asked:
    """What the log says of an operator; a last line that is still being written is left out."""
    with log.open("rb") as handle:
        lines = handle.read().split(b"\n")[:-1]
    return of_events((json.loads(line) for line in lines if user.encode() in line), user)


def of_events(events: Iterable[Mapping[str, Any]], user: str = USER) -> Asked:
    """The same of parsed audit events."""
    found = Asked()
    for event in events:
        reference = event.get("objectRef")
        if event["user"]["username"] != user or reference is None:
            continue
        resource = "/".join(filter(None, (reference["resource"], reference.get("subresource"))))
        right = (reference.get("apiGroup", ""), resource, event["verb"])
        place = (right, reference.get("namespace", ""))
        if _is_refused(event):
            text = f"{' '.join(right)}: {event['responseStatus'].get('message')}"
            found.refusals.append((place, text))
        else:
            found.used.add(right)
            found.granted.add(place)
            if event["verb"] == "patch" and event["responseStatus"].get("code") == 201:
                found.used.add((*right[:2], "create"))  # an apply that made it asks for both
    return found


def assert_kept(log: Path) -> None:
    """Raises AssertionError where the operator was refused anything.

    The rights that it used are written to the file MOTLEY_RIGHTS, if that is set.
    """
    found = asked(log)
    target = os.environ.get("MOTLEY_RIGHTS")
    if target:
        Path(target).write_text("\n".join(sorted(" ".join(one) for one in found.used)) + "\n")
    assert not found.refused, found.refused[:20]


def granted(*files: str) -> set[Right]:
    """The rights in files of the chart."""
    return {
        (group, resource, verb)
        for name in files
        for rule in yaml.safe_load((CHART_FILES / name).read_text())
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def _is_refused(event: Mapping[str, Any]) -> bool:
    """For want of a right: by RBAC, or for an owner whose finalizers may not be set."""
    if event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid":
        return True
    return "blockOwnerDeletion" in (event.get("responseStatus") or {}).get("message", "")
