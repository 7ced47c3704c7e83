"""What the operator asked of the API server, and what it was refused, by the audit log.

The operator runs under the chart's roles in every test of tests/e2e, on an API server that enforces
permissions on owner references (which some distributions do): an owner that blocked its deletion would be
refused, for no role lets the operator write finalizers. So whatever it asks for is granted, and what is
granted and never asked for is too much.

    python -m e2e.rights FOLDER    what all sessions that wrote there left unused; 1 if there is any
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from e2e.demo_operator import ACCOUNT, CHART_FILES, NAMESPACE

ALWAYS = ("rules-cluster.yaml", "rules-namespace.yaml", "rules-events.yaml", "rules-leader.yaml")
OPTIONAL = ("rules-namespaced.yaml", "rules-network.yaml", "rules-provisioning.yaml")
Right = tuple[str, str, str]  # group, resource or resource/subresource, verb
Place = tuple[Right, str]  # and the namespace


# What the API server looks up on the way, and no request shows; tests/e2e/test_leftovers.py takes each
# of them away and is refused.
LOOKED_UP: frozenset[Right] = frozenset(
    {
        ("", "configmaps", "get"),  # what a gateway's Role grants
        ("motley.dev", "pods", "make"),  # of the admission policy of pods
    }
)


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


def is_operator(user: str) -> bool:
    """Whether a user is an operator's account, of whichever class."""
    return user.startswith(user_of(""))


def user_of(account: str) -> str:
    """What the API server calls an operator's service account."""
    return f"system:serviceaccount:{NAMESPACE}:{account}"


USER = user_of(ACCOUNT)


def asked(log: Path, user: str | None = USER) -> Asked:
    """What the log says of an operator, or of all; a last line still being written is left out."""
    with log.open("rb") as handle:
        lines = handle.read().split(b"\n")[:-1]
    text = (user or user_of("")).encode()
    return of_events((json.loads(line) for line in lines if text in line), user)


def of_events(events: Iterable[Mapping[str, Any]], user: str | None = USER) -> Asked:
    """The same of parsed audit events; no `user`: of every operator's account."""
    found = Asked()
    for event in events:
        reference, who = event.get("objectRef"), event["user"]["username"]
        if (who != user if user is not None else not is_operator(who)) or reference is None:
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

    The rights that operators used are written into the folder MOTLEY_RIGHTS, if that is set.
    """
    found = asked(log)
    folder = os.environ.get("MOTLEY_RIGHTS")
    if folder:
        used = asked(log, user=None).used
        target = Path(folder) / f"{os.getpid()}.txt"
        target.write_text("".join(f"{' '.join(one)}\n" for one in sorted(used)))
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


def unused(used: Iterable[Right]) -> list[Right]:
    """What the chart grants and nobody asked for."""
    return sorted(granted(*ALWAYS, *OPTIONAL) - LOOKED_UP - set(used))


def main() -> int:
    """Judge what a run of all tests wrote."""
    parser = argparse.ArgumentParser(prog="python -m e2e.rights", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what MOTLEY_RIGHTS named")
    files = sorted(parser.parse_args().folder.glob("*.txt"))
    if not files:
        print("no session on a control plane of its own ended: rights are not judged")
        return 0
    lines = [line for file in files for line in file.read_text().splitlines()]
    rows = (line.split(" ") for line in lines)
    left = unused((group, resource, verb) for group, resource, verb in rows)
    for right in left:
        print(f"granted and never used: {' '.join(right).strip()}")
    total = len(granted(*ALWAYS, *OPTIONAL))
    print(f"{total - len(left)} of {total} rights used, in {len(files)} sessions")
    return 1 if left else 0


def _is_refused(event: Mapping[str, Any]) -> bool:
    """For want of a right: by RBAC, or for an owner whose finalizers may not be set."""
    if event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid":
        return True
    return "blockOwnerDeletion" in (event.get("responseStatus") or {}).get("message", "")


if __name__ == "__main__":
    sys.exit(main())
