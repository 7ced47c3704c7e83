"""Reading Prometheus: answers as measurements, and every way in which it can fail to answer."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from motley_operator.api.measuring import PrometheusSpec
from motley_operator.domain.measurement import Histogram, Measurement, Reading
from motley_operator.facts.columns import column_queries
from motley_operator.facts.prometheus import Measurer, read_prometheus
from motley_operator.facts.queries import (
    STEPS,
    instant_queries,
    measurements,
    range_queries,
)
from motley_planner.catalog import load_catalog

CATALOG = load_catalog()
END, STEP_S = 1_800_000_000, 90
TIMES = [END - STEP_S * i for i in reversed(range(STEPS))]
OWNER = {"namespace": "team-a", "motley_dev_kind": "ServingPool", "motley_dev_resource": "chat"}
KEY = "ServingPool/team-a/chat"
GATEWAY = {**OWNER, "app_kubernetes_io_component": "gateway"}
ENGINE = {**OWNER, "app_kubernetes_io_component": "serve"}


def one(value: float | str, labels: dict[str, str] = OWNER) -> dict[str, Any]:
    return {"metric": labels, "value": [END, str(value)]}


def steps(*values: float | None, **labels: str) -> dict[str, Any]:
    pairs = [[t, str(v)] for t, v in zip(TIMES, values, strict=True) if v is not None]
    return {"metric": {**OWNER, **labels}, "values": pairs}


ANSWERS: dict[str, list[dict[str, Any]]] = {
    "gateways": [steps(*(2,) * STEPS)],
    "engines": [steps(None, *(3,) * (STEPS - 1))],
    "arrived": [steps(*(900.0,) * STEPS, **{"class": "all"})],
    "finished": [steps(*(890.0,) * STEPS)],
    "seen": [one(2, GATEWAY), one(3, ENGINE)],
    "up": [one(2, GATEWAY), one(1, ENGINE)],
    "age": [one(7.5, GATEWAY), one(40, ENGINE)],
    "running": [one(12)],
    "waiting": [one(0)],
    "kv_usage": [one(0.5)],
    "prompt_buckets": [
        one(60, {**OWNER, "le": "1000.0"}),
        one(100, {**OWNER, "le": "+Inf"}),
        one(59.9999, {**OWNER, "le": "2000.0"}),
    ],
    "prompt_total": [one(90_000)],
    "output_buckets": [],
    "output_total": [],
    "ttft_p95": [one(0.8)],
    "tpot_p95": [one("NaN")],
}


def test_answers_become_one_measurement_a_resource() -> None:
    found = measurements(ANSWERS, TIMES)
    assert list(found) == [KEY]
    made = found[KEY]
    assert (made.gateways.seen, made.gateways.up, made.gateways.oldest_s) == (2, 2, 7.5)
    assert (made.engines.seen, made.engines.up, made.engines.oldest_s) == (3, 1, 40.0)
    assert made.gateways.alive == (2.0,) * STEPS
    assert made.engines.alive == (None, *(3.0,) * (STEPS - 1))
    assert made.arrived == {"all": (900.0,) * STEPS}
    assert made.prompt == Histogram((1000.0, 2000.0, float("inf")), (60.0, 60.0, 100.0), 90_000.0)
    assert made.output == Histogram()
    assert (made.running, made.ttft_p95_s, made.tpot_p95_s) == (12.0, 0.8, None)


def test_a_resource_of_which_only_its_targets_are_known_has_no_counts() -> None:
    empty: dict[str, list[dict[str, Any]]] = {name: [] for name in ANSWERS}
    found = measurements({**empty, "seen": [one(2, GATEWAY)], "up": [one(0, GATEWAY)]}, TIMES)
    assert found[KEY].gateways.up == 0
    assert found[KEY].arrived == {}
    assert measurements(empty, TIMES) == {}


def test_the_number_of_queries_does_not_depend_on_the_fleet() -> None:
    asked = {**range_queries(CATALOG, 90), **instant_queries(CATALOG, 900)}
    assert set(asked) == set(ANSWERS)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_every_engine_that_is_measured_has_every_series(engine: str) -> None:
    wanted = {
        "running", "waiting", "kv_usage", "e2e", "ttft", "tpot", "prompt_length", "output_length",
    }  # fmt: skip
    assert wanted <= CATALOG.engines[engine].metrics.keys()


COLUMNS = set(column_queries(CATALOG, STEP_S).values())
COLUMN = steps(*(2,) * STEPS, motley_dev_column="c1")


class Server:
    """Answers queries as Prometheus' HTTP API does, or as it must not."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        self.answer: Any = None  # replaces what Prometheus would say: (code, body)
        self.pause_s = 0.0
        self.pausing = 0  # how many answers it holds back
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                code, body = server.reply(parts.path, parse_qs(parts.query))
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return None

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]
        serve = self.http.serve_forever
        threading.Thread(target=serve, args=(0.02,), daemon=True).start()
        self.spec = PrometheusSpec.model_validate(
            {"url": f"http://127.0.0.1:{self.http.server_address[1]}/", "interval": "100ms"}
        )

    def reply(self, path: str, params: dict[str, list[str]]) -> tuple[int, bytes]:
        self.asked.append((path, params))
        if self.pause_s:
            self.pausing += 1
            time.sleep(self.pause_s)
            self.pausing -= 1
        if self.answer is not None:
            code, body = self.answer
            return code, body.encode()
        (query,) = params["query"]
        if query == "time()":
            result: Any = [END, str(float(END))]
        else:
            known = {**range_queries(CATALOG, STEP_S), **instant_queries(CATALOG, STEP_S * STEPS)}
            names = [name for name, text in known.items() if text == query]
            result = ANSWERS[names[0]] if names else [COLUMN] if query in COLUMNS else None
        return 200, json.dumps({"status": "success", "data": {"result": result}}).encode()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def look(server: Server) -> Reading:
    return read_prometheus(server.spec, CATALOG, threading.Event())


def test_a_reading_asks_at_prometheus_own_time_and_holds_what_it_said(server: Server) -> None:
    reading = look(server)
    assert reading.error == ""
    assert reading.step_s == STEP_S
    assert reading.measurements == measurements(ANSWERS, TIMES)
    ranges = [params for path, params in server.asked if path.endswith("query_range")]
    assert len(ranges) == 4 + len(COLUMNS)
    assert reading.columns[KEY]["c1"].tpot_total_s == (2.0,) * STEPS
    assert {(p["start"][0], p["end"][0], p["step"][0]) for p in ranges} == {
        (str(TIMES[0]), str(END), str(STEP_S))
    }


@pytest.mark.parametrize(
    "answer",
    [
        (500, "broken"),
        (404, "no such page"),
        (200, "<html>"),
        (200, "[]"),
        (200, "{}"),
        (200, '{"data": {"result": []}}'),
        (200, '{"data": {"result": [1, "x"]}}'),
        (200, '{"data": {"result": [1, "NaN"]}}'),
        (200, '{"data": {"result": [1, "1"]}, "status": "success"}'),
    ],
)
def test_what_is_no_answer_is_an_error_that_shows_nothing_of_the_server(
    server: Server, answer: tuple[int, str]
) -> None:
    server.answer = answer
    reading = look(server)
    assert reading.error
    assert reading.measurements == {}
    assert "127.0.0.1" not in reading.error


def test_a_server_that_does_not_answer_costs_one_timeout(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motley_operator.facts.prometheus._QUERY_S", 0.2)
    server.pause_s = 1.0
    assert look(server).error
    assert len(server.asked) <= 1  # what comes after it is not asked for


class FakeStore:
    """The documents of a store."""

    def __init__(self, demand: str, url: str) -> None:
        self.kinds: dict[str, list[dict[str, Any]]] = {
            "ServingPool": [{"spec": {"workload": {"demand": demand}}}],
            "Fleet": [
                {
                    "apiVersion": "motley.dev/v1alpha1",
                    "kind": "Fleet",
                    "metadata": {"name": "default"},
                    "spec": {"prometheus": {"url": url, "interval": "100ms"}},
                }
            ],
        }

    def documents(self, kind: str) -> list[dict[str, Any]]:
        return self.kinds.get(kind, [])


def measurer(server: Server, demand: str = "Measured") -> Measurer:
    store: Any = FakeStore(demand, server.spec.url)
    return Measurer(store, CATALOG)


def test_columns_are_asked_for_only_where_something_is_to_be_learned(server: Server) -> None:
    server.spec = server.spec.model_copy(update={"learn": "Off"})
    reading = look(server)
    assert reading.measurements == measurements(ANSWERS, TIMES)
    assert reading.columns == {}
    asked = {params["query"][0] for _, params in server.asked}
    assert not asked & COLUMNS


def test_nothing_is_read_where_nobody_asks(server: Server) -> None:
    stated: Any = measurer(server, "Stated")
    assert stated.source() is not None  # to learn how fast engines are
    stated._store.kinds["Fleet"][0]["spec"]["prometheus"]["learn"] = "Off"
    assert stated.source() is None
    none: Any = measurer(server)
    none._store.kinds["Fleet"] = []
    assert none.source() is None


async def test_a_loop_of_readings_never_blocks_and_survives_a_broken_server(
    server: Server,
) -> None:
    made = measurer(server)
    task = asyncio.create_task(made.run())
    await until(lambda: made.reading is not None and not made.reading.error)
    server.answer = (500, "broken")
    await until(lambda: made.reading is not None and bool(made.reading.error))
    server.answer = None
    await until(lambda: made.reading is not None and not made.reading.error)
    server.pause_s = 0.3
    await until(lambda: server.pausing > 0)  # the loop turns while a thread waits for an answer
    server.pause_s = 0.0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert made._stop.is_set()


async def test_it_is_told_once_that_nothing_is_read_any_more(server: Server) -> None:
    told: list[Reading | None] = []
    made = measurer(server)
    made._told = told.append
    task = asyncio.create_task(made.run())
    await until(lambda: told)
    store: Any = made._store
    store.kinds = {}
    await until(lambda: told[-1] is None)
    store.kinds = FakeStore("Measured", server.spec.url).kinds
    await until(lambda: told[-1] is not None)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert told.count(None) == 1


async def until(met: Any) -> None:
    deadline = time.monotonic() + 30.0
    while not met():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def test_the_operators_series_show_a_reading_and_forget_what_it_lacks() -> None:
    from motley_operator.metrics import Metrics

    metrics = Metrics()
    labels = {"kind": "ServingPool", "namespace": "team-a", "name": "chat"}
    shown = Reading(1.0, 90.0, {KEY: Measurement(waiting=4.0)})
    metrics.read_prometheus(shown)
    value = metrics.registry.get_sample_value
    assert value("motley_measured_waiting_requests", labels) == 4.0
    assert value("motley_measured_running_requests", labels) is None
    metrics.read_prometheus(Reading(2.0, error="gone"))
    assert value("motley_measured_waiting_requests", labels) is None
    assert value("motley_prometheus_readings_total", {"result": "failed"}) == 1.0
    metrics.read_prometheus(shown)
    metrics.read_prometheus(None)  # nobody asks any more
    assert value("motley_measured_waiting_requests", labels) is None
    assert value("motley_prometheus_readings_total", {"result": "failed"}) == 1.0
