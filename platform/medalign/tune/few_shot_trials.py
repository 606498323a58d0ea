"""Trials of a few-shot recipe: a method on cached features, cross-validated within its supports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from safetensors.torch import save
from sklearn.model_selection import StratifiedGroupKFold

from medalign import banks, config, storage
from medalign.config import Document
from medalign.data import manifest
from medalign.dual_encoders import open_dual_encoder
from medalign.errors import CorpusError
from medalign.few_shot.cells import Cell, epochs_of_cell, start_cell, train_cell
from medalign.few_shot.features import Features
from medalign.few_shot.fitting import Epoch, epochs_of, predict
from medalign.few_shot.jobs import caches, check_task, halves, jobs, texts_of
from medalign.few_shot.settings import FewShot
from medalign.tune.exchange import Talk
from medalign.tune.packing import Demand
from medalign.tune.settings import FewShotTrial, Tune
from medalign.tune.space import Space, overrides_of
from medalign_core.metrics.classification import METRICS, classification_scores
from medalign_core.models.dual.encoder import DualEncoder
from medalign_core.objectives.few_shot.contract import FewShotMethod
from medalign_core.ops.draws import draw_seed

FIGURES = (*METRICS, "loss")  # of the images that a fold leaves out


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One seed's support: its features, and its folds as places in them, each (trained on, left out)."""

    seed: int
    train: Features
    support: Int[ndarray, " S"]
    folds: tuple[tuple[Int[ndarray, " T"], Int[ndarray, " V"]], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class FewShotWork:
    """What every trial shares: the recipe's text, the bank, the frozen features of every seed, and the encoder."""

    text: str
    source: str
    settings: FewShotTrial
    bank: banks.Bank
    classes: tuple[str, ...]
    cases: tuple[Case, ...]
    encoder: DualEncoder

    def run(self, number: int, point: Mapping[str, Any], talk: Talk) -> None:
        """Train the method of a point on every fold of every seed, epoch by epoch, side by side.

        Raises:
            RecipeError: the method cannot be built of these settings.
            NonFiniteError: a loss that is not finite.
        """
        torch.set_num_threads(1)
        recipe = self.recipe(point)
        method, every = recipe.methods[self.settings.method], self.settings.every
        fits = [self._start(recipe, case, fold) for case in self.cases for fold in range(len(case.folds))]
        epochs = (
            epochs_of_cell(self._cell(0), method) if any(p.requires_grad for p in fits[0].module.parameters()) else 0
        )
        if not epochs:
            talk(1, self._scores(fits), total=1, worked=1)
            return
        for epoch in range(1, epochs + 1):
            for fit in fits:
                next(fit.epochs)
            if (epoch % every == 0 or epoch == epochs) and not talk(
                epoch, self._scores(fits), total=epochs, worked=epoch
            ):
                return

    def recipe(self, point: Mapping[str, Any]) -> FewShot:
        """Return the recipe with a point laid over it."""
        return config.build(FewShot, config.loads(self.text, source=self.source, overrides=overrides_of(point)))

    def refit(self, point: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        """Yield, for each seed, what the method of a point learns of the whole support."""
        recipe = self.recipe(point)
        for case in self.cases:
            module, _ = train_cell(
                self._cell(case.seed),
                recipe.methods[self.settings.method],
                texts_of(self.bank, self.classes, recipe.methods[self.settings.method].texts, seed=case.seed),
                case.train,
                places=case.support,
                encoder=self.encoder,
            )
            yield case.seed, module.learnt()

    def _cell(self, seed: int) -> Cell:
        return Cell(task=self.settings.task, method=self.settings.method, shots=self.settings.shots, seed=seed)

    def _start(self, recipe: FewShot, case: Case, fold: int) -> _Fit:
        method, cell = recipe.methods[self.settings.method], self._cell(case.seed)
        texts = texts_of(self.bank, self.classes, method.texts, seed=case.seed)
        trained, left_out = case.folds[fold]
        module, seen, _ = start_cell(cell, method, texts, case.train, places=trained, encoder=self.encoder)
        running = epochs_of(
            module,
            seen,
            method.schedule,
            epochs=epochs_of_cell(cell, method),
            views=method.views,
            seed=case.seed,
        )
        return _Fit(module=module, epochs=running, case=case, left_out=left_out)

    def _scores(self, fits: list[_Fit]) -> dict[str, float]:
        """Return the figures of the images left out: those of a seed's folds together, then the mean over seeds."""
        found: list[dict[str, float]] = []
        for case in self.cases:
            own = [fit for fit in fits if fit.case is case]
            probabilities = np.concatenate([_probabilities(fit) for fit in own])
            labels = np.concatenate([case.train.rows.labels[fit.left_out] for fit in own])
            scores = {name: float(value) for name, value in classification_scores(labels, probabilities).items()}
            likely = probabilities[np.arange(len(labels)), labels]
            found.append({**scores, "loss": float(-np.log(np.maximum(likely, 1e-12)).mean())})
        return {name: float(np.mean([scores[name] for scores in found])) for name in FIGURES}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fit:
    module: FewShotMethod
    epochs: Iterator[Epoch]
    case: Case
    left_out: Int[ndarray, " V"]


class FewShotSubject:
    """A few-shot recipe as the subject of a sweep."""

    demand = Demand()

    def __init__(self, document: Document, settings: Tune) -> None:
        self._document, self._settings = document, settings
        self._text = config.dump_yaml(document.values)
        self._recipe = config.build(FewShot, document)
        chosen = settings.few_shot
        if chosen is None:
            raise document.error(("tune", "few_shot"), "missing; name task, method and shots of the recipe.")
        for name, value, known in (
            ("task", chosen.task, self._recipe.tasks),
            ("method", chosen.method, self._recipe.methods),
            ("shots", chosen.shots, self._recipe.shots),
        ):
            if value not in known:
                raise document.error(
                    ("tune", "few_shot", name),
                    f"not in the recipe, which has {', '.join(map(str, known))}.",
                    value=value,
                )
        self._chosen = chosen

    def check(self, space: Space) -> None:
        """Build the recipe at every end of the space.

        Raises:
            RecipeError: a key that the method lacks, or a value that it refuses.
        """
        stem = f"methods.{self._chosen.method}."
        for axis in space.axes:
            if not axis.key.startswith(stem):
                problem = f"must begin with {stem}: features, supports and tests are the same for every trial."
                raise self._document.error(("search", axis.key), problem)
        for point in space.edges():
            self._laid(point)

    def check_metrics(self) -> None:
        """Refuse a metric that no trial reports.

        Raises:
            RecipeError: see above.
        """
        for name in self._settings.metrics:
            if name not in FIGURES:
                problem = f"no trial reports it; there is: {', '.join(FIGURES)}."
                raise self._document.error(("tune", "metric"), problem, value=name)

    def total_steps(self, space: Space) -> int:
        """Return the epochs of the longest trial."""
        cell = Cell(task=self._chosen.task, method=self._chosen.method, shots=self._chosen.shots, seed=0)
        recipes = [self._recipe, *(self._laid(point) for point in space.edges())]
        return max(1, *(epochs_of_cell(cell, recipe.methods[self._chosen.method]) for recipe in recipes))

    def work(self) -> FewShotWork:
        """Encode what is not encoded yet and return what trials share.

        Raises:
            UserError: a corpus, bank or encoder that cannot be used, or supports too small for the folds.
        """
        chosen = self._chosen
        recipe = replace(self._recipe, shots=(chosen.shots,), primary=replace(self._recipe.primary, shots=chosen.shots))
        task = recipe.tasks[chosen.task]
        check_task(recipe, task)
        encoder = open_dual_encoder(recipe.encoder)
        cache = next(cache for cache, methods in caches(recipe, encoder) if chosen.method in methods)
        cases = []
        for seed in recipe.seeds:
            data, (job,) = jobs(recipe, chosen.task, cache, {}, methods=[chosen.method], seed=seed)
            cases.append(
                Case(
                    seed=seed,
                    train=data.train,
                    support=job.places,
                    folds=cut_folds(data.train, job.places, folds=chosen.folds, seed=seed),
                )
            )
        return FewShotWork(
            text=self._text,
            source=self._document.source,
            settings=chosen,
            bank=banks.read(task.bank),
            classes=halves(recipe, manifest.read(task.train).classes)[0],
            cases=tuple(cases),
            encoder=encoder,
        )

    def best_recipe(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the recipe of a point, whole, for `medalign few-shot`."""
        values = config.resolve(self._laid(point))
        return {**values, "out": storage.join(self._settings.uri, "best", "table")}

    def export(self, work: FewShotWork, point: Mapping[str, Any], number: int, to: str) -> list[str]:
        """Write what the best method learns of each seed's whole support, and return where."""
        found = []
        for seed, learnt in work.refit(point):
            found.append(storage.join(to, f"learnt-seed{seed}.safetensors"))
            storage.write_bytes(found[-1], save(learnt))
        return found

    def _laid(self, point: Mapping[str, Any]) -> FewShot:
        document = config.loads(self._text, source=self._document.source, overrides=overrides_of(point))
        return config.build(FewShot, document)


def cut_folds(
    train: Features, support: Int[ndarray, " S"], *, folds: int, seed: int
) -> tuple[tuple[Int[ndarray, " T"], Int[ndarray, " V"]], ...]:
    """Cut a support into folds, by group and stratified by class, a pure function of the seed.

    Returns:
        places in `train`, (trained on, left out), one pair per fold.

    Raises:
        CorpusError: a fold would be trained without one of the classes.
    """
    labels, groups = train.rows.labels[support], train.rows.groups[support].astype(str)
    every = set(labels.tolist())
    cut = StratifiedGroupKFold(folds, shuffle=True, random_state=draw_seed(seed, "folds") % 2**32)
    found = []
    try:
        for kept, left in cut.split(np.zeros(len(labels)), labels, groups):
            if set(labels[kept].tolist()) != every or not len(left):
                raise ValueError("a class or a fold is empty")
            found.append((support[kept], support[left]))
    except ValueError as error:
        count = len(set(groups.tolist()))
        raise CorpusError(
            f"tune.few_shot.folds = {folds}: a support of {len(labels)} images in {count} groups cannot be cut so"
            f" ({error}); take fewer folds or more shots."
        ) from None
    return tuple(found)


def _probabilities(fit: _Fit) -> Float[ndarray, "V C"]:
    tokens = torch.from_numpy(fit.case.train.tokens[fit.left_out, 0])
    pooled = torch.from_numpy(fit.case.train.pooled[fit.left_out, 0])
    return torch.softmax(predict(fit.module, tokens, pooled).double(), dim=1).numpy()
