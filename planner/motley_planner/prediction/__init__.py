"""Rows of configurations in, predicted latencies out: the cost model for people with a table."""

from motley_planner.prediction.front import Prediction, predict
from motley_planner.prediction.rows import Configuration, RowError, read_configuration

__all__ = ["Configuration", "Prediction", "RowError", "predict", "read_configuration"]
