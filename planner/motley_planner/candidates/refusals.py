"""Why a stage has no candidate: one reason, the field it stands in, and what would lift it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import ceil

from motley_planner.candidates.loads import ClassLoad, class_loads
from motley_planner.candidates.operating import Evaluator
from motley_planner.candidates.targets import Miss
from motley_planner.costs.memory import kv_bytes, resident_tokens
from motley_planner.domain.demand import StageDemand, WorkloadClass
from motley_planner.domain.hardware import Catalog, NodeClass
from motley_planner.domain.plan import Refusal
from motley_planner.units import gigabytes, milliseconds


def stage_field(key: str, stage: str) -> str:
    """Path of a stage's block in its resource."""
    kind = key.partition("/")[0]
    if kind == "ModelCascade":
        return f"spec.stages[{stage}]"
    return f"spec.{stage}" if kind == "RLJob" else "spec"


@dataclass(slots=True)
class Survey:
    """What enumeration saw, so that it can say why nothing is left."""

    key: str
    stage: StageDemand
    classes: tuple[WorkloadClass, ...]
    unsupported: list[str] = field(default_factory=list)
    largest: Evaluator | None = None
    # Of each class: the replica whose worst miss is smallest, as (value / limit, miss, where).
    nearest: dict[str, tuple[float, Miss, str]] = field(default_factory=dict)

    def cannot_run(self, reason: str) -> None:
        """Note that a GPU type or engine cannot run the model at all."""
        self.unsupported.append(reason)

    def note(self, evaluator: Evaluator, loads: Sequence[ClassLoad]) -> None:
        """Note a replica that could run, and how near it comes to each class's targets."""
        replica = evaluator.replica
        if self.largest is None or replica.free_bytes > self.largest.replica.free_bytes:
            self.largest = evaluator
        where = f"{replica.gpu.name} tp{replica.tensor_parallel}"
        for load in loads:
            misses = evaluator.misses((load,), 1)
            if not misses:
                continue
            worst = max(misses, key=lambda miss: miss.value_s / miss.target.limit_s)
            ratio = worst.value_s / worst.target.limit_s
            if load.name not in self.nearest or ratio < self.nearest[load.name][0]:
                self.nearest[load.name] = (ratio, worst, where)

    def refusals(self, served: Collection[str]) -> tuple[Refusal, ...]:
        """One refusal for each class that no candidate serves; one for all if the model fits nowhere."""
        missing = [c for c in self.classes if c.name not in served]
        if not missing:
            return ()
        if self.largest is None:
            return (self._unsupported(),)
        if self.largest.replica.free_bytes <= 0:
            return (self._weights_too_large(self.largest),)
        return tuple(self._class_refusal(c, self.largest) for c in missing)

    def _unsupported(self) -> Refusal:
        reasons = "; ".join(dict.fromkeys(self.unsupported)) or "no GPU count divides its heads"
        base = stage_field(self.key, self.stage.name)
        message = f"{self.stage.model.name} cannot run on any allowed GPU: {reasons}."
        lift = f"{base}.model.precision bf16, or a newer GPU"
        return Refusal("ModelDoesNotFit", f"{base}.model.precision", message, lift)

    def _weights_too_large(self, evaluator: Evaluator) -> Refusal:
        replica, base = evaluator.replica, stage_field(self.key, self.stage.name)
        usable = replica.free_bytes + replica.weight_bytes
        message = (
            f"{self.stage.model.name} needs {gigabytes(replica.weight_bytes)} for its "
            f"{self.stage.precision} weights; the largest allowed replica, "
            f"{replica.tensor_parallel} x {replica.gpu.name}, has {gigabytes(usable)} for them."
        )
        return Refusal("ModelDoesNotFit", f"{base}.model", message, self._memory_lift(evaluator))

    def _memory_lift(self, evaluator: Evaluator) -> str:
        replica = evaluator.replica
        each = (replica.free_bytes + replica.weight_bytes) / replica.tensor_parallel
        gpus = ceil(replica.weight_bytes / each)
        smaller = {"bf16": "fp8", "fp16": "fp8", "fp8": "int4", "int8": "int4"}
        precision = smaller.get(self.stage.precision)
        lifts = [f"model.precision {precision}"] if precision else []
        if self.stage.max_tensor_parallel < gpus <= 8:
            lifts.append(f"parallelism.maxTensor {1 << (gpus - 1).bit_length()}")
        nodes = ceil(gpus / 8)
        if replica.engine.pipeline_parallel and self.stage.max_pipeline < nodes <= 4:
            lifts.append(f"parallelism.maxPipeline {nodes}")
        return " or ".join([*lifts, "GPUs with more memory"])

    def _class_refusal(self, wanted: WorkloadClass, largest: Evaluator) -> Refusal:
        model, base = self.stage.model, stage_field(self.key, self.stage.name)
        tokens = wanted.prompt_tokens + wanted.output_tokens
        place = f"spec.workload.classes[{wanted.name}]"
        if tokens > model.max_context_tokens:
            message = (
                f"A request of class {wanted.name} has {tokens} tokens; "
                f"{model.name} takes {model.max_context_tokens}."
            )
            return Refusal(
                "ModelDoesNotFit", place, message, f"at most {model.max_context_tokens} tokens"
            )
        if wanted.name in self.nearest:
            return self._too_slow(wanted.name, base)
        for load in class_loads(largest.replica, [wanted]):
            miss = largest.wait_miss(load) if load.most_sequences >= 1.0 else None
            if miss is not None:
                where = f"{largest.replica.gpu.name} tp{largest.replica.tensor_parallel}"
                self.nearest[wanted.name] = (1.0, miss, where)
                return self._too_slow(wanted.name, base)
        replica = largest.replica
        held = resident_tokens(wanted.prompt_tokens, wanted.output_tokens)
        need = kv_bytes(model, held, replica.kv_value_bytes) * replica.kv_replication
        message = (
            f"One request of class {wanted.name} needs {gigabytes(need)} of KV cache; the largest "
            f"allowed replica, {replica.tensor_parallel} x {replica.gpu.name}, has "
            f"{gigabytes(replica.free_bytes)} beside the weights."
        )
        return Refusal("ModelDoesNotFit", place, message, self._memory_lift(largest))

    def _too_slow(self, name: str, base: str) -> Refusal:
        _, miss, where = self.nearest[name]
        target = miss.target
        path = f"spec.slo.{target.what}.{target.percentile}"
        best, asked = milliseconds(miss.value_s), milliseconds(target.limit_s)
        message = (
            f"Class {name} cannot meet {target.what.upper()} {target.percentile} of {asked}"
            f"{'' if base == 'spec' else f' at {base}'}: the best predicted is {best}, on {where}."
        )
        # Rounded up to 5 %, so that the stated value does lift it.
        lift = f"{path} {asked} -> {milliseconds(miss.value_s * 1.05)}"
        return Refusal("LatencyUnreachable", path, message, lift)


def placement_refusal(
    key: str, stage: StageDemand, node_classes: Sequence[NodeClass], catalog: Catalog
) -> Refusal:
    """Which placement rule (or which combination) leaves no node class."""
    base, placement = stage_field(key, stage.name), stage.placement
    if not node_classes:
        message = "The fleet has no GPU node that this resource may use."
        return Refusal("InsufficientGPUs", base, message, "+1 GPU node")
    rules = (
        ("gpuProducts", placement.gpus, {c.gpu for c in node_classes}),
        ("zones", placement.zones, {c.zone for c in node_classes}),
        ("capacityTypes", placement.capacity_types, {c.capacity_type for c in node_classes}),
        ("trustZones", placement.trust_zones, {c.trust_zone for c in node_classes}),
    )
    used = [(name, asked, there) for name, asked, there in rules if asked]
    empty = [rule for rule in used if not rule[1] & rule[2]]
    if empty:
        name, asked, there = empty[0]
        message = (
            f"No node matches placement.{name} {_listed(asked)}; the fleet has {_listed(there)}."
        )
        lift = f"add {_listed(there)} to {base}.placement.{name}, or such a node"
        return Refusal("PlacementUnsatisfiable", f"{base}.placement.{name}", message, lift)
    names = " and ".join(f"placement.{name}" for name, _, _ in used)
    message = f"Each of {names} matches some node, but no node matches all of them."
    lift = f"relax one of {names}"
    return Refusal("PlacementUnsatisfiable", f"{base}.placement", message, lift)


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names))
