"""The probe: logistic regression and k-NN on frozen features, chosen from one small grid for every encoder."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from sklearn.model_selection import StratifiedGroupKFold

from medalign.evaluation.heads import logistic, neighbours, standardise
from medalign.evaluation.result import Predictions, Samples
from medalign_core.metrics.classification import balanced_accuracy, confusion

HEADS = ("logistic", "knn")
Head = Callable[[ndarray, ndarray, ndarray, Sequence[float]], ndarray]  # train, labels, test, grid -> (G, M, C)


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """How features are probed; the same for every encoder that is compared.

    Attributes:
        penalties: the grid of C, the inverse weight of the squared norm in the logistic regression, ascending.
        neighbours: the grid of k, ascending; those above the number of training samples are left out.
        temperature: of the vote of k-NN.
        folds: of the grouped cross-validation that chooses where a corpus has no validation split.
        iterations: at most, of the logistic regression.
        pixel_size: images are this wide and high for the raw-pixel comparison.
        replicates: of the bootstrap.
        level: of the intervals.
        seed: of folds and bootstrap.
    """

    penalties: tuple[float, ...] = (0.00001, 0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)
    neighbours: tuple[int, ...] = (1, 5, 10, 20, 50)
    temperature: float = 0.07
    folds: int = 5
    iterations: int = 2000
    pixel_size: int = 32
    replicates: int = 2000
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """The features of one split and what is known of its images."""

    features: Float[ndarray, "N D"]
    samples: Samples


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeResult:
    """Both heads' predictions of the test split; `notes` names fits that did not converge."""

    predictions: tuple[Predictions, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trial:
    """A fit that chooses hyperparameters: rows to fit on, rows to score."""

    fit: Split
    held_out: Split


def probe(
    train: Split,
    test: Split,
    *,
    classes: int,
    validation: Split | None = None,
    settings: ProbeSettings | None = None,
    method: str = "pretrained",
    seed: int = 0,
) -> ProbeResult:
    """Fit both heads on `train` and predict `test`.

    Features are standardised with the mean and standard deviation of the rows a head is fitted on. C and k are those
    with the best balanced accuracy on `validation`, or, where there is none, over cross-validation folds of `train`
    that keep every group whole; a tie goes to the smaller C and the larger k, the smoother model. The test split
    chooses nothing.

    Args:
        train: features (N, D) with labels in [0, classes).
        test: features (M, D).
        classes: C; a class without a training sample is predicted with probability 0.
        validation: features (K, D), or None.
        settings: the grids and the folds.
        method: the name the predictions carry.
        seed: the seed the predictions carry.

    Raises:
        ValueError: fewer than two classes to train on, fewer than two groups to fold, or features that are not finite.
    """
    settings = settings or ProbeSettings()
    _check(train, test, classes)
    notes: list[str] = []
    trials = [_Trial(fit=train, held_out=validation)] if validation else _folds(train, settings)
    smallest = min(len(trial.fit.samples.labels) for trial in trials)
    grids = {"logistic": settings.penalties, "knn": _counts(settings.neighbours, smallest)}
    found = []
    for name, head in _heads(classes, settings, f"{method}, seed {seed}", notes).items():
        chosen = _choose(head, grids[name], trials, smoother_first=name == "logistic", classes=classes)
        probabilities = _predict(head, train, test, (chosen,))[0]
        found.append(Predictions(method=method, head=name, seed=seed, chosen=chosen, probabilities=probabilities))
    return ProbeResult(predictions=tuple(found), notes=tuple(dict.fromkeys(notes)))


def _heads(classes: int, settings: ProbeSettings, where: str, notes: list[str]) -> dict[str, Head]:
    def linear(train: ndarray, labels: ndarray, test: ndarray, grid: Sequence[float]) -> ndarray:
        found, unconverged = logistic(
            train, labels, test, penalties=grid, classes=classes, iterations=settings.iterations
        )
        notes.extend(f"{where}: the logistic regression did not converge at C = {c:g}." for c in unconverged)
        return found

    def nearest(train: ndarray, labels: ndarray, test: ndarray, grid: Sequence[float]) -> ndarray:
        counts = [int(count) for count in grid]
        return neighbours(train, labels, test, counts=counts, classes=classes, temperature=settings.temperature)

    return dict(zip(HEADS, (linear, nearest), strict=True))


def _choose(head: Head, grid: Sequence[float], trials: list[_Trial], *, smoother_first: bool, classes: int) -> float:
    """Return the grid's best value by balanced accuracy, averaged over the trials."""
    score = np.zeros(len(grid))
    for trial in trials:
        called = _predict(head, trial.fit, trial.held_out, grid).argmax(-1)  # (G, M)
        tables = [confusion(trial.held_out.samples.labels, row, classes=classes) for row in called]
        score += balanced_accuracy(np.stack(tables)) / len(trials)
    best = np.flatnonzero(score >= score.max() - 1e-12)
    return float(grid[best[0] if smoother_first else best[-1]])


def _predict(head: Head, fit: Split, held_out: Split, grid: Sequence[float]) -> ndarray:
    scale = partial(standardise, reference=fit.features)
    return head(scale(fit.features), fit.samples.labels, scale(held_out.features), grid)


def _folds(train: Split, settings: ProbeSettings) -> list[_Trial]:
    labels, groups = train.samples.labels, train.samples.groups
    wide = [len(np.unique(groups[labels == c])) for c in np.unique(labels)]  # groups per class
    folds = min(settings.folds, max(2, min(wide)), len(np.unique(groups)))
    if folds < 2:
        raise ValueError(f"cross-validation needs at least two groups, the training split has {folds}.")
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=settings.seed)
    with warnings.catch_warnings():  # a class with fewer samples than folds is absent from some: expected here
        warnings.filterwarnings("ignore", message="The least populated class")
        pairs = list(split.split(train.features, labels, groups))
    trials = [_Trial(fit=_rows(train, fit), held_out=_rows(train, held)) for fit, held in pairs]
    usable = [trial for trial in trials if len(np.unique(trial.fit.samples.labels)) > 1]
    if not usable:
        raise ValueError("no cross-validation fold holds two classes to fit on; label more groups.")
    return usable


def _rows(split: Split, rows: ndarray) -> Split:
    s = split.samples
    return Split(
        features=split.features[rows],
        samples=Samples(ids=s.ids[rows], groups=s.groups[rows], labels=s.labels[rows]),
    )


def _counts(grid: tuple[int, ...], samples: int) -> tuple[int, ...]:
    return tuple(count for count in grid if count <= samples) or (1,)


def _check(train: Split, test: Split, classes: int) -> None:
    for name, split in (("training", train), ("test", test)):
        if not np.isfinite(split.features).all():
            raise ValueError(f"the {name} split's features are not finite; the encoder has diverged.")
    if len(np.unique(train.samples.labels)) < 2:
        raise ValueError(f"a probe needs two classes to train on, the training split has one of {classes}.")
