"""From outcomes to thresholds: fitted estimators, a floor held with confidence, or a refusal.

Pure: tables in, choices out. `motley calibrate` asks the engines and calls this room.
"""

from motley_planner.calibrating.deferral import Deferral, deferral_of
from motley_planner.calibrating.estimating import Sample, fit, fitted_scores
from motley_planner.calibrating.judging import Verdict, judge
from motley_planner.calibrating.outcomes import read_outcomes
from motley_planner.calibrating.tables import table_text
from motley_planner.calibrating.thresholds import Choice, Rule, choose

__all__ = [
    "Choice",
    "Deferral",
    "Rule",
    "Sample",
    "Verdict",
    "choose",
    "deferral_of",
    "fit",
    "fitted_scores",
    "judge",
    "read_outcomes",
    "table_text",
]
