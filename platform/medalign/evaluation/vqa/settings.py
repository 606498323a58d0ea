"""Settings of an evaluation by questions: which are asked, how they are answered, how sure the scores are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medalign.errors import UserError


@dataclass(frozen=True, kw_only=True)
class VqaSettings:
    """How questions are asked and scored.

    Attributes:
        split: which split of the corpus.
        limit: ask only so many questions, the first ones of the corpus's order; all if None.
        max_new_tokens: the most tokens of an answer.
        batch: questions that are answered at once.
        workers: actors on Ray; 0 answers in this process.
        controls: ask about blank and shuffled images too.
        candidates: choose among the options of closed questions by likelihood too.
        replicates: resamples of an interval.
        level: its nominal coverage.
        seed: of the resamples and the shuffled images.
    """

    split: str = "test"
    limit: int | None = None
    max_new_tokens: int = 64
    batch: int = 8
    workers: int = 0
    controls: bool = False
    candidates: bool = False
    replicates: int = 2000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch", "replicates"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be >= 1, got {getattr(self, name)}.")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit must be >= 1, got {self.limit}.")
        if self.workers < 0:
            raise UserError(f"workers must be >= 0, got {self.workers}.")

    @property
    def intervals(self) -> dict[str, Any]:
        """What `score` and `compare` take."""
        return {"replicates": self.replicates, "level": self.level, "seed": self.seed}
