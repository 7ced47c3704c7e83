"""What a resource says of weights that are fetched onto a volume: the condition WeightsReady."""

from __future__ import annotations

from collections.abc import Sequence

from motley_operator.domain.weights import (
    COMPLETE,
    FAILED,
    FETCHING,
    REFUSED,
    RETRY_S,
    RETRYING,
    Weights,
)
from motley_operator.status.conditions import Statement
from motley_operator.status.refused import LIFTS, POD_REFUSED

WEIGHTS_READY = "WeightsReady"
STEP_PERCENT = 5  # a status is written when so much more is there, not every few seconds
_REASONS = {
    FAILED: "DownloadFailed",
    REFUSED: POD_REFUSED,
    RETRYING: "DownloadRetrying",
    FETCHING: "Downloading",
}
_ORDER = (FAILED, REFUSED, RETRYING)  # the worst first
UNDER_WAY = ("Downloading", "DownloadPending")


def weights_ready(weights: Sequence[Weights]) -> tuple[Statement, ...]:
    """Whether the weights are there; nothing where none are cached. The worst Job gives the reason."""
    missing = [one for one in weights if one.state != COMPLETE]
    if not weights:
        return ()
    if not missing:
        return (Statement(WEIGHTS_READY, "True", "Downloaded", "the weights are on the volume"),)
    ranks = {state: rank for rank, state in enumerate(_ORDER)}
    missing.sort(key=lambda one: (ranks.get(one.state, len(ranks)), one.stages))
    reason = _REASONS.get(missing[0].state, "DownloadPending")
    return (Statement(WEIGHTS_READY, "False", reason, "; ".join(map(_words, missing))),)


def _words(one: Weights) -> str:
    stages = ", ".join(one.stages)
    if one.state == FAILED:
        minutes = f"{RETRY_S / 60:.0f} minutes"
        return f"{stages}: given up, tried again after {minutes} (or an edit): {one.message}"
    if one.refusal is not None:
        lift = LIFTS[one.refusal]
        return f"{stages}: the API server refuses the Job's pod: {one.message} (lift: {lift})"
    if one.state == RETRYING:
        return f"{stages}: tried again soon, the last attempt said: {one.message}"
    if one.state == FETCHING:
        failed = f" (an attempt before failed: {one.message})" if one.message else ""
        return f"{stages}: {_progress(one)}{failed}"
    return f"{stages}: {one.message}"


def _progress(one: Weights) -> str:
    if one.done_bytes is None or not one.total_bytes:
        return "started"
    percent = STEP_PERCENT * int(100 * one.done_bytes / one.total_bytes / STEP_PERCENT)
    return f"{percent} % of {one.total_bytes / 1e9:.1f} GB"
