"""What a trainer's pod template says against the checkpoint that the job asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from motley_operator.api.findings import Finding, Path
from motley_operator.api.rljob import RLJobSpec
from motley_operator.api.surroundings import found
from motley_operator.domain.names import CONTAINER


def checkpoint_findings(spec: RLJobSpec, at: Path) -> Iterator[Finding]:
    """A grace period that cuts the command short, and a second preStop hook."""
    saving, template = spec.checkpoint, spec.trainer.pod_template
    if not saving.command or template is None or not isinstance(template.get("spec"), Mapping):
        return
    at, pod = (*at, "trainer", "podTemplate", "spec"), template["spec"]
    grace_s, least_s = pod.get("terminationGracePeriodSeconds"), saving.timeout_seconds
    if grace_s is not None and not (isinstance(grace_s, int) and grace_s > least_s):
        yield found(
            (*at, "terminationGracePeriodSeconds"), "checkpoint",
            f"{grace_s} s leave checkpoint.command no {least_s} s (checkpoint.timeoutSeconds) and "
            "the trainer no time to end: leave it out, raise it, or lower timeoutSeconds",
            "InvalidSpec",
        )  # fmt: skip
    for i, container in enumerate(pod.get("containers") or ()):
        mine = isinstance(container, Mapping) and container.get("name") == CONTAINER
        hooks = container.get("lifecycle") if mine else None
        if isinstance(hooks, Mapping) and hooks.get("preStop") is not None:
            yield found(
                (*at, "containers", i, "lifecycle", "preStop"), "checkpoint",
                "checkpoint.command is the trainer's preStop hook: remove this one, or "
                "checkpoint.command", "InvalidSpec",
            )  # fmt: skip
