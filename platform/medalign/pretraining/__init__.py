"""A comparison of pretraining objectives, whole: one encoder, the same images and budget, probes, one table."""

from medalign.pretraining.protocol import compare_pretraining, open_comparison
from medalign.pretraining.settings import Comparison

__all__ = ["Comparison", "compare_pretraining", "open_comparison"]
