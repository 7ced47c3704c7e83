"""A resource that lost its status keeps its pods, wherever they stand; one that was edited does not."""

from __future__ import annotations

from motley_operator import translate
from motley_operator.domain.names import INPUTS_HASH
from motley_operator.testing import gpu_node, pool
from motley_operator.testing.operated import CATALOG, SETTINGS, Operated, load
from motley_operator.unreported import built_as_asked

CHEAP = "NVIDIA-L40S"


def on_the_dear_node(gpus: int = 2, **spec: object) -> tuple[Operated, str]:
    """A pool that serves where it would not be planned afresh: its cheap node went and came back."""
    operated = Operated(0)
    operated.world.add_node(gpu_node("dear", gpus=gpus), gpu_node("cheap", product=CHEAP, gpus=2))
    key = operated.world.add(pool(**spec))
    operated.run()
    cheap = operated.world.nodes["cheap"]
    operated.world.lose_node("cheap")
    operated.run()
    operated.world.add_node(cheap)
    operated.run()  # it cools down, for a lost replica was replaced
    assert operated.nodes(key) == ["dear"]
    return operated, key


def restored(operated: Operated, key: str, lost: object) -> None:
    """The operator starts anew, and the resource has this status, as a backup restores it."""
    document = operated.world.documents[key]
    document.pop("status")
    if lost:
        document["status"] = lost
    operated.restart()
    operated.run()


def test_pods_stay_where_they_would_not_be_planned_afresh() -> None:
    operated, key = on_the_dear_node()
    before = operated.uids(key)
    restored(operated, key, None)
    assert operated.uids(key) == before
    restored(operated, key, {"observedGeneration": -1})  # as the API server fills it in
    assert operated.uids(key) == before


def test_what_was_edited_meanwhile_is_rebuilt() -> None:
    operated, key = on_the_dear_node()
    before = operated.uids(key)
    operated.edit(key, model={"id": "Qwen/Qwen2.5-7B-Instruct"})
    restored(operated, key, None)
    assert not operated.uids(key) & before
    assert operated.nodes(key) == ["cheap"]


def test_a_rate_that_was_raised_meanwhile_is_served_beside_what_runs() -> None:
    operated, key = on_the_dear_node()
    before = operated.uids(key)
    operated.edit(key, workload=load(40))
    restored(operated, key, None)
    assert operated.uids(key) > before
    assert operated.condition(key, "Planned")[0] == "True"


def test_only_pods_that_are_there_and_fit_speak_for_a_resource() -> None:
    operated, key = on_the_dear_node()
    new = operated.world.add(pool("new"))

    def found() -> frozenset[str]:
        facts = operated.world.facts()
        return built_as_asked(translate.translate(facts, CATALOG, SETTINGS), facts)

    assert found() == frozenset()  # one has a status, the other no pod
    operated.world.documents[key].pop("status")
    assert found() == {key}
    (pod,) = operated.world.engine_pods(key)
    operated.world.change_pods(
        where={"motley.dev/replica": pod.labels["motley.dev/replica"]},
        annotations={**pod.annotations, INPUTS_HASH: "another"},
    )
    assert found() == frozenset()
    assert new not in found()
