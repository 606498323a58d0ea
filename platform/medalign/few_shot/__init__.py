"""Few-shot classification, whole: supports by seed, features cached once, every method trained, one table."""

from medalign.few_shot.protocol import few_shot, open_comparison
from medalign.few_shot.settings import FewShot

__all__ = ["FewShot", "few_shot", "open_comparison"]
