"""A resource that was measured idle and holds nothing, and the gateway that holds requests for it.

A gateway without replicas finishes no request, so nothing can be counted; it writes an annotation
instead, with another value each time. A value that the status does not show yet is news. Clocks are
not compared: gateways and operator may disagree about the time.
"""

from __future__ import annotations

from motley_operator.api.quantities import Quantity
from motley_operator.api.status import DemandStatus
from motley_operator.api.traffic import Gateway, Workload

HELD = "Held"
_SHARE = 10.0  # of the stated rate; the rest comes with what is measured then


def may_sleep(workload: Workload, gateway: Gateway) -> bool:
    """Whether the resource can be planned without a replica and be woken again."""
    least = workload.min_requests_per_second
    is_least_zero = (
        least.per_second == 0.0
        if least is not None
        else workload.requests_per_second.per_second == 0.0
    )
    measured = workload.demand == "Measured"
    return measured and is_least_zero and gateway.hold.requests > 0 and wake_rate(workload) > 0.0


def wake_rate(workload: Workload) -> float:
    """Requests/s that a woken resource is planned for: a tenth of the stated rate.

    Where that is 0, a hundredth of the most. 0 where the spec allows for no request at all.
    """
    stated = workload.requests_per_second.per_second
    most = workload.max_requests_per_second
    rate = stated / _SHARE
    if stated == 0.0 and most is not None:
        rate = most.per_second / _SHARE**2
    return min(rate, most.per_second) if most is not None else rate


def woken(before: DemandStatus | None, word: str, in_force: float) -> bool:
    """Whether a gateway's word is news: requests wait, and nothing is planned, or it may be soon."""
    if not word:
        return False
    if before is None:
        return in_force == 0.0
    return before.held_at != word


def after_word(before: DemandStatus, word: str, rate: Quantity | None, time: str) -> DemandStatus:
    """The demand in force once a word was heard; `rate` where nothing was planned for."""
    heard = {"held_at": word, "time": time}
    if rate is None:
        return before.model_copy(update=heard)
    figures = {"source": HELD, "requests_per_second": rate, "low": rate, "high": rate}
    return before.model_copy(update={**figures, **heard})
