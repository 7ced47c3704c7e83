"""What holds for all tests: none is judged by the seconds that its machine takes."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("motley", deadline=None)  # by default an example has 0.2 s of wall time
settings.load_profile("motley")
