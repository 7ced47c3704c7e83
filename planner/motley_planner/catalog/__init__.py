"""GPUs, models, engines and RL frameworks as data files, and the one loader that checks them."""

from motley_planner.catalog.architectures import ArchitectureRefusal, model_from_config
from motley_planner.catalog.loading import load_catalog, with_gpu, with_model

__all__ = ["ArchitectureRefusal", "load_catalog", "model_from_config", "with_gpu", "with_model"]
