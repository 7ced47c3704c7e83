"""A plan as desired Kubernetes objects: plain dicts, one file a kind (pure)."""

from motley_operator.manifests.build import build
from motley_operator.manifests.plans import plan_config_maps

__all__ = ["build", "plan_config_maps"]
