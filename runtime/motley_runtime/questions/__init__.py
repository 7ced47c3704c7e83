"""Endless questions with known answers, made from templates.

Every question is drawn anew, so that no model has seen it, and graded without a judge. Sets of them
calibrate a cascade (`motley calibrate`); single ones are canaries in production.
Source: the manner of AtmosSci-Bench (arXiv 2502.01159); templates and code are our own.
"""

from __future__ import annotations

from collections.abc import Mapping

from motley_runtime.questions.dynamics import DYNAMICS
from motley_runtime.questions.generating import FORMS, Question, document, question_set
from motley_runtime.questions.geophysics import GEOPHYSICS
from motley_runtime.questions.hydrology import HYDROLOGY
from motley_runtime.questions.oceanography import OCEANOGRAPHY
from motley_runtime.questions.physics import PHYSICS
from motley_runtime.questions.template import Template, Variable

FIELDS: Mapping[str, tuple[Template, ...]] = {
    "hydrology": HYDROLOGY,
    "dynamics": DYNAMICS,
    "physics": PHYSICS,
    "geophysics": GEOPHYSICS,
    "oceanography": OCEANOGRAPHY,
}

__all__ = ["FIELDS", "FORMS", "Question", "Template", "Variable", "document", "question_set"]
