"""Facts and resources in the planner's words (pure)."""

from motley_operator.translate.claims import with_claims
from motley_operator.translate.demand import has_drifted
from motley_operator.translate.translation import translate

__all__ = ["has_drifted", "translate", "with_claims"]
