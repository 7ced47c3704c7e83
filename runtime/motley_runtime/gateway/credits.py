"""KV-token credits of replicas: what does not fit waits here, the most urgent first.

A routing file may state a replica's `kv_tokens`. Requests then hold what they are expected to need,
prompt and answer, and the engine sees only what it can start. On a replica that only prefills they hold
the prompt, until it has been handed over (`pairs.py` says when). Where none is stated nothing waits.
A gateway among several holds its own part of each replica: the file's number is that part.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol

from motley_planner.dispatch import Dispatcher, Replica
from motley_planner.dispatch.urgency import CreditQueue
from motley_runtime.gateway.errors import GatewayError
from motley_runtime.gateway.metrics import Metrics
from motley_runtime.gateway.openai_api import ParsedRequest, max_output_tokens, prompt_tokens


class Urgent(Protocol):
    """What a credit needs to know of a request."""

    @property
    def request(self) -> ParsedRequest: ...
    @property
    def dispatcher(self) -> Dispatcher: ...
    @property
    def class_name(self) -> str: ...
    @property
    def start_by_s(self) -> float: ...


_Queue = CreditQueue[asyncio.Future[None]]


class Credits:
    """The credits of all replicas of one gateway; they outlive routing tables."""

    def __init__(self, metrics: Metrics, wait_s: float) -> None:
        self.metrics, self.wait_s = metrics, wait_s
        self.queues: dict[str, _Queue] = {}
        self.waiting = 0

    def held(self, replica: Replica, job: Urgent, *, is_prompt_only: bool = False) -> Credit:
        """The credit of one request on one replica, held while entered; of its prompt alone or of all."""
        return Credit(self, replica, job, is_prompt_only)

    def queue_of(self, replica: Replica) -> _Queue:
        """A replica's queue, with the credit that the newest table states."""
        queue = self.queues.get(replica.name)
        if queue is None:
            queue = self.queues[replica.name] = CreditQueue()
        queue.credit = replica.kv_tokens
        return queue


class Credit:
    """`async with`: waits until the request may start. Raises: GatewayError 503 after `wait_s`."""

    __slots__ = ("_credits", "_is_prompt_only", "_job", "_number", "_queue", "_replica")

    def __init__(
        self, credits: Credits, replica: Replica, job: Urgent, is_prompt_only: bool
    ) -> None:
        self._credits, self._replica, self._job = credits, replica, job
        self._is_prompt_only = is_prompt_only
        self._queue: _Queue | None = None
        self._number = 0

    async def __aenter__(self) -> None:
        if not self._replica.kv_tokens:
            return
        queue = self._queue = self._credits.queue_of(self._replica)
        is_part = self._is_prompt_only
        tokens = prompt_tokens(self._job.request) if is_part else _tokens(self._job)
        number = queue.take(tokens)
        if number is not None:
            self._number = number
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._number = queue.offer(turn, self._job.start_by_s, tokens)
        _start(queue)
        if turn.done():
            return
        metrics = self._credits.metrics
        metrics.waiting_for_credit.inc()
        self._credits.waiting += 1
        try:
            async with asyncio.timeout(self._credits.wait_s):
                await turn
        except TimeoutError as error:
            self._end()
            metrics.refused.labels("credit").inc()
            text = "the replica has no room for the request yet"
            raise GatewayError(503, text, "overloaded", retry_after_s=1) from error
        except BaseException:
            self._end()
            raise
        finally:
            metrics.waiting_for_credit.dec()
            self._credits.waiting -= 1

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._queue is not None:
            self._queue.end(self._number)
            _start(self._queue)
            self._queue = None


def _start(queue: _Queue) -> None:
    """Lets those go whose tokens fit."""
    while (found := queue.start()) is not None:
        number, turn = found
        if turn.done():
            queue.end(number)
        else:
            turn.set_result(None)


def _tokens(job: Urgent) -> float:
    """Prompt and answer; the answer as its class has it, or less where the client limits it.

    Limits are mostly far above what is made of them; held in full they would leave engines idle.
    """
    classes, limit = job.dispatcher.table.classes, max_output_tokens(job.request)
    usual = next(each.output_tokens for each in classes if each.name == job.class_name)
    return prompt_tokens(job.request) + (usual if limit is None else min(limit, usual))
