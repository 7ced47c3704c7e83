"""The parts of the scale bench that need no control plane; the bench itself takes many minutes."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from tests.bench import scale_load, scale_objects
from tests.bench.scale_hands import Lines, calls_in, is_write


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
