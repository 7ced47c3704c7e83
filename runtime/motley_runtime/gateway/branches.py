"""Runs several branches of one request on one replica and answers with the best or the majority.

Theory of operation. The first branch picks the replica like any request; when it has begun to
answer, the prompt is in that replica's prefix cache and the others start there, so that N branches
cost about one prefill. Each branch is a task with a stream, a credit and a place on the replica of
its own. It reads, counts, and every so many tokens asks for its score; `BranchBook` says what is
given up and when it is enough. Whoever is not needed any more is cancelled, which closes its
connection, and the engine stops. Nothing has been sent to the client by then, so a replica that
dies costs the request a second run elsewhere, once.

With a deadline the request is answered from the branches that have ended by then, if any has.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, TypeGuard

import orjson

from motley_planner.dispatch import BranchBook, BranchRule, Stage, best_of, winner_of
from motley_runtime.gateway.answers import GARBLED, garbled
from motley_runtime.gateway.branch_requests import stream_body
from motley_runtime.gateway.branch_scores import BranchScorer, RewardPool
from motley_runtime.gateway.calls import Caller
from motley_runtime.gateway.errors import GatewayError, UpstreamError
from motley_runtime.gateway.hard_failures import hard_failure
from motley_runtime.gateway.job import Job
from motley_runtime.gateway.metrics import Metrics
from motley_runtime.gateway.openai_api import add_usage, seed_of
from motley_runtime.gateway.transcripts import Transcript
from motley_runtime.gateway.tries import Tries
from motley_runtime.gateway.upstream import Answer, OpenStream
from motley_runtime.gateway.votes import vote_of

_RUNS = 2
_END_S = 0.05  # for a stream's end after its [DONE], so that the connection can be used again
_REFUSAL_BYTES = 2**20


class _Stopped(Exception):
    """A branch that nobody waits for."""


class Branches:
    """The executor shared by all requests that branch."""

    def __init__(self, caller: Caller, judge: RewardPool, metrics: Metrics) -> None:
        self._caller, self._judge, self._metrics = caller, judge, metrics

    async def answer(
        self, job: Job, stage: Stage, rule: BranchRule, logprobs: int = 0
    ) -> dict[str, Any] | Answer:
        """The chosen answer, its usage that of all branches; or the engine's refusal as it is.

        `logprobs`: how many of each token the caller needs. Notes on the job how many there were.
        Raises: GatewayError where no branch has an answer.
        """
        body = stream_body(job, stage, rule, logprobs)
        spent: dict[str, Any] = {}
        last: Exception | None = None
        for _ in range(_RUNS):
            run = _Run(self, job, stage, rule)
            try:
                await run.to_end(body)
            finally:
                await run.close()
                spent = add_usage(spent, run.usage())
                self._count(job, stage, run)
            if run.refusal is not None:
                return run.refusal
            if (number := run.winner()) is not None:
                answer = run.transcripts[number].answer()
                return {**answer, "usage": spent}
            last = run.errors[0]
            if isinstance(last, GatewayError) and len(run.transcripts) == 1:
                raise last  # the first branch found no replica, so no other one would
        text = f"no branch of stage {stage.name!r} was answered: {getattr(last, 'kind', '')}"
        raise GatewayError(502, text, "upstream_failed") from last

    def _count(self, job: Job, stage: Stage, run: _Run) -> None:
        before, book = job.branched or (0, 0, 0), run.book
        now = (len(run.transcripts), len(book.ended), len(book.pruned))
        job.branched = (before[0] + now[0], before[1] + now[1], before[2] + now[2])
        outcomes, tokens = Counter[str](), Counter[str]()
        for number in run.transcripts:
            outcome = run.outcome(number)
            outcomes[outcome] += 1
            tokens[outcome] += run.tokens(number)
        for outcome, count in outcomes.items():
            self._metrics.branches.labels(stage.name, outcome).inc(count)
            self._metrics.branch_tokens.labels(stage.name, outcome).inc(tokens[outcome])

    def tries(self, job: Job, stage: Stage, only: str | None) -> Tries:
        """Where a branch may go: anywhere, or to the replica of the first."""
        return Tries(job, stage, self._metrics, only)

    @property
    def caller(self) -> Caller:
        """How engines are called."""
        return self._caller

    @property
    def judge(self) -> RewardPool:
        """Who scores partial answers where the rule names a pool."""
        return self._judge


class _Run:
    """The branches of one request, from the first call until all are closed."""

    def __init__(self, shared: Branches, job: Job, stage: Stage, rule: BranchRule) -> None:
        self._shared, self._job, self._stage, self._rule = shared, job, stage, rule
        self.book = BranchBook(rule)
        self.transcripts: dict[int, Transcript] = {}
        self.errors: list[UpstreamError | GatewayError] = []
        self.refusal: Answer | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._over = asyncio.Event()
        self._failed: set[int] = set()

    async def to_end(self, body: dict[str, Any]) -> None:
        """Returns when enough branches have ended, or none is left; at the deadline if one has."""
        self._start(0, body)
        try:
            async with asyncio.timeout_at(self._job.deadline_s):
                await self._over.wait()
        except TimeoutError:
            self.book.needed = 1
            self._look()
            await self._over.wait()
        for task in self._tasks.values():
            if task.done() and not task.cancelled():
                task.result()

    async def close(self) -> None:
        """Ends what is still under way and waits until its connections are closed."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def winner(self) -> int | None:
        """The branch whose answer is returned; a plainly wrong one where there is no other."""
        ended, extract = self.book.ended, self._rule.extract
        if not ended:
            return min(self.book.wrong, default=None)
        if self._rule.choose == "Best":
            return best_of(ended)
        votes = {number: vote_of(self.transcripts[number].text(), extract) for number in ended}
        return winner_of(votes, ended)

    def outcome(self, number: int) -> str:
        """How a branch ended, as the metric says it."""
        book = self.book
        if number in book.ended:
            return "completed"
        if number in book.pruned:
            return "pruned"
        if number in book.wrong:
            return "wrong"
        return "failed" if number in self._failed else "stopped"

    def tokens(self, number: int) -> int:
        """Completion tokens of a branch: as the engine says, else as they were seen."""
        transcript = self.transcripts[number]
        stated = (transcript.usage or {}).get("completion_tokens")
        return stated if _is_count(stated) else transcript.tokens

    def usage(self) -> dict[str, Any]:
        """The usage of all branches; of those that were closed, what was seen of them."""
        known = [t.usage for t in self.transcripts.values() if t.usage is not None]
        stated = (u.get("prompt_tokens") for u in known)
        prompt = next((count for count in stated if _is_count(count)), 0)
        total: dict[str, Any] = {}
        for number, transcript in self.transcripts.items():
            seen = self.tokens(number)
            read = prompt if seen else 0
            guessed = {"prompt_tokens": read, "completion_tokens": seen}
            total = add_usage(total, transcript.usage or {**guessed, "total_tokens": read + seen})
        return total

    def _start(self, number: int, body: dict[str, Any], only: str | None = None) -> None:
        self.book.start(number)
        self.transcripts[number] = Transcript(self._job.request)
        seed = body.get("seed")
        own = {**body, "seed": seed_of(seed, number)} if isinstance(seed, int) else body
        task = self._tasks[number] = asyncio.create_task(self._branch(number, own, only))
        task.add_done_callback(self._done)

    async def _branch(self, number: int, body: dict[str, Any], only: str | None) -> None:
        """One branch, to its end; what it came to is in the book."""
        tries = self._shared.tries(self._job, self._stage, only)
        raw = orjson.dumps(body)
        try:
            async with self._shared.caller.stream(self._job, self._stage, raw, tries) as opened:
                if opened.status != 200:
                    await self._refused(number, opened)
                if number == 0:
                    for other in range(1, self._rule.samples):
                        self._start(other, body, tries.replica)
                try:
                    await self._read(number, opened)
                except GARBLED as error:
                    raise garbled(error, self._stage.name) from error
        except _Stopped:
            pass
        except (UpstreamError, GatewayError) as error:
            self.errors.append(error)
            self._failed.add(number)
            self.book.fail(number)
        self._look()

    async def _refused(self, number: int, opened: OpenStream) -> None:
        """An engine that says no to the first branch says so to the client."""
        if number:
            raise UpstreamError("status", f"a branch was answered with {opened.status}")
        parts = [opened.first]
        async for chunk in opened.rest:
            parts.append(chunk)
            if sum(map(len, parts)) > _REFUSAL_BYTES:
                raise UpstreamError("too_large", "the refusal exceeds the size limit")
        self.refusal = Answer(opened.status, opened.content_type, b"".join(parts))
        self.book.fail(number)
        raise _Stopped

    async def _read(self, number: int, opened: OpenStream) -> None:
        transcript, rule = self.transcripts[number], self._rule
        scorer = BranchScorer(rule, self._shared.judge)
        every = rule.prune.every_tokens if rule.prune is not None else 0
        asked = every
        transcript.feed(opened.first)
        while not transcript.is_done:
            if every and transcript.tokens >= asked:
                asked = transcript.tokens - transcript.tokens % every + every
                if self.book.scored(number, await scorer.score(self._job, transcript)):
                    self.book.prune(number)
                    raise _Stopped
            chunk = await anext(opened.rest, b"")
            if not chunk:
                raise UpstreamError("disconnected", "the stream ended without [DONE]")
            transcript.feed(chunk)
        await self._ended(number, transcript, scorer)
        try:
            async with asyncio.timeout(_END_S):
                await anext(opened.rest, b"")
        except TimeoutError:
            pass

    async def _ended(self, number: int, transcript: Transcript, scorer: BranchScorer) -> None:
        """A whole answer: it counts, unless it is plainly wrong."""
        if hard_failure(self._job.request, transcript.answer()) is not None:
            self.book.fail(number, is_wrong=True)
            return
        rule = self._rule
        is_asked = rule.prune is not None or rule.choose == "Best" or rule.needs_logprobs
        score = await scorer.score(self._job, transcript) if is_asked else None
        for hopeless in self.book.end(number, score):
            self.book.prune(hopeless)
            self._tasks[hopeless].cancel()
        self._look()

    def _done(self, task: asyncio.Task[None]) -> None:
        """An error that no branch may end with ends them all."""
        if not task.cancelled() and task.exception() is not None:
            self._over.set()

    def _look(self) -> None:
        if self.book.is_over:
            self._over.set()


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
