"""Layers over the fragments of many pipelines at once: the least bottleneck that memory allows.

A fragment of l layers takes fixed + l x per_layer seconds and can hold `most` layers. Were layers
divisible, all fragments but those that memory caps would finish together, at

    T = (layers - sum of capped most + sum of the others' fixed / per_layer)
        / sum of the others' 1 / per_layer.

No whole split is faster than T, so each fragment gets the layers it runs within T, and what is left
(less than one for each fragment) goes, one by one, to the fragment that would finish first: adding
greedily is exact for a bottleneck.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def split_layers(per_layer: Floats, fixed: Floats, most: Floats, layers: int) -> Ints:
    """Layers of each fragment, at least 1 each; all 0 where memory cannot hold the model.

    Shapes: (fragments, ...) each, and the result.
    """
    most = np.clip(np.floor(most), 0.0, layers)
    possible = (most.min(axis=0) >= 1.0) & (most.sum(axis=0) >= layers)
    if most.shape[0] > layers:
        possible = np.zeros_like(possible)
    most = np.maximum(most, 1.0)
    together = _together_s(per_layer, fixed, most, layers)
    found = np.floor((together - fixed) / per_layer * (1.0 + 1e-12))
    found = np.clip(found, 1.0, most)
    _fill_up(found, per_layer, fixed, np.where(possible, most, 0.0), layers)
    _take_off(found, per_layer, fixed, layers)
    return np.where(possible, found, 0.0).astype(np.int64)


def _together_s(per_layer: Floats, fixed: Floats, most: Floats, layers: int) -> Floats:
    """Seconds after which all fragments that memory does not cap finish, with divisible layers."""
    rate = 1.0 / per_layer
    head_start = fixed * rate
    together = (layers + head_start.sum(axis=0)) / rate.sum(axis=0)
    for _ in range(len(per_layer) - 1):
        capped = together * rate - head_start > most
        if not capped.any():
            break
        left = layers - np.where(capped, most, -head_start).sum(axis=0)
        rates = np.where(capped, 0.0, rate).sum(axis=0)
        together = np.maximum(together, left / np.maximum(rates, 1e-300))
        together = np.where(rates > 0.0, together, np.inf)  # all are capped: each holds its most
    return np.asarray(together)


def _fill_up(found: Floats, per_layer: Floats, fixed: Floats, most: Floats, layers: int) -> None:
    """Adds layers, each to the fragment that then finishes first, until there are `layers`."""
    missing = layers - found.sum(axis=0)
    index = np.arange(len(found)).reshape(-1, *[1] * (found.ndim - 1))
    while True:
        room = found < most
        wanted = (missing > 0) & room.any(axis=0)
        if not wanted.any():
            return
        finish = np.where(room, fixed + (found + 1.0) * per_layer, np.inf)
        found += (index == finish.argmin(axis=0)) & wanted
        missing = missing - wanted


def _take_off(found: Floats, per_layer: Floats, fixed: Floats, layers: int) -> None:
    """Takes layers off the busiest fragments until there are `layers`: every one needs at least 1."""
    excess = found.sum(axis=0) - layers
    index = np.arange(len(found)).reshape(-1, *[1] * (found.ndim - 1))
    while True:
        wanted = (excess > 0) & (found > 1.0).any(axis=0)
        if not wanted.any():
            return
        finish = np.where(found > 1.0, fixed + found * per_layer, -np.inf)
        found -= (index == finish.argmax(axis=0)) & wanted
        excess = excess - wanted
