"""Constants and conversions; inside the planner everything is SI."""

from __future__ import annotations

from math import ceil, floor, isfinite, log10

GIGA = 1e9
TERA = 1e12
GIBI = 2.0**30
MEBI = 2.0**20
MICRO = 1e-6
MILLI = 1e-3
HOUR_S = 3600.0
MINUTE_S = 60.0


def figure(value: float) -> str:
    """A number for people: three significant digits or all whole ones, never an exponent."""
    if value == 0 or not isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - floor(log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def dollars(value_usd: float) -> str:
    """An amount in USD for a spec: cents, rounded up, and no more digits than needed."""
    cents = ceil(value_usd * 100 - 1e-6)
    return f"{cents // 100}" if cents % 100 == 0 else f"{cents / 100:.2f}"


def gigabytes(value_bytes: float) -> str:
    """Bytes as a short text in GB, the unit of datasheets."""
    if value_bytes < TERA:
        return f"{figure(value_bytes / GIGA)} GB"
    return f"{figure(value_bytes / TERA)} TB"


def milliseconds(value_s: float) -> str:
    """Seconds as a short text in ms, or in s from ten seconds on."""
    return f"{figure(value_s / MILLI)} ms" if value_s < 10.0 else f"{figure(value_s)} s"
