"""Constants and conversions; inside the planner everything is SI."""

from __future__ import annotations

GIGA = 1e9
TERA = 1e12
GIBI = 2.0**30
MEBI = 2.0**20
MICRO = 1e-6
MILLI = 1e-3
HOUR_S = 3600.0
MINUTE_S = 60.0


def gigabytes(value_bytes: float) -> str:
    """Bytes as a short text in GB, the unit of datasheets."""
    return f"{value_bytes / GIGA:.3g} GB" if value_bytes < 1e12 else f"{value_bytes / TERA:.3g} TB"


def milliseconds(value_s: float) -> str:
    """Seconds as a short text in ms, or in s from ten seconds on."""
    return f"{value_s / MILLI:.3g} ms" if value_s < 10.0 else f"{value_s:.3g} s"
