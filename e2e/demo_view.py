"""How the demo talks: a timeline of changes, tables of who sits where, and expectations."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from e2e.demo_picture import Picture, PodView, ResourceView

POLL_S = 0.05
WIDTH = 112


@dataclass(slots=True)
class View:
    """Prints, remembers what it printed, and collects what was expected."""

    began: float = field(default_factory=time.monotonic)
    failures: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    shown: dict[str, str] = field(default_factory=dict)
    color: bool = field(
        default_factory=lambda: sys.stdout.isatty() and "NO_COLOR" not in os.environ
    )

    def title(self, text: str) -> None:
        """A new chapter."""
        print(f"\n{self._bold(f'== {text}')}\n", flush=True)

    def line(self, text: str = "") -> None:
        """One line of text."""
        print(f"  {text}".rstrip(), flush=True)

    def event(self, text: str) -> None:
        """One line of the timeline, with the seconds since the demo began."""
        print(f"  {time.monotonic() - self.began:6.1f} s  {text[:WIDTH]}", flush=True)

    def expect(self, holds: bool, sentence: str) -> None:
        """Says whether something that must hold does; a failure makes the demo end with 1."""
        print(f"  {'ok  ' if holds else self._bold('FAIL')}  {sentence}", flush=True)
        if not holds:
            self.failures.append(sentence)

    def fact(self, what: str, value: str) -> None:
        """Keeps a figure for the summary."""
        self.facts.append((what, value))

    def changes(self, picture: Picture) -> None:
        """Prints what is new in a picture: resources' states and the number of pods."""
        for resource in picture.resources.values():
            self._once(resource.key, _state(resource))
        pods = picture.live().values()
        leaving = len(picture.pods) - len(pods)
        text = f"{sum(pod.ready for pod in pods)} of {len(pods)} pods ready"
        self._once("pods", text + (f", {leaving} leaving" if leaving else ""))

    def _once(self, key: str, text: str) -> None:
        if self.shown.get(key) != text:
            self.shown[key] = text
            self.event(f"{key.rpartition('/')[2]:<14}{text}")

    def _bold(self, text: str) -> str:
        return f"\033[1m{text}\033[0m" if self.color else text


def _state(resource: ResourceView) -> str:
    words = []
    for kind in ("Accepted", "Planned", "Ready"):
        found = resource.conditions.get(kind)
        mark = {"True": "yes", "False": "no"}.get(found.status, "?") if found else "-"
        words.append(f"{kind} {mark}")
    plan = f"  {resource.gpus} ${resource.dollars_per_hour:.2f}/h" if resource.plan_hash else ""
    broken = next(
        (
            f"  {c.reason}"
            for k, c in resource.conditions.items()
            if k != "Ready" and c.status == "False"
        ),
        "",
    )
    return ", ".join(words) + plan + broken


def wait(
    view: View, look: Callable[[], Picture], until: Callable[[Picture], bool], timeout_s: float
) -> tuple[Picture, float | None]:
    """The picture in which the condition holds and the seconds that took; None if it never did."""
    began = time.monotonic()
    while True:
        picture = look()
        view.changes(picture)
        took = time.monotonic() - began
        if until(picture):
            return picture, took
        if took > timeout_s:
            return picture, None
        time.sleep(POLL_S)


def seats(view: View, picture: Picture, gpus: Mapping[str, str]) -> None:
    """Prints who sits where: one row a node, its pods by resource and stage."""
    per_node: dict[str, Counter[str]] = defaultdict(Counter)
    for pod in picture.live().values():
        per_node[pod.node][f"{pod.key.rpartition('/')[2]}/{pod.stage}"] += 1
    width = max((len(name) for name in gpus), default=0)
    for node, what in sorted(gpus.items(), key=lambda item: (item[1], item[0])):
        inside = ", ".join(f"{n} x {who}" for who, n in sorted(per_node[node].items()))
        view.line(f"{node:<{width}}  {what:<26}  {inside or '-'}")


def prices(view: View, picture: Picture) -> None:
    """Prints what each resource runs on and costs."""
    rows = [
        (one.key, one.gpus or "-", f"${one.dollars_per_hour:,.2f}/h")
        for one in picture.resources.values()
    ]
    total = sum(one.dollars_per_hour for one in picture.resources.values())
    rows.append(("all", "", f"${total:,.2f}/h"))
    _table(view, rows)


def compare(view: View, before: Picture, after: Picture) -> None:
    """Prints what moved: replicas gone, replicas come, and where."""
    old, new = before.live(), after.live()
    gone = [pod for uid, pod in old.items() if uid not in new]
    come = [pod for uid, pod in new.items() if uid not in old]
    rows = [("gone", *row) for row in _places(gone)] + [("come", *row) for row in _places(come)]
    stayed = len(old.keys() & new.keys())
    rows.append(("stayed", "", f"{stayed} pods keep their UID and their node", ""))
    _table(view, rows)
    for key, resource in after.resources.items():
        earlier = before.resources.get(key)
        if resource.replan and (earlier is None or earlier.plan_mark != resource.plan_mark):
            reason, message = resource.replan.get("reason", ""), resource.replan.get("message", "")
            view.line(f"why: {resource.name}: {reason}: {message}"[:WIDTH])


def _places(pods: Sequence[PodView]) -> list[tuple[str, str, str]]:
    found = Counter((f"{p.key.rpartition('/')[2]}/{p.stage}", p.node or "unbound") for p in pods)
    return [(who, f"on {node}", f"x {count}") for (who, node), count in sorted(found.items())]


def _table(view: View, rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        view.line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
