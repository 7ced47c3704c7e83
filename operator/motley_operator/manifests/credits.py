"""KV-token credits: what each gateway pod may have at work on a replica.

The plan's column says how many tokens of context fit beside the weights. Gateways share them
equally. A quarter more is given out than fits: the engine then has the next request at hand while an answer
is on its way, and a gateway that gets less than its share leaves less idle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from motley_operator.api.adapters import rank_of, slots_of
from motley_operator.api.traffic import Workload
from motley_operator.manifests.stages import StageSpec
from motley_planner.costs.kv_room import KvRoom, kv_room, pipeline_kv_room
from motley_planner.costs.pipeline import pipeline_of
from motley_planner.costs.replica import replica_of
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.models import ModelSpec
from motley_planner.domain.plan import PlannedReplica

_GIVEN_OUT = 1.25


@dataclass(frozen=True, slots=True)
class Credits:
    """How credits are worked out for one resource; `models` by stage, `typical` tokens a request."""

    catalog: Catalog
    models: Mapping[str, ModelSpec]
    typical: tuple[float, float]  # prompt, output
    gateways: int

    def of(self, replica: PlannedReplica) -> float:
        """KV tokens, prompt and answer, of one gateway; 0, for no limit, where nothing is known.

        Of prompts alone on a replica that only prefills: it makes one token, and the answer's cache
        is elsewhere.
        """
        room = self._room(replica)
        if room is None:
            return 0.0
        prompt, output = self.typical
        whole = room.at_work(prompt, 0.0 if replica.phase == "prefill" else output)
        if not 0.0 < whole < float("inf"):
            return 0.0
        return float(f"{_GIVEN_OUT * whole / self.gateways:.4g}")

    def _room(self, replica: PlannedReplica) -> KvRoom | None:
        catalog, model = self.catalog, self.models[replica.stage]
        engine, gpu = catalog.engines[replica.engine], catalog.gpus[replica.gpu]
        if replica.pipeline:
            cut = pipeline_of(model, replica.precision, replica.pipeline, engine, catalog)
            return None if isinstance(cut, str) else pipeline_kv_room(cut)
        if catalog.efficiency is None or len(replica.nodes) != 1:
            return None
        made = replica_of(
            model, replica.precision, gpu, replica.tensor_parallel, engine, catalog.efficiency
        )
        return None if isinstance(made, str) else kv_room(made)


def credits_of(
    catalog: Catalog,
    stages: Sequence[tuple[StageSpec, ModelSpec]],
    workload: Workload,
    gateways: int,
) -> Credits:
    """The credits of a resource with these stages, for requests as its workload has them."""
    models = {stage.name: _with_adapters(model, stage, catalog) for stage, model in stages}
    total = sum(each.weight for each in workload.classes)
    prompt, output = (
        sum(each.weight * getattr(each, name) for each in workload.classes) / total
        for name in ("prompt_tokens", "output_tokens")
    )
    return Credits(catalog, models, (prompt, output), gateways)


def _with_adapters(model: ModelSpec, stage: StageSpec, catalog: Catalog) -> ModelSpec:
    """The model with the memory of the stage's adapters."""
    launch = catalog.engines[stage.engine.name].launch
    if not stage.adapters or launch is None or launch.adapters is None:
        return model
    rank = rank_of(stage.adapters, launch.adapters.ranks)
    return replace(model, adapter_slots=slots_of(stage.adapters), adapter_rank=rank)
