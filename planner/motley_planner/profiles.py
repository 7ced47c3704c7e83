"""Reading a measured profile: a CSV table of what a user's own replicas did.

    model,gpu,tp,precision,prompt_tokens,output_tokens,batch,ttft_ms,tpot_ms,requests_per_second

`concurrency` may stand for `batch`, `tokens_per_second` (output tokens of the replica) for
`requests_per_second`. A row gives TPOT, or a throughput from which it follows by Little's law:
batch = requests/s x (TTFT + output x TPOT).
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Mapping

from motley_planner.domain.hardware import Catalog, LabelRefusal
from motley_planner.domain.measurements import Profile, ProfileKey, ProfilePoint
from motley_planner.errors import PlannerError

REQUIRED = ("model", "gpu", "tp", "precision", "prompt_tokens", "output_tokens")
EITHER = (("batch", "concurrency"), ("tpot_ms", "requests_per_second", "tokens_per_second"))
KNOWN = frozenset((*REQUIRED, "ttft_ms", *(name for names in EITHER for name in names)))
MOST_ROWS = 100_000


class ProfileError(PlannerError):
    """A profile table that cannot be used: line, column, rule and fix."""

    def __init__(self, line: int, column: str, rule: str) -> None:
        super().__init__(f"line {line}: {column}: {rule}" if column else f"line {line}: {rule}")
        self.line, self.column, self.rule = line, column, rule


def read_profile(text: str, catalog: Catalog) -> Profile:
    """The profile of a CSV text; models and GPUs by any of their names.

    Raises: ProfileError naming line, column, rule and fix.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    points: dict[ProfileKey, dict[tuple[float, float, float], ProfilePoint]] = defaultdict(dict)
    try:
        for cells in reader:
            if not cells:
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                _check_header(header, reader.line_num)
                continue
            if len(cells) != len(header):
                rule = (
                    f"{len(cells)} cells under a header of {len(header)}; quote cells with commas"
                )
                raise ProfileError(reader.line_num, "", rule)
            row = _Row(dict(zip(header, cells, strict=True)), reader.line_num)
            key, point = row.key(catalog), row.point()
            at = (point.batch, point.prompt_tokens, point.output_tokens)
            if at in points[key]:
                rule = "the same configuration and load stand in an earlier row; keep one of them"
                raise ProfileError(reader.line_num, "", rule)
            points[key][at] = point
            if reader.line_num > MOST_ROWS:
                raise ProfileError(
                    reader.line_num, "", f"more than {MOST_ROWS} rows; thin them out"
                )
    except csv.Error as error:
        raise ProfileError(reader.line_num, "", f"not CSV ({error}); check the quotes") from error
    if not header:
        raise ProfileError(1, "", f"the table is empty; start it with {','.join(REQUIRED)}")
    return Profile({key: tuple(found.values()) for key, found in points.items()})


def _check_header(header: list[str], line: int) -> None:
    for name in header:
        if name not in KNOWN:
            raise ProfileError(line, name, f"unknown column; use {', '.join(sorted(KNOWN))}")
        if header.count(name) > 1:
            raise ProfileError(line, name, "occurs twice; keep one of them")
    for name in REQUIRED:
        if name not in header:
            raise ProfileError(line, name, "the column is missing; add it to the header")
    for names in EITHER:
        if not set(names) & set(header):
            raise ProfileError(line, " or ".join(names), "one of these columns is needed")


class _Row:
    """One line of the table, read cell by cell."""

    def __init__(self, cells: Mapping[str, str], line: int) -> None:
        self.cells, self.line = cells, line

    def key(self, catalog: Catalog) -> ProfileKey:
        """The configuration, by catalog names."""
        name, label = self._text("model"), self._text("gpu")
        model, gpu = catalog.model(name), catalog.gpu_by_label(label)
        if model is None:
            near = ", ".join(catalog.nearest_models(name)) or "an id of the catalog"
            raise ProfileError(self.line, "model", f"unknown model {name!r}; use {near}")
        if isinstance(gpu, LabelRefusal):
            near = ", ".join(gpu.nearest) or "a label of the catalog"
            raise ProfileError(self.line, "gpu", f"{gpu.reason}: {label!r}; use {near}")
        ranks = self._number("tp")
        if ranks is None or ranks != int(ranks):
            raise ProfileError(self.line, "tp", "is no whole number of GPUs; write one, such as 4")
        return ProfileKey(model.name, gpu.name, int(ranks), self._text("precision").casefold())

    def point(self) -> ProfilePoint:
        """The load and what was measured."""
        batch = self._needed("batch" if self.cells.get("batch", "").strip() else "concurrency")
        prompt, output = self._needed("prompt_tokens"), self._needed("output_tokens")
        ttft_ms, tpot_ms = self._number("ttft_ms"), self._number("tpot_ms")
        ttft = None if ttft_ms is None else ttft_ms / 1e3
        if tpot_ms is not None:
            return ProfilePoint(batch, prompt, output, ttft, tpot_ms / 1e3)
        rate = self._number("requests_per_second")
        if rate is None:
            tokens = self._number("tokens_per_second")
            rate = None if tokens is None else tokens / output
        if rate is None:
            raise ProfileError(self.line, "tpot_ms", "is empty; give it, or a throughput")
        tpot = (batch / rate - (ttft or 0.0)) / output
        if tpot <= 0:
            rule = "the throughput is more than the batch and TTFT allow; check the three"
            raise ProfileError(self.line, "requests_per_second", rule)
        return ProfilePoint(batch, prompt, output, ttft, tpot)

    def _text(self, column: str) -> str:
        text = self.cells[column].strip()
        if not text:
            raise ProfileError(self.line, column, "is empty; fill it in")
        return text

    def _needed(self, column: str) -> float:
        value = self._number(column)
        if value is None:
            raise ProfileError(self.line, column, "is empty; give a number above 0")
        return value

    def _number(self, column: str) -> float | None:
        text = self.cells.get(column, "").strip()
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise ProfileError(self.line, column, f"{text!r} is no number above 0; write one")
        return value
