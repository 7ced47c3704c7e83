"""Records of plans: what is written reads back, what was changed is noticed, and they stay small."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley_operator.domain.standing import (
    Record,
    bare,
    read_record,
    recorded_spec,
    seal,
    sealed,
    written,
)
from motley_operator.testing import replica, slice_of
from motley_planner.domain.fragments import ReplicaFragment
from motley_planner.domain.plan import PolicyChoice, Refusal

KEY = "ServingPool/team-a/chat"


def record(count: int = 3) -> Record:
    pipeline = (ReplicaFragment("H100-SXM5-80GB", 2, 40), ReplicaFragment("L40S", 1, 40))
    replicas = [replica(ordinal=i, nodes=(f"h{i}",), kept=None) for i in range(count)]
    replicas.append(replica(column="ffffffff", nodes=("h0", "l0"), pipeline=pipeline))
    policies = (PolicyChoice("p", 1.0, {"small": 0.5}, {"small": 1.0, "large": 0.2}),)
    part = slice_of(KEY, replicas, policies=policies)
    return sealed(Record(part, {"model": {"id": "x"}}, "2026-11-21T12:00:00Z"))


def test_a_record_reads_back_as_it_was_written_and_keeps_its_seal() -> None:
    found = read_record(written(record()))
    assert found == record()
    assert found is not None and seal(found) == found.hash


@given(st.data())
def test_every_change_of_a_record_breaks_its_seal(data: st.DataObject) -> None:
    text = written(record())
    at = data.draw(st.integers(0, len(text) - 1))
    char = data.draw(st.sampled_from("0123456789abcdefxyz"))
    changed = text[:at] + char + text[at + 1 :]
    found = read_record(changed)
    if found is not None and found != record():
        # What counts is that it passes for the record whose hash the status tells.
        assert not (found.hash == record().hash == seal(found))


def test_the_same_plan_proposed_later_has_another_hash() -> None:
    later = replace(record(), made_at="2026-11-21T12:00:01Z")
    assert seal(later) != record().hash


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"kinds": [], "replicas": [[1]]}'])
def test_what_is_no_record_is_none(text: str | None) -> None:
    assert read_record(text) is None


def test_what_is_told_about_the_moment_is_not_recorded() -> None:
    running = replica(name="another", kept=f"{KEY}/main-0a1b2c3d-7")
    part = slice_of(KEY, [running], [Refusal("Held", "f", "m", "l")])
    found = bare(replace(part, blocked=True))
    assert [(r.name, r.kept) for r in found.replicas] == [("main-0a1b2c3d-7", None)]
    assert (found.refusals, found.blocked) == ((), False)


def test_the_mode_is_no_part_of_the_recorded_spec_and_the_headroom_is() -> None:
    def spec(**replan: str) -> dict[str, object]:
        return recorded_spec({"spec": {"model": {"id": "x"}, "replan": replan}})

    assert spec(mode="Preview", cooldown="1h") == spec(mode="Auto") == spec()
    assert spec(headroom="30%") != spec()


def test_two_records_of_4000_replicas_fit_into_a_config_map() -> None:
    assert 2 * len(written(record(4000))) < 2**20
    assert read_record(written(record(4000))) is not None
    assert len(json.loads(written(record(4000)))["kinds"]) == 2
