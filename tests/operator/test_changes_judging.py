"""Who goes, at what cost: nothing is looked at once for each resource that there is."""

from __future__ import annotations

import pytest

from motley_operator.changes import changing, judging, turns
from motley_operator.testing.operated import Operated, load
from motley_operator.testing.samples import pool

POOLS = 8


def test_a_desired_pod_is_looked_at_no_more_often_where_there_are_more_resources(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thousands of pods of hundreds of resources were two million looks a decision (0021)."""
    operated = Operated(nodes=POOLS)
    keys = [operated.world.add(pool(name=f"p{i}", workload=load(1))) for i in range(POOLS)]
    operated.run()
    pods = operated.world.engine_pods()
    assert {key for key in keys if operated.uids(key)} == set(keys)

    looks: list[object] = []
    real = turns.stage_of

    def counted(manifest: changing.Manifest) -> turns.Stage:
        looks.append(manifest)
        return real(manifest)

    monkeypatch.setattr(judging, "stage_of", counted)
    operated.cycle()
    assert 0 < len(looks) <= 3 * len(pods)
