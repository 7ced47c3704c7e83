"""The part of the scale bench in which the leader is killed and another operator takes over.

The standby is ready before (its lists are read), and has planned nothing. At the moment of the kill a pool is
edited, so that the next leader has something to plan; how long that takes is what a fleet waits for.
"""

from __future__ import annotations

import os
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from e2e import demo_operator
from e2e.cluster import processes
from e2e.cluster.components import free_ports
from e2e.cluster.processes import Process
from tests.bench.scale_hands import Bench, cycles_in

FAILOVER_S = 10.0
_WANTED = f"< {FAILOVER_S:g}"
_KUBECONFIG = "operator.kubeconfig"


@dataclass(slots=True)
class Standby:
    """A second operator for the time of the `with` block, with the first one's account."""

    folder: Path
    port: int = field(default_factory=lambda: free_ports(("health",))["health"])
    process: Process | None = None

    def __enter__(self) -> Self:
        flags = (f"--health-port={self.port}", "--log-format=json", "--leader-elect")
        self.process = demo_operator.start(self.folder, *flags)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process is not None:
            processes.stop(self.process, grace_s=5.0)

    def is_ready(self) -> bool:
        """Whether it could lead: every list is read, and the Lease was looked at."""
        with suppress(OSError):
            url = f"http://127.0.0.1:{self.port}/readyz"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        return False

    def cycles(self) -> list[dict[str, Any]]:
        """The log lines of its cycles: none while another leads."""
        return cycles_in(self.folder)


def failover(bench: Bench) -> None:
    """Rows about one takeover; afterwards no operator runs."""
    folder = bench.motley.folder / "standby"
    folder.mkdir()
    (folder / _KUBECONFIG).write_text((bench.motley.folder / _KUBECONFIG).read_text())
    with Standby(folder) as standby:
        bench.wait(standby.is_ready, 180.0, "the standby is ready", poll_s=0.2)
        bench.quiet()
        bench.say("cycles of the standby before", f"{len(standby.cycles())}", "0")
        before, pool = bench.pods(), min(key for _, key in bench.pods().values())
        bench.motley.kill()
        began = time.monotonic()
        bench.edit_s(pool, 1.2)
        took_s = time.monotonic() - began
        bench.say("leader killed -> the standby's first plan, s", f"{took_s:.1f}", _WANTED)
        bench.say("load average then", f"{os.getloadavg()[0]:.1f}")
        bench.quiet()
        first = standby.cycles()[0]  # its line is written when all is applied
        steps = ", ".join(f"{first[s]:.2f}" for s in ("gather_s", "decide_s", "apply_s"))
        bench.say("  of that gathered, decided, applied, s", steps)
        changed = before.keys() ^ bench.pods().keys()
        others = [uid for uid in changed if before.get(uid, ("", pool))[1] != pool]
        bench.say("pods of other pools that it stopped", f"{len(others)}", "0")
