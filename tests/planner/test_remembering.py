from __future__ import annotations

from motley_planner.remembering import Memory, Same


def test_what_was_made_from_the_same_is_made_once() -> None:
    memory, made = Memory[list[int]](4), []

    def make() -> list[int]:
        made.append(1)
        return [len(made)]

    first = memory.get("a", (1, 2), make)
    assert memory.get("a", (1, 2), make) is first
    assert memory.get("a", (1, 3), make) == [2]
    assert memory.get("a", (1, 2), make) == [3]  # only the latest of a place is kept


def test_the_places_that_were_asked_for_longest_ago_go_first() -> None:
    memory = Memory[str](2)
    for place in "abac":
        memory.get(place, 0, lambda place=place: place)
    assert memory.get("a", 0, lambda: "new") == "a"
    assert memory.get("b", 0, lambda: "new") == "new"


def test_equal_documents_are_not_the_same() -> None:
    one, other = {"a": 1}, {"a": 1}
    assert Same(one) == Same(one)
    assert hash(Same(one)) == hash(Same(one))
    assert Same(one) != Same(other)


def test_places_that_are_not_wanted_are_dropped() -> None:
    memory = Memory[str](4)
    for place in "abc":
        memory.get(place, 0, lambda place=place: place)
    memory.keep("ac".__contains__)
    assert len(memory) == 2
    assert memory.get("b", 0, lambda: "new") == "new"
