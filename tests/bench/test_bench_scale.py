"""The parts of the scale bench that need no control plane, and a run of its last on a few nodes.

The bench itself takes many minutes.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from tests.bench import scale, scale_load, scale_objects
from tests.bench.scale_failover import FAILOVER_S
from tests.bench.scale_hands import Lines, calls_in, cycles_in, is_write


def test_nodes_are_as_large_as_real_ones_and_a_tenth_is_struck() -> None:
    nodes = scale_objects.node_objects(40)
    assert min(len(json.dumps(node)) for node in nodes) > 14_500
    struck = [n for n in nodes if scale_objects.BURST_LABEL in n["metadata"]["labels"]]
    assert len(struck) == 4
    assert all(len(n["metadata"]["labels"]) >= 60 for n in nodes)


def test_a_slope_is_found_with_its_error() -> None:
    random = Random(1)
    samples = [(5.0 * i, 200.0 + 3.0 * i / 720 + random.gauss(0, 0.2)) for i in range(240)]
    found, error = scale_load.slope(samples)
    assert found == pytest.approx(3.0, abs=3 * error)
    assert error < 0.5


def test_a_share_of_the_values_is_at_most_its_nearest_rank() -> None:
    twelve = [float(i) for i in range(1, 13)]
    assert [scale.nearest_rank(twelve, share) for share in (0.01, 0.5, 0.95)] == [1.0, 6.0, 12.0]
    assert scale.nearest_rank([float(i) for i in range(1, 21)], 0.95) == 19.0


def test_only_whole_new_lines_are_read(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "log")
    assert lines.new() == []
    lines.path.write_text('{"a": 1}\nno json\n{"a"')
    assert lines.new() == [{"a": 1}]
    lines.path.write_text('{"a": 1}\nno json\n{"a": 2}\n')
    assert lines.new() == [{"a": 2}]
    assert lines.new() == []


def test_calls_are_counted_and_the_lease_is_no_write() -> None:
    def record(verb: str, resource: str, subresource: str = "") -> dict[str, object]:
        reference = {"resource": resource, "subresource": subresource}
        return {"verb": verb, "requestURI": "/", "objectRef": reference}

    calls = calls_in([record("update", "leases"), record("patch", "servingpools", "status")])
    assert calls == {"update leases": 1, "patch servingpools/status": 1}
    assert [call for call in calls if is_write(call)] == ["patch servingpools/status"]


def test_cycles_are_read_from_the_log_of_the_operator_that_is_asked_for(tmp_path: Path) -> None:
    for name, messages in (("a", ["cycle: Node", "leads"]), ("b", [])):
        (tmp_path / name).mkdir()
        lines = "".join(json.dumps({"message": each}) + "\n" for each in messages)
        (tmp_path / name / "operator.log").write_text(lines)
    assert [line["message"] for line in cycles_in(tmp_path / "a")] == ["cycle: Node"]
    assert cycles_in(tmp_path / "b") == cycles_in(tmp_path / "nowhere") == []


@pytest.mark.e2e
@pytest.mark.slow
def test_a_standby_plans_within_ten_seconds_of_the_leaders_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sizes = ("--nodes", "12", "--resources", "4", "--pods", "8")
    assert scale.main([*sizes, "--only-failover"]) == 0
    printed = capsys.readouterr().out.splitlines()
    rows = dict(row.rsplit(maxsplit=1) for row in printed if len(row.split()) > 1)
    assert float(rows["leader killed -> the standby's first plan, s"]) < FAILOVER_S
    assert (
        rows["cycles of the standby before"] == rows["pods of other pools that it stopped"] == "0"
    )
