"""Choosing a method's row by cross-validation within a cell's support: as many trials for every method."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray

from medalign.few_shot.cells import Cell, train_cell
from medalign.few_shot.features import Features
from medalign.few_shot.fitting import predict
from medalign.few_shot.jobs import Job
from medalign.few_shot.settings import Method, Tuning
from medalign_core.models.dual.encoder import DualEncoder
from medalign_core.objectives.few_shot.contract import ClassTexts
from medalign_core.ops.draws import draw_seed


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A row that was tried.

    Attributes:
        values: what it has in place of the written row's, by key; none for that row itself.
        balanced_accuracy: over the support, every image classified by the training that did not see it.
        cross_entropy: mean over the same.
    """

    values: dict[str, float]
    balanced_accuracy: float
    cross_entropy: float


def tuned(job: Job, train: Features, encoder: DualEncoder) -> tuple[Method, tuple[Trial, ...]]:
    """Return the row that a job's cell is trained by: the written one, or what its tuning chose, with the trials."""
    if job.tuning is None:
        return job.method, ()
    return tune(job.cell, job.method, job.texts.trained, train, places=job.places, encoder=encoder, tuning=job.tuning)


def tune(
    cell: Cell,
    method: Method,
    texts: ClassTexts,
    train: Features,
    *,
    places: ndarray,
    encoder: DualEncoder,
    tuning: Tuning,
) -> tuple[Method, tuple[Trial, ...]]:
    """Return the row with the best balanced accuracy over the support, and all trials.

    Ties, which few images bring, go to the smaller cross-entropy, then to the earlier trial. Every trial trains as many
    epochs as the cell does.

    Args:
        cell: where it stands; trials and folds are drawn by its seed.
        method: the row as written, with its space.
        texts: of the classes.
        train: features.
        places: the support, as places in `train`.
        encoder: whose text tower is used.
        tuning: how many trials and folds.
    """
    tried = trials(method, cell, count=tuning.trials)
    if len(tried) == 1:
        return method.at({}), ()
    labels = train.rows.labels[places]
    parts = folds(labels, count=tuning.folds, seed=cell.seed)
    found = []
    for values in tried:
        row = method.at(values)
        logits = torch.empty(len(places), len(texts.names), dtype=torch.float64)
        for part in parts:
            rest = np.setdiff1d(np.arange(len(places)), part)
            module, _ = train_cell(cell, row, texts, train, places=places[rest], encoder=encoder, watched=False)
            held = places[part]
            tokens, pooled = torch.from_numpy(train.tokens[held, 0]), torch.from_numpy(train.pooled[held, 0])
            logits[part] = predict(module, tokens, pooled).double()
        found.append(Trial(values=values, **_scores(logits, labels)))
    best = min(range(len(found)), key=lambda at: (-found[at].balanced_accuracy, found[at].cross_entropy, at))
    return method.at(found[best].values), tuple(found)


def trials(method: Method, cell: Cell, *, count: int) -> list[dict[str, float]]:
    """Return what is tried: nothing changed, then count - 1 distinct others of the space, drawn by the cell's seed.

    Where the space holds fewer, all of them.
    """
    written = _what_counts(method)
    grid = [dict(zip(method.space, chosen, strict=True)) for chosen in itertools.product(*method.space.values())]
    others = [values for values in grid if _what_counts(method.at(values)) != written]
    draws = np.random.default_rng(draw_seed(cell.seed, "few-shot trials", cell.task, cell.method, cell.shots))
    return [{}, *(others[place] for place in draws.permutation(len(others))[: count - 1])]


def folds(labels: Int[ndarray, " S"], *, count: int, seed: int) -> list[Int[ndarray, " F"]]:
    """Return the places of each fold: every class, in an order drawn by the seed, dealt over the folds in turn."""
    dealt = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = np.random.default_rng(draw_seed(seed, "few-shot folds", int(label))).permutation(len(members))
        dealt[members[order]] = np.arange(len(members)) % count
    return [places for places in (np.flatnonzero(dealt == fold) for fold in range(count)) if len(places)]


def said_of(tried: Sequence[Trial], chosen: Method) -> dict[str, Any]:
    """Return what a cell's record keeps of its trials."""
    if not tried:
        return {}
    return {"trials": [vars(trial) for trial in tried], "chosen": vars(chosen.schedule) | vars(chosen.settings)}


def _what_counts(method: Method) -> tuple[Any, ...]:
    """Return a row by what it does: a rate given as the published one is that."""
    return method.settings, method.schedule, method.epochs, method.views, method.texts


def _scores(logits: torch.Tensor, labels: ndarray) -> dict[str, float]:
    wanted = torch.from_numpy(labels)
    right = (logits.argmax(dim=1) == wanted).double().numpy()
    recalls = [right[labels == label].mean() for label in np.unique(labels)]
    loss = torch.nn.functional.cross_entropy(logits, wanted)
    return {"balanced_accuracy": float(np.mean(recalls)), "cross_entropy": float(loss)}
