"""Checked parts of resources in the planner's words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from motley_operator.api.common import Placement
from motley_operator.api.findings import Finding
from motley_operator.api.models import ModelRef
from motley_operator.api.parts import gpu_names, model_of
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.models import ModelSpec
from motley_planner.domain.plan import Refusal


def refusals_of(findings: Iterable[Finding]) -> tuple[Refusal, ...]:
    """Findings as refusals: the sentence already says what would lift it."""
    return tuple(Refusal(f.reason, f.field, f.message, lift="") for f in findings)


def model_spec(ref: ModelRef, catalog: Catalog) -> ModelSpec:
    """The architecture that a checked reference names."""
    model = model_of(ref, catalog)
    assert isinstance(model, ModelSpec), f"{ref.id} was not checked"
    return model


def gpu_ids(placement: Placement, catalog: Catalog) -> frozenset[str]:
    """Catalog ids of the products that a checked placement allows; empty means all."""
    return gpu_names(placement.gpu_products, catalog) or frozenset()


def pod_tolerations(template: Mapping[str, Any] | None) -> tuple[Mapping[str, str], ...]:
    """Tolerations that a pod template adds."""
    spec = (template or {}).get("spec")
    found = spec.get("tolerations") if isinstance(spec, Mapping) else None
    return tuple(t for t in found or () if isinstance(t, Mapping))
