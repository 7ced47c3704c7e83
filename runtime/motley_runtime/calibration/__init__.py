"""Asks every stage every question of a set, once, and keeps what came back in a journal."""

from motley_runtime.calibration.asking import Endpoint, Estimating, Pace, Run, ask_all
from motley_runtime.calibration.journal import Answer, Journal
from motley_runtime.calibration.questions import Asked, QuestionError, read_questions

__all__ = [
    "Answer",
    "Asked",
    "Endpoint",
    "Estimating",
    "Journal",
    "Pace",
    "QuestionError",
    "Run",
    "ask_all",
    "read_questions",
]
