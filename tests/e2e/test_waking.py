"""Scale to zero and back on the real API server, under the chart's roles and the gateway's own.

Operator and gateway are real and find each other through the API server alone. The engine is a
stub: kwok's pods listen nowhere, so the routing's addresses are replaced by the stub's.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import aiohttp
import pytest
from aiohttp import web
from e2e.cluster.nodes import demo_nodes
from e2e.cluster.scenario import Scenario
from e2e.demo_api import Api
from e2e.fixtures import Cluster
from e2e.live_story import account_of
from e2e.motley import Installation

from motley_runtime.gateway.app import Gateway
from motley_runtime.gateway.options import GatewaySettings
from motley_runtime.gateway.routing_configmap import ApiServer, follow_configmap
from motley_runtime.gateway.server import GatewayServer, serving, uvicorn_config
from motley_runtime.gateway.wake_configmap import WakeConfigMap

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SPACE, NAME = "team-a", "sleeper"
T = TypeVar("T")
ENGINES = "motley.dev/resource=sleeper,app.kubernetes.io/component=serve"


def sleeper() -> dict[str, Any]:
    """A pool that is planned for nothing until somebody asks."""
    workload = {
        "requestsPerSecond": 0,
        "maxRequestsPerSecond": 50,
        "demand": "Measured",
        "classes": [{"name": "all", "promptTokens": 800, "outputTokens": 200}],
    }
    return {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "ServingPool",
        "metadata": {"name": NAME, "namespace": SPACE},
        "spec": {"model": {"id": "Qwen/Qwen3-8B"}, "workload": workload},
    }


def wake_of(api: Api) -> Any:
    """The ConfigMap on which a gateway says that it holds requests."""
    return api.get("ConfigMap", SPACE, f"{NAME}-wake")


@pytest.fixture(scope="module")
def installed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An operator, and a pool that it plans nothing for."""
    hands = Scenario(cluster.kubeconfig, cluster.local)
    made = Installation.install(cluster.kubeconfig, tmp_path_factory.mktemp("operator"))
    try:
        hands.add_nodes(demo_nodes())
        made.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}})
        made.apply([sleeper()])
        made.start()
        made.wait(lambda: wake_of(made.api) is not None, 30.0, "the pool's objects are there")
        yield made
    finally:
        made.stop()
        hands.close()


@pytest.fixture(scope="module")
def account(installed: Installation, cluster: Cluster, tmp_path_factory: Any) -> ApiServer:
    """The API server as the gateway's own service account sees it."""
    pod = {"metadata": {"namespace": SPACE}, "spec": {"serviceAccountName": f"{NAME}-gateway"}}
    folder = account_of(pod, cluster.kubeconfig, tmp_path_factory.mktemp("account"))
    return ApiServer(installed.api.server, folder / "token", folder / "ca.crt")


def engine_pods(api: Api) -> list[Any]:
    return api.list("Pod", labelSelector=ENGINES)


def run(work: Coroutine[Any, Any, T]) -> T:
    """What it gives; connections that it closed last have a moment to go before their loop does."""

    async def whole() -> T:
        given = await work
        await asyncio.sleep(0.1)
        return given

    return asyncio.run(whole())


async def served(account: ApiServer, api: Api) -> tuple[int, float]:
    """Status of a request to a gateway of the sleeping pool, and seconds until a pod was there."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"choices": [{"message": {"content": "awake"}}]})

    async def well(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    app.router.add_get("/health", well)
    runner = web.AppRunner(app)
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listening).start()
    engine = f"http://127.0.0.1:{listening.getsockname()[1]}"

    gateway = Gateway(GatewaySettings(host="127.0.0.1", port=0))
    gateway.waking.tell = WakeConfigMap(account).tell
    offered = gateway.live.offer

    def offer(raw: bytes) -> bool:
        document = json.loads(raw)
        for stage in document["stages"]:
            stage["replicas"] = [each | {"url": engine} for each in stage["replicas"]]
        return offered(json.dumps(document).encode())

    gateway.live.offer = offer  # type: ignore[method-assign]
    server = GatewayServer(gateway, uvicorn_config(gateway))
    door = socket.create_server(("127.0.0.1", 0))
    following = follow_configmap(account, SPACE, f"{NAME}-routing", gateway.live)
    async with serving(server, following), aiohttp.ClientSession() as http:
        task = asyncio.create_task(server.serve_on(door))
        while gateway.live.current is None:
            await asyncio.sleep(0.05)
        began, url = time.monotonic(), f"http://127.0.0.1:{door.getsockname()[1]}"
        body = {"model": NAME, "messages": [{"role": "user", "content": "anybody there?"}]}
        asking = asyncio.create_task(http.post(f"{url}/v1/chat/completions", json=body))
        while not await asyncio.to_thread(engine_pods, api):
            assert time.monotonic() - began < 30.0, "the operator was not woken"
            await asyncio.sleep(0.05)
        woken_s = time.monotonic() - began
        async with await asyncio.wait_for(asking, 30) as response:
            status = response.status
        server.should_exit = True
        await task
    await runner.cleanup()
    return status, woken_s


def test_the_gateways_account_may_say_that_it_holds_requests_and_nothing_else(
    installed: Installation, account: ApiServer
) -> None:
    async def patched(name: str) -> int:
        body = json.dumps({"data": {"x": "y"}})
        headers = account.headers() | {"content-type": "application/merge-patch+json"}
        url = f"{account.url}/api/v1/namespaces/{SPACE}/configmaps/{name}"
        connector = aiohttp.TCPConnector(ssl=account.tls())
        async with (
            aiohttp.ClientSession(connector=connector) as http,
            http.patch(url, data=body, headers=headers) as response,
        ):
            return response.status

    def may_speak() -> bool:
        return run(patched(f"{NAME}-wake")) == 200

    installed.wait(may_speak, 15.0, "the API server has heard of the Role")
    assert run(patched(f"{NAME}-routing")) == 403
    assert run(patched("kube-root-ca.crt")) == 403
    time.sleep(2.0)  # several cycles
    assert not engine_pods(installed.api), "data is no word"


def test_a_request_wakes_a_pool_that_holds_nothing(
    installed: Installation, account: ApiServer
) -> None:
    assert not engine_pods(installed.api)
    status, woken_s = run(served(account, installed.api))
    assert status == 200
    assert woken_s < 15.0
    installed.settle()
    found = installed.api.get("ServingPool", SPACE, NAME)
    assert found is not None and found["status"]["demand"]["source"] == "Held"
    wake = wake_of(installed.api)
    written = wake["metadata"]["annotations"]["motley.dev/requests-held-at"]
    assert found["status"]["demand"]["heldAt"] == written
    owners = {f["manager"] for f in wake["metadata"]["managedFields"]}
    assert {"motley", "motley-gateway"} <= owners, "the operator leaves the annotation alone"
