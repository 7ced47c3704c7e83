"""Reads recorded requests: Azure and Mooncake traces, a plain CSV, and tables of rates.

    TIMESTAMP,ContextTokens,GeneratedTokens              Azure LLM inference traces (date-time)
    {"timestamp", "input_length", "output_length", ...}  Mooncake, JSON lines (ms)
    time_s,prompt_tokens,output_tokens[,class]           any of your own (seconds)
    t_s,<column>,...                                     requests/s by time window (ServeGen)

`.gz` files are read as they are. Only the first form has date-times; every form starts at 0.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TextIO

import numpy as np

from motley_planner.errors import SnapshotError
from motley_planner.json_reader import decoded
from motley_planner.simulator.arrivals import Arrivals, Floats, Kind, with_classes

AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
OWN = ("time_s", "prompt_tokens", "output_tokens")
MOST_REQUESTS = 5_000_000
LARGEST_HASH = 2**62
MOST = 1e15  # of any number in a trace; squares of it are finite still
Row = tuple[float, float, float, str, int]  # seconds, prompt, output, class, prefix


def read_trace(path: str | Path) -> Arrivals:
    """The requests of a trace file, earliest first; classes "" where the file names none.

    Raises: SnapshotError naming line and column; OSError.
    """
    name = Path(path).name
    with _opened(path) as text:
        head = text.readline()
        rows = list(_rows(head, text, name))
    if not rows:
        raise SnapshotError(f"trace {name}", "holds no request; give at least one")
    rows.sort(key=lambda row: row[0])
    classes = tuple(dict.fromkeys(row[3] for row in rows))
    places = {each: index for index, each in enumerate(classes)}
    times = np.array([row[0] for row in rows])
    return Arrivals(
        classes=classes,
        time_s=times - times[0],
        class_index=np.array([places[row[3]] for row in rows], dtype=np.int64),
        prompt_tokens=np.array([row[1] for row in rows]),
        output_tokens=np.maximum(1.0, np.array([row[2] for row in rows])),
        prefix=np.array([row[4] for row in rows], dtype=np.int64),
    )


def is_rate_table(path: str | Path) -> bool:
    """Whether a file gives rates by time window instead of requests."""
    with _opened(path) as text:
        return text.readline().strip().split(",")[0] == "t_s"


def read_rates(path: str | Path, column: str) -> tuple[Floats, Floats]:
    """Window starts (s) and requests/s of one column of a rate table.

    Raises: SnapshotError naming line and column; OSError.
    """
    name = Path(path).name
    with _opened(path) as text:
        lines = csv.DictReader(text)
        names = [each for each in lines.fieldnames or () if each != "t_s"]
        if column not in names:
            listed = ", ".join(names)
            raise SnapshotError(f"trace {name}", f"has no column {column!r}: use one of {listed}")
        found = [
            (_number(row["t_s"], name, at, "t_s"), _number(row[column], name, at, column))
            for at, row in enumerate(lines, 2)
            if row[column]
        ]
    if len(found) < 2:
        raise SnapshotError(f"trace {name}, column {column}", "has fewer than 2 windows")
    starts, rates = np.array(found).T
    if not (np.diff(starts) > 0.0).all():
        line = int(np.argmax(np.diff(starts) <= 0.0)) + 3
        raise SnapshotError(f"trace {name}, line {line}", "t_s: is not above the line before")
    return starts - starts[0], rates


def drawn_from_rates(
    kinds: tuple[Kind, ...], starts_s: Floats, rates: Floats, *, seed: int, most: int
) -> Arrivals:
    """At most `most` Poisson requests whose rate follows the windows; the last is as long as the first.

    Raises: SnapshotError where no request comes of it.
    """
    rng = np.random.default_rng(seed)
    lengths = np.diff(starts_s, append=starts_s[-1] + (starts_s[1] - starts_s[0]))
    counts = rng.poisson(np.minimum(rates * lengths, MOST_REQUESTS))
    enough = int(np.searchsorted(np.cumsum(counts), most)) + 1
    times = np.concatenate(
        [
            start + np.sort(rng.uniform(0.0, length, count))
            for start, length, count in zip(
                starts_s[:enough], lengths[:enough], counts[:enough], strict=True
            )
        ]
    )[:most]
    if not len(times):
        raise SnapshotError("trace", "no request comes of these rates")
    shares = np.array([kind.requests_per_second for kind in kinds])
    chosen = rng.choice(len(kinds), len(times), p=shares / shares.sum())
    return with_classes(kinds, times, chosen, rng, 0.0)


@contextmanager
def _opened(path: str | Path) -> Iterator[TextIO]:
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="") as text:
            yield text
    except (UnicodeDecodeError, gzip.BadGzipFile, zlib.error, EOFError, csv.Error) as error:
        raise SnapshotError(f"trace {Path(path).name}", f"cannot be read ({error})") from error


def _rows(head: str, rest: Iterable[str], name: str) -> Iterator[Row]:
    header = [cell.strip().lstrip("\ufeff") for cell in head.strip().split(",")]
    if head.lstrip().startswith("{"):
        return _mooncake([head, *rest], name)
    if tuple(header[:3]) == AZURE:
        return _azure(rest, name)
    if tuple(header[:3]) == OWN:
        return _own(header, rest, name)
    wanted = " or ".join((",".join(AZURE), ",".join(OWN)))
    raise SnapshotError(f"trace {name}, line 1", f"is not a known header; write {wanted}")


def _azure(lines: Iterable[str], name: str) -> Iterator[Row]:
    for at, cells in _cells(lines, 3):
        try:  # seven digits of a second are one more than fromisoformat takes
            when = datetime.fromisoformat(cells[0][:26]).timestamp()
        except ValueError as error:
            raise SnapshotError(f"trace {name}, line {at}", f"TIMESTAMP: {error}") from error
        prompt, output = (_number(cells[i], name, at, AZURE[i]) for i in (1, 2))
        yield when, prompt, output, "", -1


def _own(header: list[str], lines: Iterable[str], name: str) -> Iterator[Row]:
    place = header.index("class") if "class" in header else -1
    for at, cells in _cells(lines, len(header)):
        when, prompt, output = (_number(cells[i], name, at, OWN[i]) for i in range(3))
        yield when, prompt, output, cells[place].strip() if place >= 0 else "", -1


def _cells(lines: Iterable[str], least: int) -> Iterator[tuple[int, list[str]]]:
    for at, cells in enumerate(csv.reader(lines), 2):
        if cells:
            yield at, cells + [""] * (least - len(cells))


def _mooncake(lines: Iterable[str], name: str) -> Iterator[Row]:
    for at, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = decoded(line)
        except (ValueError, RecursionError) as error:
            raise SnapshotError(f"trace {name}, line {at}", f"not JSON ({error})") from error
        if not isinstance(item, Mapping):
            raise SnapshotError(f"trace {name}, line {at}", "is not an object")
        fields = ("timestamp", "input_length", "output_length")
        when, prompt, output = (_number(item.get(each), name, at, each) for each in fields)
        blocks = item.get("hash_ids") or [-1]
        first = blocks[0] if isinstance(blocks, list) and isinstance(blocks[0], int) else -1
        if not -1 <= first <= LARGEST_HASH:
            place = f"trace {name}, line {at}, column hash_ids"
            raise SnapshotError(place, f"ids lie between 0 and {LARGEST_HASH}; number blocks so")
        yield when / 1000.0, prompt, output, "", first


def _number(value: object, name: str, line: int, column: str) -> float:
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        found = float("nan")
    if not 0.0 <= found <= MOST:
        place = f"trace {name}, line {line}, column {column}"
        raise SnapshotError(place, f"{value!r} is not a number of 0 or more, at most {MOST:g}")
    return found
