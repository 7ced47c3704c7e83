"""The Fleet object: its spec and catalog, or the defaults where there is none or it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from motley_operator.api import Fleet, FleetSpec, read
from motley_operator.api.ignored import not_acted_on
from motley_operator.api.semantics import semantic_findings
from motley_operator.api.surroundings import Surroundings, with_additions
from motley_operator.translate.parts import refusals_of
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.plan import Refusal
from motley_planner.remembering import Memory, Same

# The same catalog for the same additions: what was listed of it stays listed.
_ADDED: Memory[Catalog] = Memory(1)


@dataclass(frozen=True, slots=True)
class FleetRead:
    """What a Fleet says, the catalog with its own entries, and what is wrong with it."""

    spec: FleetSpec
    catalog: Catalog
    unmet: tuple[Refusal, ...] = ()
    ignored: tuple[str, ...] = ()  # fields that change nothing yet


def read_fleet(document: Mapping[str, Any] | None, catalog: Catalog) -> FleetRead:
    """The Fleet as it counts.

    One that breaks the schema counts as absent; entries that mean nothing are left out.
    """
    if document is None:
        return FleetRead(FleetSpec(), catalog)
    fleet, findings = read(document)
    if not isinstance(fleet, Fleet):
        return FleetRead(FleetSpec(), catalog, refusals_of(findings))
    unmet = refusals_of(semantic_findings(fleet, Surroundings(catalog)))
    added = Same(catalog), fleet.spec.catalog
    spec = fleet.spec
    catalog = _ADDED.get("", added, lambda: with_additions(catalog, spec)[0])
    return FleetRead(fleet.spec, catalog, unmet, not_acted_on(fleet))
