"""From features to predictions: a linear probe and k-NN with all labels, and a linear probe with few."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from medalign.evaluation.heads import logistic, standardise
from medalign.evaluation.probe import ProbeSettings, Split, probe
from medalign.evaluation.result import Samples
from medalign.few_shot.supports import draw_support
from medalign.pretraining.images import TaskImages
from medalign.pretraining.settings import Probing, scarce

ITERATIONS = 1000
Features = Mapping[str, Float[ndarray, "N D"]]  # by part of a task
Predicted = dict[tuple[str, str], Float[ndarray, "N C"]]  # (head, test) -> probabilities


def with_all_labels(features: Features, images: TaskImages, probing: Probing) -> tuple[Predicted, dict[str, float]]:
    """Return the predictions of both heads, fitted on "train", and the hyperparameter that each chose.

    The validation split chooses; without one, grouped folds of the training split do. No test chooses anything.
    """
    splits = {name: Split(features=values, samples=images.parts[name].samples) for name, values in features.items()}
    found = probe(
        splits["train"],
        _joined([splits[name] for name in images.tests]),
        classes=len(images.classes),
        validation=splits.get("val"),
        settings=ProbeSettings(penalties=probing.penalties, neighbours=probing.neighbours, iterations=ITERATIONS),
    )
    predicted: Predicted = {}
    for entry in found.predictions:
        predicted |= {(entry.head, test): part for test, part in _cut(entry.probabilities, images).items()}
    return predicted, {entry.head: entry.chosen for entry in found.predictions}


def with_few_labels(features: Features, images: TaskImages, probing: Probing, *, seed: int) -> Predicted:
    """Return the predictions of linear heads on supports of a seed, nested over shots.

    Features are standardised by the whole training split: images without labels are not scarce.

    Raises:
        CorpusError: a class has fewer images than a support needs.
    """
    labels = images.parts["train"].samples.labels
    tests = standardise(np.concatenate([features[name] for name in images.tests]), features["train"])
    predicted: Predicted = {}
    for shots in probing.shots:
        places = draw_support(labels, images.classes, shots=shots, seed=seed)
        probabilities, _ = logistic(
            standardise(features["train"][places], features["train"]),
            labels[places],
            tests,
            penalties=(probing.scarce_penalty,),
            classes=len(images.classes),
            iterations=ITERATIONS,
        )
        predicted |= {(scarce(shots), test): part for test, part in _cut(probabilities[0], images).items()}
    return predicted


def _joined(splits: list[Split]) -> Split:
    names = ("ids", "groups", "labels")
    samples = Samples(**{name: np.concatenate([getattr(split.samples, name) for split in splits]) for name in names})
    return Split(features=np.concatenate([split.features for split in splits]), samples=samples)


def _cut(probabilities: ndarray, images: TaskImages) -> dict[str, ndarray]:
    ends = np.cumsum([len(images.parts[name].samples.ids) for name in images.tests])[:-1]
    return dict(zip(images.tests, np.split(probabilities, ends), strict=True))
