"""A plan that is being made can be called off by whoever asked for it, and ends at once.

    with unless(something_happened):
        plan(snapshot)             raises CalledOff soon after something_happened() is true

The question is asked before each solve and, while a worker searches, many times a second, always in the
thread that plans; it is no argument because everything between the front door and the
worker would only hand it on. What is called off leaves no process and nothing remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from motley_planner.errors import CalledOff

_called_off: ContextVar[Callable[[], bool] | None] = ContextVar("called_off", default=None)


@contextmanager
def unless(called_off: Callable[[], bool]) -> Iterator[None]:
    """What is planned inside is given up once `called_off()` is true.

    Raises: CalledOff, out of the planner.
    """
    token = _called_off.set(called_off)
    try:
        yield
    finally:
        _called_off.reset(token)


def can_be_called_off() -> bool:
    """Whether somebody has to be asked while this thread waits."""
    return _called_off.get() is not None


def go_on() -> None:
    """Nothing, while the plan is still wanted.

    Raises: CalledOff.
    """
    called_off = _called_off.get()
    if called_off is not None and called_off():
        raise CalledOff
