"""A plan as desired Kubernetes objects: plain dicts, one file a kind (pure)."""

from motley_operator.manifests.build import build

__all__ = ["build"]
