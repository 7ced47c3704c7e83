"""What is counted of a call to the API server, above all of one that is refused."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import generate_latest

from motley_operator.connection import ApiError, Client, Sent
from motley_operator.metrics import Metrics

WHO = 'ser "system:serviceaccount:motley-system:motley"'
FOR_WANT_OF_A_RIGHT = {
    "RBAC": f'pods is forbidden: U{WHO} cannot create resource "pods" in API group "" in the namespace "a"',
    "RBAC, of a name": f'pods "p0" is forbidden: U{WHO} cannot patch resource "pods" in API group ""',
    "a cloud's own words": f'pods is forbidden: U{WHO} cannot create resource "pods": requires pods.create',
    "a Role that grants more than its maker has": (
        f'roles.rbac.authorization.k8s.io "r" is forbidden: u{WHO} (groups=["system:authenticated"]) '
        'is attempting to grant RBAC permissions not currently held:\n{APIGroups:[""], Verbs:["get"]}'
    ),
}
BY_ADMISSION = {
    "Pod Security": 'pods "p0" is forbidden: violates PodSecurity "restricted:latest": privileged',
    "a quota": 'pods "p0" is forbidden: exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1',
    "a namespace that ends": (
        'pods "p0" is forbidden: unable to create new content in namespace a because it is being terminated'
    ),
    "a policy": (
        "pods \"p0\" is forbidden: ValidatingAdmissionPolicy 'own' with binding 'own' denied request: "
        f"U{WHO} cannot do that here"
    ),
    "no words": "",
}
WORDS = {**FOR_WANT_OF_A_RIGHT, **BY_ADMISSION}


def counted(metrics: Metrics) -> list[str]:
    """What there is of refusals for want of a right, as it is scraped."""
    text = generate_latest(metrics.registry).decode()
    return [line for line in text.splitlines() if line.startswith("motley_api_forbidden_total{")]


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS.keys())
async def test_a_refusal_is_counted_apart_where_no_role_allows_the_call(
    api: Any, login: Any, words: str
) -> None:
    metrics = Metrics()
    api.fail_next(403, message=words)
    async with Client(login, metrics.called) as client:
        with pytest.raises(ApiError) as refused:
            await client.send(Sent("create", "pods", "POST", "/api/v1/namespaces/a/pods", body={}))
    lacks = words in FOR_WANT_OF_A_RIGHT.values()
    assert refused.value.lacks_right is lacks
    row = 'motley_api_forbidden_total{resource="pods",verb="create"} 1.0'
    assert counted(metrics) == [row] * lacks
    row = 'motley_api_calls_total{code="403",resource="pods",verb="create"} 1.0'
    assert row in generate_latest(metrics.registry).decode().splitlines()


@pytest.mark.parametrize("optional", [False, True])
async def test_a_watch_is_counted_alike_unless_its_reader_goes_on_without(
    api: Any, login: Any, optional: bool
) -> None:
    metrics = Metrics()
    api.forbidden.add("nodes")
    async with Client(login, metrics.called) as client:
        for verb, params in (("list", {}), ("watch", {"watch": "true"})):
            sent = Sent(verb, "nodes", "GET", "/api/v1/nodes", params, optional=optional)
            with pytest.raises(ApiError):
                if verb == "list":
                    await client.send(sent)
                else:
                    async with client.stream(sent, lambda: 5.0):
                        pytest.fail("a forbidden watch was opened")
    rows = [
        f'motley_api_forbidden_total{{resource="nodes",verb="{verb}"}} 1.0'
        for verb in ("list", "watch")
    ]
    assert counted(metrics) == ([] if optional else rows)


async def test_every_call_is_counted_with_what_came_of_it(api: Any, login: Any) -> None:
    """Each attempt is a call: what was tried again is there twice."""
    metrics = Metrics()
    body = {"metadata": {"name": "p0"}}
    made = Sent("create", "pods", "POST", "/api/v1/namespaces/a/pods", body=body)
    listed = Sent("list", "nodes", "GET", "/api/v1/nodes")
    async with Client(login, metrics.called, attempts=2) as client:
        api.fail_next(503)
        await client.send(made)
        with pytest.raises(ApiError):
            await client.send(made)  # it is there already
        await client.send(listed)
        await client.send(listed)
        since = {"watch": "true", "resourceVersion": "100"}
        watched = Sent("watch", "nodes", "GET", "/api/v1/nodes", since)
        async with client.stream(watched, lambda: 5.0):
            pass
        api.url = "http://127.0.0.1:1"
        client._loaded_at = -1e9
        with pytest.raises(ApiError):
            await client.send(listed)
    rows = {
        (sample.labels["verb"], sample.labels["resource"], sample.labels["code"]): sample.value
        for sample in metrics.calls.collect()[0].samples
        if sample.name == "motley_api_calls_total"
    }
    assert rows == {
        ("create", "pods", "503"): 1,
        ("create", "pods", "201"): 1,
        ("create", "pods", "409"): 1,
        ("list", "nodes", "200"): 2,
        ("watch", "nodes", "200"): 1,
        ("list", "nodes", "0"): 2,
    }
