"""Blend environmental noise into music: methods, data, metrics and the experiments of the papers, reproduced."""

__version__ = "0.1.0"
