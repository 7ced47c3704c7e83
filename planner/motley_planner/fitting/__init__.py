"""Fits the cost model's factors to measured rows, scores the fit, and writes catalog/fitted.toml."""
