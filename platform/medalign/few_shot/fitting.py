"""Training a few-shot method on cached features: its published schedule, to the last epoch. Pure: no files, no Ray."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medalign.errors import NonFiniteError
from medalign_core.models.dual.encoder import VisualTokens
from medalign_core.objectives.few_shot.contract import FeatureBatch, FewShotMethod
from medalign_core.objectives.few_shot.schedule import Schedule
from medalign_core.ops.draws import draw_seed
from medalign_core.types import DrawKey

Watch = Callable[[FewShotMethod], dict[str, float]]
WATCHED = 10  # epochs of a training after which plans are looked at: its prompts are encoded once more for it


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainViews:
    """The support as training sees it.

    Attributes:
        tokens: (S, A, M, D) of the augmented views.
        pooled: (S, A, D).
        labels: (S,).
    """

    tokens: Tensor
    pooled: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What training did.

    Attributes:
        losses: the mean loss of each epoch.
        stats: what the method logged, the mean over the last epoch.
        steps: optimizer steps.
        health: what the watch saw after some of the epochs, the first and the last among them, each with `epoch`.
    """

    losses: tuple[float, ...]
    stats: dict[str, float]
    steps: int
    health: tuple[dict[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one epoch did: its mean loss, what the method logged, and its optimizer steps."""

    loss: float
    stats: dict[str, float]
    steps: int


def fit(
    method: FewShotMethod,
    support: TrainViews,
    schedule: Schedule,
    *,
    epochs: int,
    views: int,
    seed: int,
    watch: Watch | None = None,
) -> Fit:
    """Train a method's parameters in place; the last epoch counts, none is chosen.

    Args:
        method: what has something to learn is trained.
        support: its images.
        schedule: as published.
        epochs: of it; 0 trains nothing.
        views: how many of the A views of an image a batch holds.
        seed: of the order and of the views, keyed by epoch and image.
        watch: looks at the method after an epoch, WATCHED times at most; it changes nothing.

    Raises:
        NonFiniteError: a loss that is not finite.
    """
    losses: list[float] = []
    stats: dict[str, float] = {}
    steps = 0
    health: list[dict[str, float]] = []
    for epoch, done in enumerate(epochs_of(method, support, schedule, epochs=epochs, views=views, seed=seed)):
        losses.append(done.loss)
        stats, steps = done.stats, steps + done.steps
        if watch is not None and is_watched(epoch, epochs):
            method.eval()
            health.append({"epoch": epoch, **watch(method)})
            method.train()
    method.eval()
    return Fit(losses=tuple(losses), stats=stats, steps=steps, health=tuple(health))


def epochs_of(
    method: FewShotMethod, support: TrainViews, schedule: Schedule, *, epochs: int, views: int, seed: int
) -> Iterator[Epoch]:
    """Train a method epoch by epoch; arguments and errors are those of `fit`.

    Between two epochs it may be used for anything that leaves its parameters alone; its mode is set anew.
    """
    learnt = [p for p in method.parameters() if p.requires_grad]
    if not epochs or not learnt:
        return
    optimizer = _optimizer(schedule, learnt)
    for epoch in range(epochs):
        method.train()
        for group in optimizer.param_groups:
            group["lr"] = rate(schedule, epoch, epochs)
        seen: list[tuple[float, int]] = []
        logged: list[dict[str, float]] = []
        for batch in batches(support, size=schedule.batch, views=views, epoch=epoch, seed=seed):
            loss, said = method(batch)
            if not math.isfinite(loss.item()):
                raise NonFiniteError(f"few-shot training, epoch {epoch}: the loss is {loss.item()}.")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            seen.append((loss.item(), len(batch.labels)))
            logged.append({name: float(value) for name, value in said.items()})
        yield Epoch(
            loss=sum(value * n for value, n in seen) / sum(n for _, n in seen),
            stats={name: float(np.mean([line[name] for line in logged])) for name in logged[0]},
            steps=len(seen),
        )


def is_watched(epoch: int, epochs: int) -> bool:
    """Tell whether the plans are looked at after an epoch: the first, the last, and evenly between."""
    return epoch % math.ceil(epochs / WATCHED) == 0 or epoch == epochs - 1


def predict(method: FewShotMethod, tokens: Tensor, pooled: Tensor, *, chunk: int = 256) -> Tensor:
    """Return the class logits (N, C) of test images, `chunk` at a time."""
    method.eval()
    parts = []
    with torch.no_grad():
        for start in range(0, len(pooled), chunk):
            features = VisualTokens(tokens[start : start + chunk].float(), pooled[start : start + chunk])
            parts.append(method.logits(features))
    return torch.cat(parts)


def rate(schedule: Schedule, epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch: constant in warm-up, then half a cosine over all epochs."""
    if epoch < schedule.warmup_epochs < epochs:
        return schedule.warmup_rate
    return schedule.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def batches(support: TrainViews, *, size: int, views: int, epoch: int, seed: int) -> Iterator[FeatureBatch]:
    """Yield an epoch's batches: every image once, the last batch as small as it comes."""
    count, available = support.pooled.shape[:2]
    draws = np.random.default_rng(draw_seed(seed, "few-shot epoch", epoch))
    order = draws.permutation(count)
    chosen = draws.random((count, available)).argsort(1)[:, : min(views, available)]  # (S, views), distinct
    for index, start in enumerate(range(0, count, size)):
        places = torch.from_numpy(order[start : start + size])
        at = torch.from_numpy(chosen[order[start : start + size]])
        yield FeatureBatch(
            tokens=support.tokens[places[:, None], at].float(),
            pooled=support.pooled[places[:, None], at],
            labels=support.labels[places],
            valid=torch.ones(len(places), dtype=torch.bool),
            key=DrawKey(seed, epoch, index),
        )


def _optimizer(schedule: Schedule, learnt: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    rate, decay = schedule.learning_rate, schedule.weight_decay
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(learnt, lr=rate, momentum=0.9, weight_decay=decay)
    kind = torch.optim.Adam if schedule.optimizer == "adam" else torch.optim.AdamW
    return kind(learnt, lr=rate, weight_decay=decay, eps=schedule.adam_epsilon)
