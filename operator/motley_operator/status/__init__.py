"""What resources are told: conditions, the plan in groups, events (pure)."""

from motley_operator.status.refused import Pods
from motley_operator.status.reporting import statuses

__all__ = ["Pods", "statuses"]
