"""The last good routing document on disk, for a start while its source is broken or away."""

from __future__ import annotations

import logging
import os
from pathlib import Path

log = logging.getLogger("motley.gateway")

_NAME = "last-good-routing.json"


class LastGood:
    """One file, replaced as a whole. A disk that cannot be written to is said and survived."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _NAME

    def read(self) -> bytes | None:
        """What was kept; None where nothing was."""
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.error("last good routing not read", extra={"fields": {"reason": str(error)}})
            return None

    def write(self, raw: bytes) -> None:
        """Keeps a document in place of the one before."""
        temporary = self._path.with_suffix(".new")
        try:
            with open(temporary, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        except OSError as error:
            log.error("last good routing not kept", extra={"fields": {"reason": str(error)}})
