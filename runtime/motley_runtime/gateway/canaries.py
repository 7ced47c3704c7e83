"""Questions with known answers, asked of every stage at a small rate and graded without a judge.

They find what traffic hides: a broken chat template, another quantisation, a model that was swapped.
Each goes the way of a request, by the dispatcher and to the stage's replicas, with a request id of
its own; it is in no metric of requests, so that measured demand stays that of clients. The questions
are drawn anew each time, so no cache and no training set holds them. A stage's first answers are its
reference; it is kept in the state directory, and begins anew with another model.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from motley_planner.dispatch import Dispatcher, Stage, classify
from motley_runtime.checks import parse_check
from motley_runtime.gateway.calls import Caller
from motley_runtime.gateway.comparing import text_of
from motley_runtime.gateway.drift import LearnedShare
from motley_runtime.gateway.errors import GatewayError, UpstreamError
from motley_runtime.gateway.hard_failures import hard_failure
from motley_runtime.gateway.openai_api import CHAT, ParsedRequest, prompt_tokens
from motley_runtime.gateway.quality_metrics import QualityMetrics
from motley_runtime.gateway.side_calls import SideCall, ask_stage
from motley_runtime.gateway.watching import Watch

if TYPE_CHECKING:
    from motley_runtime.gateway.live_routing import LiveRouting

log = logging.getLogger("motley.gateway")

NAME = "canaries.json"
_MAX_TOKENS = 1024
_LATE_S = 3600.0  # behind every request in the order of urgency


class Canaries:
    """Asks one stage after the other, `per_hour` times an hour each."""

    def __init__(
        self,
        per_hour: float,
        caller: Caller,
        watch: Watch,
        live: LiveRouting,
        metrics: QualityMetrics,
    ) -> None:
        self._per_hour, self._caller, self._watch = per_hour, caller, watch
        self._live, self._metrics = live, metrics
        self.is_busy: Callable[[], bool] = lambda: False
        self.state_dir: Path | None = None
        self.random = random.Random()
        self._models: dict[str, str] = {}

    async def run(self) -> None:
        """Asks until it is cancelled. Which stage is next, and when, is drawn: gateways differ."""
        await asyncio.to_thread(self._restore)
        questions = await asyncio.to_thread(endless, self.random.randrange(2**32))
        for turn in itertools.count():
            dispatcher = self._live.current
            stages = dispatcher.table.stages if dispatcher is not None else ()
            mean_s = 3600.0 / self._per_hour / max(1, len(stages))
            await asyncio.sleep(self.random.uniform(0.5, 1.5) * mean_s)
            dispatcher = self._live.current
            if dispatcher is None or self.is_busy():
                continue
            stage = dispatcher.table.stages[turn % len(dispatcher.table.stages)]
            try:
                await self._ask(dispatcher, stage, await asyncio.to_thread(next, questions))
            except Exception:
                log.exception("canary failed", extra={"fields": {"stage": stage.name}})

    async def _ask(self, dispatcher: Dispatcher, stage: Stage, question: dict[str, Any]) -> None:
        messages = [{"role": "user", "content": question["prompt"]}]
        body = {"messages": messages, "max_tokens": _MAX_TOKENS, "temperature": 0.0}
        request = ParsedRequest(CHAT, body, False, False, None)
        classes = dispatcher.table.classes
        call = SideCall(
            request=request,
            request_id=f"canary-{uuid.uuid4().hex}",
            dispatcher=dispatcher,
            class_name=classify(classes, prompt_tokens(request), None).name,
            start_by_s=asyncio.get_running_loop().time() + _LATE_S,
        )
        try:
            answer = await ask_stage(self._caller, call, stage.name, CHAT, body)
        except (GatewayError, UpstreamError):
            answer = None
        if answer is None:
            # Who cannot be reached is no worse than it was; other metrics tell.
            self._metrics.canaries.labels(stage.name, "failed").inc()
            return
        grader = parse_check(question["check"])
        is_right = False
        if hard_failure(request, answer) is None:
            is_right = await grader.passes(text_of(answer["choices"][0]))
        self._metrics.canaries.labels(stage.name, "right" if is_right else "wrong").inc()
        self._grade(stage, is_right)

    def _grade(self, stage: Stage, is_right: bool) -> None:
        if self._models.get(stage.name) != stage.model:
            self._models[stage.name] = stage.model
            self._watch.canaries[stage.name] = LearnedShare()
        known = self._watch.canaries.setdefault(stage.name, LearnedShare())
        was_known = known.is_known
        self._watch.graded(stage.name, is_right)
        if not was_known:
            self._keep()

    def _keep(self) -> None:
        if self.state_dir is None:
            return
        document = {
            name: {"model": self._models.get(name), "right": each.right, "asked": each.asked}
            for name, each in self._watch.canaries.items()
        }
        try:
            (self.state_dir / NAME).write_bytes(orjson.dumps(document))
        except OSError as error:
            log.warning("canaries not kept", extra={"fields": {"reason": str(error)}})

    def _restore(self) -> None:
        path = self.state_dir / NAME if self.state_dir is not None else None
        if path is None or not path.is_file():
            return
        try:
            for name, each in orjson.loads(path.read_bytes()).items():
                known = LearnedShare(int(each["right"]), int(each["asked"]))
                self._watch.canaries[name], self._models[name] = known, str(each["model"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("canaries not restored", extra={"fields": {"reason": str(error)}})


def endless(seed: int) -> Iterator[dict[str, Any]]:
    """Questions without end, as lines of a question file."""
    # Here, for it brings pint: gateways without canaries need neither.
    from motley_runtime.questions import FIELDS, document, question_set

    return (document(each, "choice") for each in question_set(FIELDS, seed, 2**62))
