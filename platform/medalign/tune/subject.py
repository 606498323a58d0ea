"""What a sweep is made over: a recipe of training, or one of few-shot classification, behind the same few questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from medalign.config import Document
from medalign.tune.exchange import Work
from medalign.tune.packing import Demand
from medalign.tune.settings import Tune
from medalign.tune.space import Space


class Subject(Protocol):
    """A recipe whose keys are searched."""

    demand: Demand

    def check(self, space: Space) -> None:
        """Refuse a space that the recipe cannot take. Needs no cluster."""

    def check_metrics(self) -> None:
        """Refuse a metric that no trial reports."""

    def total_steps(self, space: Space) -> int:
        """Return the steps of the longest trial, in the unit of its reports."""

    def work(self) -> Work:
        """Compute what all trials share, once, and return what each of them does."""

    def best_recipe(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the whole recipe of a point: what runs it alone."""

    def export(self, work: Any, point: Mapping[str, Any], number: int, to: str) -> list[str]:
        """Write the best trial's checkpoint and return the files or folders."""


def open_subject(document: Document, settings: Tune) -> Subject:
    """Open the recipe beside `search` and `tune`.

    Raises:
        RecipeError: anything wrong with it.
    """
    if "tasks" in document.values:
        from medalign.tune.few_shot_trials import FewShotSubject

        return FewShotSubject(document, settings)
    from medalign.tune.training_trials import TrainingSubject

    return TrainingSubject(document, settings)
