"""Whether an answer is right, or at least in form: checks that need no judge.

The calibration grades with them, and the gateway runs them as validators.
"""

from motley_runtime.checks.checking import CheckError, Grader, parse_check
from motley_runtime.checks.commands import CommandLimits

__all__ = ["CheckError", "CommandLimits", "Grader", "parse_check"]
