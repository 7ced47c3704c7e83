"""Operating points: how many sequences a replica should run, and which classes it then admits.

Rules. A class is admitted only where its targets hold beside the worst mix of the admitted classes:
the longest context and the most prefill work per output token of any of them. Then every mix of
them is no worse, and capacities (requests/s alone) may be added up. A full batch of any of them fits
into memory; `shared_memory` has points where it need not.

Percentiles are predicted: TPOT by the multipliers of catalog/efficiency.toml at a full batch. TTFT
and E2E waits are kept in bounds by a utilisation cap: the share of a replica's rate up to which a
request waits for a slot, and a prompt for other prompts, no longer than the target leaves. It
depends on the size of the pool, so a point says by how much more each replica of a larger one may do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite

from motley_planner.candidates.loads import ClassLoad
from motley_planner.candidates.measured import UNCORRECTED, Correction
from motley_planner.candidates.point import OperatingPoint
from motley_planner.candidates.targets import Miss, Target, tpot_ratio
from motley_planner.costs.capacity import (
    Service,
    first_token_wait_s,
    step_tokens,
    utilization_cap,
)
from motley_planner.costs.pipeline import Pipeline
from motley_planner.costs.replica import Replica
from motley_planner.costs.steps import decode_step_s

BATCHES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
LEAST_GAIN = 1.05  # a column for fewer classes must serve one of them this much faster
LEAST_UTILIZATION = 0.05  # a replica that may do less than this share of its rate is no use
LEAST_STEP = 0.1  # of the modeled step: a measured TPOT never leaves less for it
POOL_SIZES = (4,)  # each one more costs the solver time; 2 and 10 beside it saved 2 % more
MEAN_AS_QUANTILE = 0.632  # of an exponential wait: a target for the mean


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Evaluates batches of one replica; `busy` is the planned share of capacity (1 - headroom).

    Of a replica cut into fragments `replica` is the first one's whole. One that only decodes gets
    no prompts in its steps: its loads have no prefill, and waits count in TPOT.
    """

    replica: Replica
    targets: tuple[Target, ...]
    busy: float
    closed_loop: bool = False  # requests come as slots free up: no prompt waits for another
    correction: Correction = UNCORRECTED  # what a user measured, over what is modeled
    pipeline: Pipeline | None = None
    decodes_only: bool = False

    @property
    def least_utilization(self) -> float:
        """What waits must leave of a replica's rate; all that is planned for, where that is less."""
        return min(LEAST_UTILIZATION, self.busy)

    def point(self, admitted: Sequence[ClassLoad], batch: int) -> OperatingPoint:
        """Latencies and capacities at a batch, beside the worst mix of the admitted classes.

        TPOT = decode(B, longest context) + (B - 1) worst prefill per output token;
        capacity = rho / (prefill + OSL x decode(B) / B), rho: the utilisation cap of one replica.
        """
        step, tpot = self._steady(admitted, batch)
        services = self._services(admitted, batch)
        rho = self._share(services)
        wait = self._mean_wait_s(admitted, step, batch, rho)
        ttft = {load.name: self._first_token_s(load, step, wait, batch) for load in admitted}
        capacity = {load.name: rho * load.most_per_second(step, batch) for load in admitted}
        if self.closed_loop:  # a slot stays empty until the next prompt has come in
            capacity = {
                load.name: rho * batch / (ttft[load.name] + load.output_tokens * tpot)
                for load in admitted
            }
        steps = self._pool_steps(services, rho)
        known = all(self.correction.covers(*load.at(batch)) for load in admitted)
        source = "profiled" if known else "modeled"
        return OperatingPoint(batch, capacity, ttft, dict.fromkeys(ttft, tpot), steps, source)

    def misses(self, admitted: Sequence[ClassLoad], batch: int) -> list[Miss]:
        """Targets that do not hold at a full batch even if nobody waits for a slot."""
        step, tpot = self._steady(admitted, batch)
        found = []
        for target in self.targets:
            for load in admitted:
                value = self._slow_s(load, target, (step, tpot, batch))
                if value > target.limit_s:
                    found.append(Miss(target, load.name, value))
        return found

    def utilization(self, admitted: Sequence[ClassLoad], batch: int, servers: int = 1) -> float:
        """The share of a replica's rate at which waits stay within the targets, in such a pool.

        Never above `busy`. The least over classes, each beside the tightest slack of all.
        """
        return self._share(self._services(admitted, batch), servers)

    def _share(self, services: Sequence[Service], servers: int = 1) -> float:
        found = self.busy
        for service in services:
            found = utilization_cap(servers, service, found)
        return found

    def _pool_steps(self, services: Sequence[Service], rho: float) -> tuple[tuple[int, float], ...]:
        """How much more each replica of a pool may do, by the least size of the pool."""
        steps: list[tuple[int, float]] = []
        share = rho
        for servers in POOL_SIZES:
            if not 0.0 < share < self.busy:
                break
            share = self._share(services, servers)
            if share > LEAST_GAIN * rho * (steps[-1][1] if steps else 1.0):
                steps.append((servers, share / rho))
        return tuple(steps)

    def _services(self, admitted: Sequence[ClassLoad], batch: int) -> list[Service]:
        """Each class under each target that waiting counts in; none where prompts never wait."""
        waited = self._waited()
        if self.closed_loop or not waited:
            return []
        step, tpot = self._steady(admitted, batch)
        sizes = [size for size in BATCHES[::2] if size < batch]
        steps = [(size, self._steady(admitted, size)[0]) for size in sizes]
        prompt = 0.0
        if not self.decodes_only:
            prompt = max(load.prefill_s + self._mixed_steps(load) * step for load in admitted)
        found = []
        for target in waited:
            slack = min(self._slack_s(one, target, (step, tpot, batch)) for one in admitted)
            quantile = target.quantile or MEAN_AS_QUANTILE
            for load in admitted:
                work = (load.prefill_s, load.output_tokens, (*steps, (batch, step)))
                found.append(Service(*work, prompt, slack, quantile))
        return found

    def _waited(self) -> list[Target]:
        """The targets that waiting counts in."""
        return [target for target in self.targets if self.decodes_only or target.what != "tpot"]

    def _slack_s(self, load: ClassLoad, target: Target, point: tuple[float, float, int]) -> float:
        """How long a request may wait; of a TPOT, its tokens bear the wait and the cache's way."""
        left = target.limit_s - self._slow_s(load, target, point)
        return left * load.output_tokens - load.alone_s if target.what == "tpot" else left

    def largest_batch(self, admitted: Sequence[ClassLoad]) -> int:
        """The batch of the grid with the largest capacity that fits and misses no target; 0 if none.

        Latencies grow with the batch, so bisection finds the largest. A smaller one serves more
        only where its shorter steps leave that much more time to wait: smaller ones are tried for
        as long as that goes on.
        """
        memory = min(load.most_sequences for load in admitted)
        fitting = [batch for batch in BATCHES if batch <= memory]
        low, high = 0, len(fitting)
        while low < high:
            middle = (low + high) // 2
            if self.misses(admitted, fitting[middle]):
                high = middle
            else:
                low = middle + 1
        best, most = 0, 0.0
        for batch in reversed(fitting[:low]):
            rate = self._common_rate(admitted, batch)
            if rate <= most:
                break
            best, most = batch, rate
        return best

    def holds(self, admitted: Sequence[ClassLoad], batch: int) -> bool:
        """Whether every target holds at a batch, at a utilisation that is of use."""
        useful = self.utilization(admitted, batch) >= self.least_utilization
        return useful and not self.misses(admitted, batch)

    def wait_miss(self, load: ClassLoad) -> Miss | None:
        """The target that a class misses by waiting alone on one slot, and what would do; or None."""
        if self.closed_loop or self.misses((load,), 1) or self.holds((load,), 1):
            return None
        services = self._services((load,), 1)
        for target, service in zip(self._waited(), services, strict=True):
            value = target.limit_s
            while utilization_cap(1, service, self.busy) < self.least_utilization:
                value *= 1.05
                if not isfinite(value):
                    return None
                service = replace(service, slack_s=service.slack_s + value / 21.0)
            if value > target.limit_s:
                return Miss(target, load.name, value)
        return None

    def _common_rate(self, admitted: Sequence[ClassLoad], batch: int) -> float:
        """Requests/s if there are as many of each class; 0 at a utilisation that is of no use."""
        step, _ = self._steady(admitted, batch)
        rho = self.utilization(admitted, batch)
        if rho < self.least_utilization:
            return 0.0
        return rho / sum(1.0 / load.most_per_second(step, batch) for load in admitted)

    def _steady(self, admitted: Sequence[ClassLoad], batch: int) -> tuple[float, float]:
        """Step time and TPOT of a full batch beside the worst mix.

        Where TPOT was measured, the step is what prompts leave of it.
        """
        context, prompts = self._worst(admitted, batch)
        cut = self.pipeline
        step = (
            cut.decode_step_s(batch, context)
            if cut
            else decode_step_s(self.replica, batch, context)
        )
        tpot = step + prompts
        if self.correction.tpot:
            ratio = max(self.correction.tpot_at(*load.at(batch)) for load in admitted)
            tpot *= ratio
            step = max(LEAST_STEP * step, tpot - prompts)
        return step, tpot

    def _worst(self, admitted: Sequence[ClassLoad], batch: int) -> tuple[float, float]:
        """Mean context, and seconds of prefill that come with a step, of the worst full batch."""
        longest = max(load.prompt_tokens + load.output_tokens / 2.0 for load in admitted)
        return longest, (batch - 1.0) * max(c.prefill_s_per_output_token for c in admitted)

    def _slow_s(self, load: ClassLoad, target: Target, point: tuple[float, float, int]) -> float:
        """The value that a target limits, at a full batch, without any wait for a slot.

        `point`: step time, TPOT, batch.

        TTFT: the step under way, those with the prompt in them, and the prompt.
        """
        step, tpot, batch = point
        slow = tpot * tpot_ratio(self.replica.efficiency.tpot_quantiles, target.quantile)
        if target.what == "tpot":
            return slow
        first = self._first_token_s(load, step, self._mixed_steps(load) * step, batch)
        return first if target.what == "ttft" else first + load.output_tokens * slow

    def _mixed_steps(self, load: ClassLoad) -> int:
        """Steps that a prompt is spread over."""
        parts = [part.whole for part in self.pipeline.parts] if self.pipeline else [self.replica]
        return ceil(load.prompt_tokens / min(step_tokens(part.gpu) for part in parts))

    def _first_token_s(self, load: ClassLoad, step_s: float, wait_s: float, batch: int) -> float:
        if self.decodes_only:
            return 0.0
        slower = self.replica.efficiency.moe_prefill if self.replica.model.experts else 1.0
        alone = load.alone_s or load.prefill_s
        own = self.replica.engine.first_token_overhead_s + step_s + slower * alone
        return (own + wait_s) * self.correction.ttft_at(*load.at(batch))

    def _mean_wait_s(
        self, admitted: Sequence[ClassLoad], step: float, batch: int, rho: float
    ) -> float:
        busy = max(rho * load.most_per_second(step, batch) * load.prefill_s for load in admitted)
        service = max(load.prefill_s for load in admitted)
        return 0.0 if self.closed_loop else first_token_wait_s(busy, service, 0.0)
