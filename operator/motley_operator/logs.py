"""Log lines: JSON, one object a line, each with the cycle it belongs to."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

# The correlation id of the running cycle; tasks and threads started in it inherit it.
cycle_id: ContextVar[str] = ContextVar("cycle_id", default="")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# kopf puts whole objects into its records; a log line names things and does not carry them.
_DROPPED = frozenset({"settings", "k8s_skip", "k8s_ref"})


class JsonFormatter(logging.Formatter):
    """One JSON object: time, level, logger, message, cycle, and what `extra=` adds."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if cycle := cycle_id.get():
            line["cycle"] = cycle
        extra = {k: v for k, v in vars(record).items() if k not in _STANDARD | _DROPPED}
        line.update({k: v for k, v in extra.items() if isinstance(v, str | int | float | bool)})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(form: str, level: str) -> None:
    """Send all log records to stderr in the given form (json | text)."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # kopf says at info what it does with every object; the cycle's own lines say it better.
    for noisy in ("kopf.objects", "aiohttp.access", "kopf.activities"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
