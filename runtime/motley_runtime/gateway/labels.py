"""Labels of answers: score and whether it was right, without any text; bounded, newest kept."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

log = logging.getLogger("motley.gateway")

_KEPT = 2000  # in memory
_FILE_BYTES = 1 << 20  # of each of two files, the older one dropped when the newer is full
NAME = "labels.jsonl"


@dataclass(frozen=True, slots=True)
class Label:
    """One labelled answer."""

    stage: str
    score: float
    agrees: bool
    label: str
    plan: str
    unix_s: float


class Labels:
    """The store: in memory, and in the state directory where there is one."""

    def __init__(self, folder: Path | None) -> None:
        self.recent: deque[Label] = deque(maxlen=_KEPT)
        self._path = folder / NAME if folder is not None else None

    def add(self, label: Label) -> None:
        """Keeps a label; a disk that cannot be written to costs only the file."""
        self.recent.append(label)
        if self._path is None:
            return
        try:
            if self._path.exists() and self._path.stat().st_size >= _FILE_BYTES:
                self._path.replace(self._path.with_suffix(".old.jsonl"))
            with self._path.open("ab") as file:
                file.write(orjson.dumps(asdict(label)) + b"\n")
        except OSError as error:
            log.warning("label not kept", extra={"fields": {"reason": str(error)}})


def now_s() -> float:
    """Unix seconds, in whole ones: a label tells nobody's request apart."""
    return float(int(time.time()))
