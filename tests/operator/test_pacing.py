from __future__ import annotations

from motley_operator.pacing import Pace
from motley_operator.settings import Settings


def test_a_small_fleet_is_paced_by_its_settings() -> None:
    settings = Settings()
    pace = Pace(settings)
    pace.decided(0.1)
    waits = (pace.idle_s, pace.wait_s(0), pace.rest_s)
    assert waits == (settings.idle_window_s, settings.max_wait_s, settings.resync_s)


def test_a_large_fleet_spends_a_fifth_of_a_percent_of_its_rest_on_deciding() -> None:
    pace = Pace(Settings())
    pace.decided(0.25)
    assert pace.rest_s == 125.0


def test_a_burst_may_go_on_for_as_long_as_a_decision_takes() -> None:
    pace = Pace(Settings())
    pace.decided(3.0)
    assert pace.wait_s(0) == 3.0
    pace.decided(0.1)  # nothing was planned: the next plan may take 3 s again
    assert 2.0 < pace.wait_s(0) < 3.0


def test_nodes_that_go_by_the_dozen_are_waited_for() -> None:
    pace = Pace(Settings())
    assert pace.wait_s(19) == Settings().max_wait_s
    assert pace.wait_s(20) == 5.0


def test_no_wait_grows_without_bound() -> None:
    pace = Pace(Settings())
    pace.decided(1000.0)
    assert (pace.idle_s, pace.wait_s(0), pace.rest_s) == (1.0, 5.0, 300.0)
