"""What holds for all tests: none is judged by the seconds that its machine takes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from motley_planner.solver.clock import CLOCK

settings.register_profile("motley", deadline=None)  # by default an example has 0.2 s of wall time
settings.load_profile("motley")


@pytest.fixture
def cpu_seconds() -> Iterator[None]:
    """Searches in this process have as much time on a busy machine as on an idle one."""
    CLOCK.count_cpu_seconds()
    yield
    CLOCK.count_wall_seconds()
