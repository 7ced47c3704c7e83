"""Limits on what the pods of several resources take together, of anything that can be counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PodUse:
    """What a pod of one stage takes of a limit, by how many GPUs it holds."""

    key: str
    stage: str
    vendor: str  # of its GPUs
    amounts: tuple[int, ...]  # of a pod of 1, 2, ... GPUs

    def of(self, gpus: int) -> int:
        """What a pod with so many GPUs takes; beyond the table it grows as it did at its end."""
        if gpus <= len(self.amounts):
            return self.amounts[gpus - 1]
        last = self.amounts[-1]
        each = max(0, last - self.amounts[-2]) if len(self.amounts) > 1 else last
        return last + (gpus - len(self.amounts)) * each


@dataclass(frozen=True, slots=True)
class Quota:
    """sum over all pods of `uses` of what each takes <= at_most.

    What runs is never stopped for a quota: where it takes more than `at_most` already, it stays and
    nothing that takes any of it is added. `at_most` is what others leave of `hard`, the limit as
    people wrote it. Amounts are whole numbers of the smallest unit that counts (thousandths of a
    core, bytes, GPUs, pods); people read them divided by `unit` and with `suffix`.
    """

    name: str  # as people know it
    uses: tuple[PodUse, ...]
    at_most: int
    hard: int
    unit: int = 1
    suffix: str = ""
    reason: str = "QuotaTooLow"
    lift: str = ""  # what would lift it; empty: a larger limit
    over: int = 0  # what runs takes beyond `at_most`: where that falls, another plan is due

    def written(self, amount: float) -> str:
        """The amount as people write it."""
        return f"{amount / self.unit:.10g}{self.suffix}"
