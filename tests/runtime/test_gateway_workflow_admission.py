"""Admission of workflows at the gateway: what cannot be in time is refused, at its first call only."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_planner.dispatch import Dispatcher, WorkflowRule, parse_routing
from motley_planner.dispatch.workflows import Ended
from motley_runtime.gateway.clients import Client
from motley_runtime.gateway.errors import GatewayError
from motley_runtime.gateway.job import Job
from motley_runtime.gateway.metrics import Metrics
from motley_runtime.gateway.steps import Steps

ON = {"workflows": {"admission": "deadline"}}


def headers(name: str, left_ms: float | None = None, said: str = "", **more: str) -> dict[str, str]:
    told = {"x-motley-workflow-id": name}
    if left_ms is not None:
        told["x-motley-deadline-ms"] = f"{left_ms:.0f}"
    if said:
        told["x-motley-workflow-call"] = said
    return told | {f"x-motley-{key}": value for key, value in more.items()}


def taught(steps: Steps, seconds: float = 10.0, each_s: float = 5.0) -> None:
    """Workflows took `seconds`, and `each_s` more for each that was under way."""
    for index in range(100):
        steps.gate.ended(Ended("", index % 9, seconds + each_s * (index % 9), None, None))


async def decisions(gateway: Any) -> dict[str, float]:
    line = 'motley_gateway_workflow_admissions_total{decision="%s"}'
    names = ("admitted", "refused", "unjudged")
    return {name: await gateway.metric(line % name) for name in names}


async def test_a_workflow_that_cannot_be_in_time_is_refused_before_an_engine_sees_it(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, eventually: Any
) -> None:
    engine = await start_engine("e", delay_s=0.4)
    gateway = await start_gateway(routing_of(("main", [replica_of(engine)]), **ON))
    taught(gateway.gateway.steps)
    one = asyncio.ensure_future(gateway.chat("one", headers=headers("w1", 60_000, "first")))
    await eventually(lambda: len(engine.seen) == 1)
    response = await gateway.chat("two", headers=headers("w2", 12_000, "first"))
    error = (await response.json())["error"]
    assert (response.status, error["code"]) == (429, "workflow_not_admitted")
    assert error["type"] == "rate_limit_error" and "deadline" in error["message"]
    assert 1 <= int(response.headers["retry-after"]) <= 60
    relaxed = await gateway.chat("three", headers=headers("w3", 16_000, "first"))
    assert (relaxed.status, (await one).status) == (200, 200)
    assert [body["messages"][0]["content"] for body in engine.seen] == ["one", "three"]
    assert await decisions(gateway) == {"admitted": 2, "refused": 1, "unjudged": 0}
    assert await gateway.metric('motley_gateway_refused_requests_total{reason="workflow"}') == 1
    assert await gateway.metric("motley_gateway_workflows_at_work") == 0


async def test_nothing_is_refused_unless_it_is_asked_for(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, eventually: Any
) -> None:
    """And a change of the routing takes effect with the next call, both ways."""
    engine = await start_engine("e", delay_s=0.4)
    table = routing_of(("main", [replica_of(engine)]))
    gateway = await start_gateway(table)
    taught(gateway.gateway.steps)
    asked = [asyncio.ensure_future(gateway.chat(headers=headers("a", 60_000, "first")))]
    await eventually(lambda: len(engine.seen) == 1)
    statuses = []
    for number, more in enumerate((ON, {}, ON)):
        assert gateway.offer(table | more | {"plan_hash": f"p{number}"})
        told = headers(f"b{number}", 1_000, "first")
        statuses.append((await gateway.chat(headers=told)).status)
        asked.append(asyncio.ensure_future(gateway.chat(headers=headers("a"))))
        await asyncio.sleep(0.05)
    assert statuses == [429, 200, 429]
    assert {r.status for r in await asyncio.gather(*asked)} == {200}


async def test_calls_that_begin_no_workflow_always_pass(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, eventually: Any
) -> None:
    """Later steps, also of a workflow that another gateway let in; no deadline; no workflow at all."""
    engine = await start_engine("e", delay_s=0.5)
    gateway = await start_gateway(routing_of(("main", [replica_of(engine)]), **ON))
    taught(gateway.gateway.steps)
    one = asyncio.ensure_future(gateway.chat(headers=headers("w1", 60_000, "first")))
    await eventually(lambda: len(engine.seen) == 1)
    for told in (
        headers("w1", 1),
        headers("w1", 1, "first"),
        headers("w2", 1, "later"),
        headers("w3", 1, "last"),
        headers("w4", None, "first"),
        {"x-motley-deadline-ms": "1"},
        {},
    ):
        assert (await gateway.chat(headers=told)).status == 200, told
        if one.done():
            one = asyncio.ensure_future(gateway.chat(headers=headers("w1")))
            await asyncio.sleep(0.05)
    assert (await gateway.chat(headers=headers("w5", 1, "first"))).status == 429
    await one


async def test_without_a_word_the_first_call_is_the_first_seen_where_that_is_sure(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, eventually: Any
) -> None:
    """Not in the first two minutes of a gateway's life, and not beside other gateways."""
    engine = await start_engine("e", delay_s=0.6)
    table = routing_of(("main", [replica_of(engine)]), **ON)
    gateway = await start_gateway(table)
    steps = gateway.gateway.steps
    taught(steps)
    one = asyncio.ensure_future(gateway.chat(headers=headers("w1", 60_000)))
    await eventually(lambda: len(engine.seen) == 1)
    assert (await gateway.chat(headers=headers("w2", 1))).status == 200
    await one
    one = asyncio.ensure_future(gateway.chat(headers=headers("w1", 60_000)))
    await asyncio.sleep(0.05)
    steps.book._unsure_until_s = asyncio.get_running_loop().time()
    assert (await gateway.chat(headers=headers("w3", 1))).status == 429
    assert gateway.offer(table | {"gateways": 2, "plan_hash": "two"})
    assert (await gateway.chat(headers=headers("w4", 1))).status == 200
    assert (await one).status == 200
    found = await decisions(gateway)
    assert (found["refused"], found["unjudged"]) == (1, 3)


async def test_calls_that_a_refused_workflow_sent_at_once_are_refused_with_it(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, eventually: Any
) -> None:
    engine = await start_engine("e", delay_s=0.4)
    gateway = await start_gateway(routing_of(("main", [replica_of(engine)]), **ON))
    taught(gateway.gateway.steps)
    one = asyncio.ensure_future(gateway.chat(headers=headers("w1", 60_000, "first")))
    await eventually(lambda: len(engine.seen) == 1)
    assert (await gateway.chat(headers=headers("w2", 1_000, "first"))).status == 429
    await one
    again = await gateway.chat(headers=headers("w2", 1_000, "first"))
    assert again.status == 429, "nothing is under way, but half of its calls are refused"
    assert int(again.headers["retry-after"]) >= 1
    assert (await decisions(gateway))["refused"] == 1
    assert await gateway.metric('motley_gateway_refused_requests_total{reason="workflow"}') == 2


async def test_a_client_that_leaves_leaves_nothing_behind(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any, eventually: Any
) -> None:
    engine = await start_engine("e", delay_s=30.0)
    gateway = await start_gateway(routing_of(("main", [replica_of(engine)]), **ON))
    book = gateway.gateway.steps.book
    asked = [
        asyncio.ensure_future(gateway.chat(headers=headers(f"w{n}", 60_000, "first")))
        for n in range(5)
    ]
    await eventually(lambda: book.at_work == 5)
    for each in asked:
        each.cancel()
    await asyncio.wait(asked)
    await eventually(lambda: book.at_work == 0)
    assert len(book) == 5, "they may go on"
    book.forget(asyncio.get_running_loop().time() + book.idle_s)
    assert len(book) == 0
    assert await gateway.metric("motley_gateway_workflows_at_work") == 0


async def test_a_word_that_is_none_is_refused(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any
) -> None:
    engine = await start_engine("e")
    gateway = await start_gateway(routing_of(("main", [replica_of(engine)])))
    response = await gateway.chat(headers=headers("w", 1_000, "frist"))
    error = (await response.json())["error"]
    assert (response.status, error["param"]) == (400, "x-motley-workflow-call")
    assert "first, later, last, only" in error["message"]


class _Clock(asyncio.SelectorEventLoop):
    """A loop whose time is set by hand."""

    now_s = 1000.0

    def time(self) -> float:
        return self.now_s


@dataclass
class Rig:
    """What a gateway knows of workflows, called without a socket."""

    steps: Steps
    dispatcher: Dispatcher
    loop: _Clock

    def call(self, name: str, slo_s: float, said: str = "first", priority: int = 0) -> Job | None:
        """A call that is now at work; None where it was refused."""
        job = Job(cast(Any, None), "", self.dispatcher, "all", None, Client("c"), priority)
        job.deadline_s = self.loop.now_s + slo_s
        told = {k.encode(): v.encode() for k, v in headers(name, slo_s * 1000, said).items()}

        async def arrive() -> bool:
            try:
                self.steps.arrived(job, told)
            except GatewayError as error:
                assert error.status == 429 and error.retry_after_s is not None
                return False
            return True

        return job if self.loop.run_until_complete(arrive()) else None

    def end(self, job: Job, is_answered: bool) -> None:
        async def end() -> None:
            self.steps.ended(job, 1.0, is_answered)

        self.loop.run_until_complete(end())


@pytest.fixture(scope="module")
def clock() -> Any:
    loop = _Clock()
    yield loop
    loop.close()


def rig_of(loop: _Clock, gateways: int = 1) -> Rig:
    replica = {"name": "r", "url": "http://r", "rates": {"all": 1.0}, "capacity": {"all": 2.0}}
    document = {
        "version": 1,
        "plan_hash": "h",
        "resource": {"kind": "ServingPool", "namespace": "a", "name": "b"},
        "served_model_names": ["b"],
        "classes": [{"name": "all", "prompt_tokens": 9, "output_tokens": 9}],
        "stages": [{"name": "main", "model": "m", "replicas": [replica]}],
        "gateways": gateways,
        **ON,
    }
    table = parse_routing(document)
    assert table.workflows == WorkflowRule("deadline")
    rig = Rig(Steps(Metrics()), Dispatcher(table), loop)
    taught(rig.steps)
    return rig


events = st.tuples(
    st.integers(0, 11),  # which workflow
    st.sampled_from(["first", "", "later", "last", "only"]),
    st.floats(0.5, 40.0),  # its deadline
    st.integers(-1, 1),
    st.floats(0.0, 70.0) | st.floats(0.0, 3000.0),  # until the next event
    st.integers(0, 3),  # calls that end after it
    st.booleans(),
)


@settings(deadline=None, max_examples=200)
@given(rows=st.lists(events, max_size=60), gateways=st.integers(1, 3))
def test_no_later_step_of_a_workflow_that_was_let_in_is_ever_refused(
    clock: Any, rows: list[Any], gateways: int
) -> None:
    """Whatever happens in between, and all counts come back to zero."""
    clock.now_s = 1000.0
    rig = rig_of(clock, gateways)
    steps, idle_s = rig.steps, rig.steps.book.idle_s
    known_s = idle_s + steps.book.names_s - 1e-6
    at_work: list[Job] = []
    seen_s: dict[str, float] = {}  # when a workflow that was let in was last seen
    for number, said, slo_s, priority, pause_s, ends, is_answered in rows:
        name = f"w{number}"
        is_busy = any(job.step and job.step.workflow == f"c/{name}" for job in at_work)
        is_known = is_busy or clock.now_s - seen_s.get(name, -1e9) < known_s
        job = rig.call(name, slo_s, said, priority)
        if job is None:
            assert not is_known and said not in ("later", "last")
            assert said or (gateways == 1 and clock.now_s >= 1000.0 + idle_s)
        else:
            at_work.append(job)
            seen_s[name] = clock.now_s
        for _ in range(min(ends, len(at_work))):
            ended = at_work.pop(0)
            rig.end(ended, is_answered)
            assert ended.step is not None
            gone = ended.step.workflow not in steps.book  # it said that nothing would follow
            seen_s[ended.step.workflow[2:]] = -1e9 if gone else clock.now_s
        clock.now_s += pause_s
    while at_work:
        rig.end(at_work.pop(), True)
    assert steps.book.at_work == 0
    steps.book.forget(clock.now_s + idle_s + 0.001)
    assert len(steps.book) == 0


@settings(deadline=None, max_examples=100)
@given(
    lower=st.lists(st.integers(-5, 1), max_size=30),
    equal=st.integers(0, 12),
    slo_s=st.floats(1.0, 80.0),
)
def test_nobody_is_refused_for_what_is_under_way_of_lower_priority(
    clock: Any, lower: list[int], equal: int, slo_s: float
) -> None:
    """The decision is the one without them; and who is admitted below is admitted above."""
    clock.now_s = 1000.0
    with_them, without, below = rig_of(clock), rig_of(clock), rig_of(clock)
    for number, priority in enumerate(lower):
        for rig in (with_them, below):
            assert rig.call(f"low{number}", 1e4, priority=priority)
    for number in range(equal):
        for rig in (with_them, without, below):
            assert rig.call(f"same{number}", 1e4, priority=2)
    decided = with_them.call("new", slo_s, priority=2) is not None
    assert decided == (without.call("new", slo_s, priority=2) is not None)
    if below.call("new", slo_s, priority=1) is not None:
        assert decided
