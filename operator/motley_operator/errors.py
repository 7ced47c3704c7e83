"""Every exception the operator can raise; `cycle.py` alone turns them into conditions and waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from motley_planner.errors import MotleyError


class OperatorError(MotleyError):
    """Something the operator cannot go on with."""


class SpecError(OperatorError):
    """A person must edit the resource: reason (enumerated), field path, and the fix in words."""

    def __init__(self, reason: str, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.reason, self.field, self.message = reason, field, message


class ResourceFailed(OperatorError):
    """Motley failed on one resource in a way that nobody thought of: it is set aside, others go on."""

    def __init__(self, key: str, error: Exception) -> None:
        super().__init__(f"{key}: {type(error).__name__}: {error}")
        self.key, self.error = key, error


class FactsIncomplete(OperatorError):
    """The view of the cluster is not whole yet: wait, and keep the plan."""


class ApplyConflict(OperatorError):
    """The world moved between gathering and applying: the next cycle decides again."""


@contextmanager
def about(key: str) -> Iterator[None]:
    """What is done here for one resource.

    Raises: ResourceFailed in place of any error that is not Motley's own.
    """
    try:
        yield
    except MotleyError:
        raise
    except Exception as error:
        raise ResourceFailed(key, error) from error
