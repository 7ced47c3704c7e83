"""Facts and resources in the planner's words (pure)."""

from motley_operator.translate.claims import with_claims
from motley_operator.translate.translation import translate

__all__ = ["translate", "with_claims"]
