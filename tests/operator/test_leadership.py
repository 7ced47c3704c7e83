"""Leader election against a Lease that is kept as the API server keeps it: never two leaders."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from motley_operator.connection import ApiError, Sent
from motley_operator.leadership import Leadership, LeaseTerms

TERMS = LeaseTerms()


class LeaseServer:
    """One Lease with optimistic locking; `broken` names those that get no answer."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.calls: list[str] = []

    def client(self, broken: Callable[[], bool] = lambda: False) -> Any:
        return _Client(self, broken)

    def answer(self, sent: Sent) -> dict[str, Any]:
        self.calls.append(sent.verb)
        if sent.verb == "get":
            if self.lease is None:
                raise ApiError(404, "NotFound", "no lease", None)
            return copy.deepcopy(self.lease)
        assert sent.body is not None
        given_version = sent.body["metadata"].get("resourceVersion")
        if sent.verb == "create" and self.lease is not None:
            raise ApiError(409, "AlreadyExists", "there is one", None)
        if sent.verb == "update":
            if self.lease is None:
                raise ApiError(404, "NotFound", "no lease", None)
            if given_version != self.lease["metadata"]["resourceVersion"]:
                raise ApiError(409, "Conflict", "older than what is there", None)
        self.version += 1
        self.lease = copy.deepcopy(dict(sent.body))
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.lease)


class _Client:
    def __init__(self, server: LeaseServer, broken: Callable[[], bool]) -> None:
        self.server, self.broken = server, broken

    async def send(self, sent: Sent) -> dict[str, Any]:
        if self.broken():
            raise ApiError(0, "Unreachable", "no route", None)
        return self.server.answer(sent)


class Member:
    """One operator with a clock of its own, which starts anywhere but runs like all others."""

    def __init__(self, server: LeaseServer, name: str, now: list[float], offset: float) -> None:
        self.broken = False
        client = server.client(lambda: self.broken)
        self.part = Leadership(
            client, ("motley-system", "motley"), name, TERMS, lambda: now[0] + offset
        )


def trio(now: list[float]) -> tuple[LeaseServer, list[Member]]:
    server = LeaseServer()
    offsets = (0.0, 1e6, -5e3)
    return server, [Member(server, f"m{i}", now, offset) for i, offset in enumerate(offsets)]


async def test_the_first_leads_and_the_others_wait() -> None:
    now = [100.0]
    _, members = trio(now)
    for member in members:
        await member.part.attempt()
    assert [m.part.may_write() for m in members] == [True, False, False]


async def test_the_next_takes_over_when_the_leader_is_silent_and_not_before() -> None:
    now = [100.0]
    _, (first, second, _) = trio(now)
    await first.part.attempt()
    await second.part.attempt()
    now[0] += TERMS.duration_s - 0.01
    await second.part.attempt()
    assert not second.part.may_write()
    now[0] += 0.02
    await second.part.attempt()
    assert second.part.may_write()
    assert not first.part.may_write()


async def test_a_stopped_leader_that_goes_on_may_not_write() -> None:
    """SIGSTOP for 30 s: the clock went on, and somebody else has the lease."""
    now = [100.0]
    _, (first, second, _) = trio(now)
    await first.part.attempt()
    await second.part.attempt()
    now[0] += 30.0
    assert not first.part.may_write()
    await second.part.attempt()
    await first.part.attempt()
    assert (first.part.may_write(), second.part.may_write()) == (False, True)


async def test_a_note_is_read_by_the_next_leader_and_stays_until_it_writes_its_own() -> None:
    now, notes = [100.0], ["", ""]
    server = LeaseServer()
    place = ("motley-system", "motley")
    first, second = (
        Leadership(server.client(), place, f"m{i}", TERMS, lambda: now[0], lambda i=i: notes[i])
        for i in range(2)
    )
    assert first.note() == ""
    await first.attempt()
    assert "annotations" not in server.lease["metadata"]
    notes[0] = "planned"
    await first.attempt()
    await first.release()
    await second.attempt()
    await second.attempt()
    assert (second.may_write(), second.note()) == (True, "planned")
    notes[1] = "again"
    await second.attempt()
    assert second.note() == "again"


async def test_a_lease_given_back_is_taken_at_once() -> None:
    now = [100.0]
    _, (first, second, _) = trio(now)
    await first.part.attempt()
    await second.part.attempt()
    await first.part.release()
    assert not first.part.may_write()
    await second.part.attempt()
    assert second.part.may_write()


async def test_renewing_is_one_write_and_no_read() -> None:
    now = [100.0]
    server, (first, *_) = trio(now)
    await first.part.attempt()
    server.calls.clear()
    now[0] += 1.0
    await first.part.attempt()
    assert server.calls == ["update"]


async def test_a_lease_that_was_deleted_is_made_again() -> None:
    now = [100.0]
    server, (first, *_) = trio(now)
    await first.part.attempt()
    server.lease = None
    await first.part.attempt()
    now[0] += 1.0
    await first.part.attempt()
    assert first.part.may_write()
    assert server.lease is not None


async def test_transitions_are_counted_as_other_tools_expect_it() -> None:
    now = [100.0]
    server, (first, second, _) = trio(now)
    await first.part.attempt()
    await second.part.attempt()
    now[0] += TERMS.duration_s
    await second.part.attempt()
    assert server.lease is not None
    spec = server.lease["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("m1", 2)
    assert spec["acquireTime"] == spec["renewTime"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("attempt", "break", "mend", "release")),
        st.integers(0, 2),
        st.floats(0.0, 8.0),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(steps=STEPS)
async def test_at_no_moment_may_two_write(steps: list[tuple[str, int, float]]) -> None:
    now = [1000.0]
    _server, members = trio(now)
    for what, who, pause_s in steps:
        now[0] += pause_s
        assert sum(m.part.may_write() for m in members) <= 1
        member = members[who]
        if what == "attempt":
            await member.part.attempt()
        elif what == "release":
            await member.part.release()
        else:
            member.broken = what == "break"
        assert sum(m.part.may_write() for m in members) <= 1
