"""One replica with continuous batching, driven by events.

Theory of operation. All running sequences advance together, one token a step, so a sequence that
joins at step s with n more tokens to make ends at step s + n: a heap of those step numbers says
who ends next, and nothing happens in between but time. Steps up to the next event are one segment.
Its length is exact for a step that is affine in the mean context: m steps at batch B from mean
context c take m (a + b c) + b m (m - 1) / 2.

Prompts are taken in order, as many as one step's token budget holds, with a decode step of whoever
runs (as engines mix them): the running ones advance, and pay for the prefills. Longer prompts are
spread over several such steps. A prompt waits for the step under way, for a slot and for room in
the KV cache. If the cache fills up the sequence that joined last gives way and
is computed again later. Where only prompts are served, their caches stay until they have left.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from math import ceil, sqrt

from motley_planner.simulator.requests import NOT_YET, Job
from motley_planner.simulator.steps import StepTimes

IDLE, PREFILLING, DECODING = 0, 1, 2
WATERMARK = 0.01  # share of the KV cache kept free when a request is admitted beside others
BOTH, PREFILL, DECODE = "both", "prefill", "decode"


class Server:
    """A replica's queue, batch and KV cache. `ended` holds visits that ended at the last event."""

    __slots__ = (
        "batch",
        "busy_s",
        "context",
        "due_s",
        "ended",
        "held",
        "kv_room",
        "max_batch",
        "mode",
        "name",
        "order",
        "phase",
        "preemptions",
        "prefilling",
        "queue",
        "running",
        "segment_line",
        "segment_start_s",
        "segment_steps",
        "serial",
        "slot_s",
        "steps",
        "times",
        "version",
    )

    def __init__(self, name: str, times: StepTimes, max_batch: int, mode: str = BOTH) -> None:
        self.name, self.times, self.max_batch, self.mode = name, times, max_batch, mode
        self.kv_room = times.kv_tokens
        self.queue: deque[Job] = deque()
        self.running: list[tuple[int, int, int, Job]] = []  # end step, serial, run, job
        self.order: list[tuple[Job, int]] = []
        self.phase = IDLE
        self.batch = self.steps = self.version = self.serial = self.preemptions = 0
        self.context = 0.0
        self.held = 0.0  # tokens of caches that have yet to leave
        self.prefilling: list[Job] = []
        self.segment_steps = 0
        self.segment_start_s = self.due_s = 0.0
        self.segment_line = (0.0, 0.0)
        self.busy_s = self.slot_s = 0.0
        self.ended: list[Job] = []

    def accept(self, job: Job, now_s: float) -> bool:
        """Takes a job in; True if the next event has changed (see `due_s`)."""
        job.server = self
        self.queue.append(job)
        if self.phase == IDLE:
            self._begin(now_s)
            return True
        if self.phase == DECODING and len(self.queue) == 1 and self._fits(job):
            return self._cut(now_s)
        return False

    def advance(self) -> None:
        """Carries out the event that is due, and begins the next segment."""
        now = self.due_s
        elapsed = now - self.segment_start_s
        self.busy_s += elapsed
        prefilled = self.prefilling
        self.slot_s += elapsed * (self.batch + len(prefilled))
        self._progress(self.segment_steps)
        if prefilled:
            self.prefilling = []
            for job in prefilled:
                self._join(job, now)
        self._begin(now)

    def cancel(self, job: Job, now_s: float) -> None:
        """Takes a job out that nobody waits for, at the instant of the last event.

        One whose prefill is under way ends with it.
        """
        if job in self.queue:
            self.queue.remove(job)
        elif job in self.prefilling:
            job.remaining = 1.0
            return
        else:
            self._leave(job)
        if self.phase == DECODING:
            self._begin(now_s)

    def shorten(self, steps: int) -> None:
        """Makes the event that is due one after so many decode steps, if it is a later one."""
        if self.phase == DECODING and 0 < steps < self.segment_steps:
            self.segment_steps = steps
            self.due_s = self.segment_start_s + self._duration(steps)
            self.version += 1

    def kill(self) -> list[Job]:
        """Ends at once; the jobs it held."""
        held = [job for _, _, run, job in self.running if job.run == run]
        held += self.queue
        held += self.prefilling
        self.queue.clear()
        self.running.clear()
        self.batch, self.phase, self.prefilling = 0, IDLE, []
        self.version += 1
        return held

    def release(self, job: Job, now_s: float) -> bool:
        """A cache has left; True if the next event has changed."""
        self.held = max(0.0, self.held - self._cache(job))
        if self.phase != IDLE or not self.queue:
            return False
        self._begin(now_s)
        return self.phase != IDLE

    def _cache(self, job: Job) -> float:
        return job.context + self.times.kv_tokens_per_sequence

    @property
    def is_empty(self) -> bool:
        """Whether nothing is under way."""
        return self.phase == IDLE and not self.queue

    def _fits(self, job: Job, others: int = 0, their_tokens: float = 0.0) -> bool:
        """Whether a job may start beside the running ones and `others` that start with it."""
        if self.mode == PREFILL:
            before, each = self.held + their_tokens, self.times.kv_tokens_per_sequence
            room = self.kv_room * (1.0 - WATERMARK)
            return not before or before + job.context + each * (others + 1) <= room
        batch = self.batch + others
        if not batch:
            return True
        if batch >= self.max_batch:
            return False
        tokens = self.context + their_tokens + job.context + 1.0
        tokens += self.times.kv_tokens_per_sequence * (batch + 1)
        return tokens <= self.kv_room * (1.0 - WATERMARK)

    def _progress(self, steps: int) -> None:
        if not steps or not self.batch:
            self.steps += steps
            return
        self.steps += steps
        self.context += steps * self.batch
        running, done = self.running, self.steps
        while running and running[0][0] <= done:
            _, _, run, job = heappop(running)
            if job.run == run:
                self._leave(job)
                self.ended.append(job)

    def _leave(self, job: Job) -> None:
        self.batch -= 1
        self.context -= job.context + (self.steps - job.joined_at)
        job.run += 1

    def _join(self, job: Job, now_s: float) -> None:
        """After its prefill: the first token is there, the others follow step by step."""
        if job.first_s == NOT_YET:
            job.first_s = now_s + self.times.first_token_delay_s(job.prompt)
        job.prefilled = True
        job.remaining -= 1.0
        job.context += 1.0
        if job.remaining <= 0.0 or self.mode == PREFILL:
            self.held += self._cache(job) if job.remaining > 0.0 else 0.0
            self.ended.append(job)
        else:
            self._add(job)

    def _add(self, job: Job) -> None:
        job.joined_at = self.steps
        self.batch += 1
        self.context += job.context
        self.serial += 1
        heappush(self.running, (self.steps + ceil(job.remaining), self.serial, job.run, job))
        if len(self.order) > 4 * self.batch + 64:
            self.order = [(one, run) for one, run in self.order if one.run == run]
        self.order.append((job, job.run))

    def _begin(self, now_s: float) -> None:
        """The next segment: a prompt if one may start, else decode steps until something ends."""
        self.version += 1
        self.segment_start_s = now_s
        queue = self.queue
        while queue and queue[0].prefilled and not queue[0].run and self._fits(queue[0]):
            self._add(queue.popleft())  # its KV cache came from elsewhere
        if queue and self._fits(queue[0]):
            self._begin_prefill(now_s)
            return
        if not self.batch:
            self.phase, self.segment_steps, self.due_s = IDLE, 0, float("inf")
            return
        self._begin_decode(now_s)

    def _begin_prefill(self, now_s: float) -> None:
        """A step with as many prompts as its budget holds; at least one, however long."""
        times, queue = self.times, self.queue
        job = queue.popleft()
        taken, tokens, duration = [job], job.context, times.prefill_s(job.context)
        budget = times.chunk_tokens
        while queue and 0.0 < tokens + queue[0].context <= budget:
            job = queue[0]
            if (job.prefilled and not job.run) or not self._fits(job, len(taken), tokens):
                break
            taken.append(queue.popleft())
            tokens += job.context
            duration += times.prefill_s(job.context)
        self.phase, self.prefilling, self.segment_steps = PREFILLING, taken, 0
        if self.batch:
            self.segment_steps = ceil(tokens / budget) if budget else 1
            mean = self.context / self.batch
            base, slope = times.decode(self.batch, mean)
            duration += self.segment_steps * (base + slope * mean)
        self.due_s = now_s + duration

    def _begin_decode(self, now_s: float) -> None:
        self.phase = DECODING
        while (room := self._kv_steps()) < 1 and self.batch > 1:
            self._preempt()
        running = self.running
        while running[0][3].run != running[0][2]:
            heappop(running)
        steps = running[0][0] - self.steps
        if room < steps and self.batch > 1:
            steps = max(1, int(room))
        mean = self.context / self.batch
        base, slope = self.times.decode(self.batch, mean)
        self.segment_line = (base + slope * mean, slope)
        self.segment_steps = steps
        self.due_s = now_s + self._duration(steps)

    def _duration(self, steps: int) -> float:
        first, slope = self.segment_line
        return steps * first + slope * steps * (steps - 1) / 2.0

    def _cut(self, now_s: float) -> bool:
        """Ends the decode segment at the first step boundary from now on."""
        first, slope = self.segment_line
        elapsed = now_s - self.segment_start_s
        if slope > 0.0:
            half = first - slope / 2.0
            exact = (sqrt(half * half + 2.0 * slope * elapsed) - half) / slope
        else:
            exact = elapsed / first if first > 0.0 else 1.0
        steps = max(1, ceil(exact - 1e-9))
        if steps >= self.segment_steps:
            return False
        self.segment_steps = steps
        self.due_s = max(now_s, self.segment_start_s + self._duration(steps))
        self.version += 1
        return True

    def _kv_steps(self) -> float:
        """Steps until the KV cache is full."""
        fixed = self.times.kv_tokens_per_sequence * self.batch
        return (self.kv_room - fixed - self.context) // self.batch

    def _preempt(self) -> None:
        """The sequence that joined last goes back to the head of the queue."""
        job, run = self.order.pop()
        while job.run != run:
            job, run = self.order.pop()
        made = self.steps - job.joined_at
        self._leave(job)
        job.context += made
        job.remaining -= made
        self.queue.appendleft(job)
        self.preemptions += 1
