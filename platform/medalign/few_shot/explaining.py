"""explain(recipe, cell): a cell's method, trained anew, and the plans by which it matches a few test images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray

from medalign.data import manifest
from medalign.data.decode import decode_image
from medalign.dual_encoders import open_dual_encoder
from medalign.errors import RecipeError
from medalign.few_shot.cells import Cell, CellData, train_cell
from medalign.few_shot.features import FeatureCache, Features, read_images
from medalign.few_shot.jobs import Job, caches, check_task, features_of_tests, halves, jobs
from medalign.few_shot.settings import FewShot, Task
from medalign.few_shot.summary import own_tests
from medalign.few_shot.tuning import tuned
from medalign_core.models.dual.encoder import VisualTokens
from medalign_core.objectives.few_shot.transport_method import TransportMethod


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """A test image and how its tokens are matched with the prompts of its own class.

    Attributes:
        pixels: (S, S, 3), as the encoder sees it.
        plans: by measure, (N, R, R): each prompt's plan over the grid of tokens, times M N; 1 is uniform.
        marginals: by measure, (N,): the share of the mass that each prompt takes; they sum to 1.
        predicted: the class with the largest logit.
    """

    pixels: UInt8[ndarray, "S S 3"]
    plans: dict[str, Float[ndarray, "N R R"]]
    marginals: dict[str, Float[ndarray, " N"]]
    predicted: str


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What a trained cell does with a few test images.

    Attributes:
        cell: which.
        test: whose images they are.
        images: by class.
        sentences: the bank's descriptions of each class, where the method reads them.
        health: of the plans while it learnt, see `plan_health`; each with `epoch`.
        losses: of each epoch.
    """

    cell: Cell
    test: str
    images: dict[str, tuple[Seen, ...]]
    sentences: dict[str, tuple[str, ...]]
    health: tuple[dict[str, float], ...]
    losses: tuple[float, ...]


def explain(recipe: FewShot, cell: Cell, *, images: int = 2) -> Explanation:
    """Train a cell anew, which gives what it gave before, and return the plans of the first test images of each class.

    Args:
        recipe: the comparison.
        cell: of it.
        images: of each class.

    Raises:
        RecipeError: no such cell, or its method transports nothing, or the encoder's tokens lie on no grid.
        UserError: as `few_shot`.
    """
    _check(recipe, cell)
    task = recipe.tasks[cell.task]
    check_task(replace(recipe, seeds=(cell.seed,)), task)
    encoder = open_dual_encoder(recipe.encoder)
    cache = next(cache for cache, methods in caches(recipe, encoder) if cell.method in methods)
    tests = features_of_tests(recipe, task, cache)
    data, job = _job(recipe, cell, cache, tests)
    method, _ = tuned(job, data.train, encoder)
    module, done = train_cell(cell, method, job.texts.trained, data.train, places=job.places, encoder=encoder)
    if (
        not isinstance(module, TransportMethod)
        or math.isqrt(encoder.image.token_count) ** 2 != encoder.image.token_count
    ):
        raise RecipeError(f"methods.{cell.method}: nothing to draw; it must transport, onto a square grid of tokens.")
    test, reads = own_tests(recipe)[cell.task], job.method.settings.needs_descriptions
    classes = halves(recipe, manifest.read(task.train).classes)[0]
    chosen = [np.flatnonzero(tests[test].rows.labels == label)[:images] for label in range(len(classes))]
    found = {
        name: _seen(
            module, tests[test], places, label, classes=classes, uri=_corpus_of(task, test), size=cache.tower.image_size
        )
        for label, (name, places) in enumerate(zip(classes, chosen, strict=True))
        if len(places)
    }
    return Explanation(
        cell=cell,
        test=test,
        images=found,
        sentences=dict(zip(classes, job.texts.trained.descriptions, strict=True)) if reads else {},
        health=done.health,
        losses=done.losses,
    )


def _check(recipe: FewShot, cell: Cell) -> None:
    for what, value, known in (
        ("task", cell.task, recipe.tasks),
        ("method", cell.method, recipe.methods),
        ("shots", cell.shots, recipe.shots),
        ("seed", cell.seed, recipe.seeds),
    ):
        if value not in known:
            raise RecipeError(f"{what} {value!r} is not in the recipe; it has {', '.join(map(str, known))}.")


def _job(recipe: FewShot, cell: Cell, cache: FeatureCache, tests: dict[str, Features]) -> tuple[CellData, Job]:
    data, every = jobs(recipe, cell.task, cache, tests, methods=[cell.method], seed=cell.seed)
    return data, next(job for job in every if job.cell == cell)


def _corpus_of(task: Task, test: str) -> str:
    return task.tests[test] if test in task.tests else task.tests[test.rpartition(", ")[0]]


@torch.no_grad()
def _seen(
    module: TransportMethod, test: Features, places: ndarray, label: int, *, classes: Sequence[str], uri: str, size: int
) -> tuple[Seen, ...]:
    """Return the images at `places`, all of class `label`."""
    tokens, pooled = torch.from_numpy(test.tokens[places, 0]).float(), torch.from_numpy(test.pooled[places, 0])
    features = VisualTokens(tokens, pooled)
    predicted = module.logits(features).argmax(dim=1)
    matched = module.matchings(features)
    pixels = dict(read_images(uri, "test", set(test.rows.ids[places])))
    found = []
    for place, row in enumerate(test.rows.ids[places]):
        plans, marginals = {}, {}
        for name, matching in matched.items():
            plan = matching.plan[place, label]  # (M, N)
            share = plan / plan.sum()
            if len(plan) == 1:  # the pooled feature is the only token: there is no map
                raise RecipeError("nothing to draw: the method matches the pooled feature alone.")
            side = math.isqrt(len(plan))
            plans[name] = (share * share.numel()).T.reshape(-1, side, side).numpy()
            marginals[name] = share.sum(dim=0).numpy()
        image = decode_image(pixels[row], size).transpose(1, 2, 0)
        found.append(Seen(pixels=image, plans=plans, marginals=marginals, predicted=classes[int(predicted[place])]))
    return tuple(found)
