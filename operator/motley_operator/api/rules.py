"""Rules over several fields, stated once: emitted as CEL into the CRDs, evaluated in Python.

A rule sits on a model (`ApiModel.rules`) and looks at the document below it, as written plus the
defaults. `cel` is what the API server evaluates; `holds` is the same statement in Python. Families
of rules are built by the functions below, so that the two forms come from the same arguments;
`tests/manifests/wrong.yaml` proves on the real API server that they refuse the same documents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from motley_operator.api.quantities import Duration, Percentage

Document = Mapping[str, Any]

NAME_PATTERN = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
"""DNS-1035 label: what a Service may be called."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One statement about a document, with the sentence that a person reads when it fails.

    `message` names the field and the fix; `field` is where it points, relative to the model;
    `holds` is None for rules over a change (they need the old object, which only the API server has).
    """

    name: str
    field: str
    message: str
    cel: str
    holds: Callable[[Document], bool] | None


def one_member(name: str, members: Mapping[str, str]) -> Rule:
    """A union holds exactly the member that its `type` names. `members`: type value to field."""
    listed = " or ".join(f"`type: {kind}` with `{field}`" for kind, field in members.items())
    cel = " && ".join(f"has(self.{f}) == (self.type == '{k}')" for k, f in members.items())

    def holds(document: Document) -> bool:
        return all((f in document) == (document.get("type") == k) for k, f in members.items())

    return Rule(name, "type", f"{name} holds exactly one member: write {listed}", cel, holds)


def some_of(name: str, fields: Sequence[str], field: str, message: str) -> Rule:
    """At least one of `fields` is given."""
    cel = " || ".join(f"has(self.{f})" for f in fields)
    return Rule(name, field, message, cel, lambda d: any(f in d for f in fields))


def not_above(low: str, high: str, message: str, measure: str = "int") -> Rule:
    """`low <= high` where both are given; `measure`: `int` or `duration`."""
    left, right = (
        (f"duration(self.{low})", f"duration(self.{high})")
        if measure == "duration"
        else (f"self.{low}", f"self.{high}")
    )
    cel = f"!has(self.{low}) || !has(self.{high}) || {left} <= {right}"

    def number(value: Any) -> float:
        return Duration.read(value).seconds if measure == "duration" else float(value)

    def holds(document: Document) -> bool:
        if low not in document or high not in document:
            return True
        return number(document[low]) <= number(document[high])

    return Rule(f"{low} <= {high}", low, message, cel, holds)


def positive(field: str, message: str) -> Rule:
    """A duration is longer than zero where it is given."""

    def holds(document: Document) -> bool:
        return field not in document or Duration.read(document[field]).seconds > 0

    cel = f"!has(self.{field}) || duration(self.{field}) > duration('0s')"
    return Rule(f"{field} > 0", field, message, cel, holds)


def unchanged(path: str, message: str) -> Rule:
    """A field keeps its first value; only the API server can tell."""
    return Rule(f"{path} is fixed", path, message, f"self.{path} == oldSelf.{path}", None)


def short_dns_name(limit: int) -> Rule:
    """The object's name fits into the names of what is built for it."""

    def holds(document: Document) -> bool:
        name = str(document.get("metadata", {}).get("name", ""))
        return len(name) <= limit and re.fullmatch(NAME_PATTERN, name) is not None

    return Rule(
        "name",
        "metadata.name",
        f"metadata.name is at most {limit} lowercase letters, digits and '-', starting with a "
        "letter: shorten or rename it (pods and Services take their names from it)",
        f"size(self.metadata.name) <= {limit} && self.metadata.name.matches('{NAME_PATTERN}')",
        holds,
    )


def shares_fit(items: str, share: str, message: str) -> Rule:
    """The percentages in a list add up to at most 100 %; `share` must have a default."""
    cel = (
        f"!has(self.{items}) || self.{items}"
        f".map(t, double(t.{share}.replace('%', ''))).sum() <= 100.000001"
    )

    def holds(document: Document) -> bool:
        rows = document.get(items) or ()
        total = sum(Percentage.read(row[share]).fraction for row in rows if share in row)
        return total <= 1.00000001

    return Rule(f"sum of {share}", items, message, cel, holds)
