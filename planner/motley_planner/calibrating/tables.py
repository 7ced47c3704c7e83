"""Writes the calibration table that planner and operator read (CONTRACT: one row a question)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from motley_planner.candidates.calibration import CalibrationTable

Tokens = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # by stage: prompt, output


def table_text(table: CalibrationTable, ids: Sequence[str], tokens: Tokens | None = None) -> str:
    """The table as CSV; `read_calibration` reads it back."""
    header, columns = ["question_id"], [list(ids)]
    if table.classes:
        header.append("class")
        columns.append(list(table.classes))
    for stage in table.stages:
        if stage in table.scores:
            header.append(f"{stage}:score")
            columns.append([f"{value:.9g}" for value in table.scores[stage]])
        header.append(f"{stage}:quality")
        columns.append([f"{value:.9g}" for value in table.qualities[stage]])
        if tokens and stage in tokens:
            for name, counts in zip(("prompt_tokens", "output_tokens"), tokens[stage], strict=True):
                header.append(f"{stage}:{name}")
                columns.append([f"{value:.9g}" for value in counts])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()
