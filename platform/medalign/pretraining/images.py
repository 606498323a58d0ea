"""The labelled images of a task, decoded once, and the features of them that need no pretraining."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray

from medalign.data import manifest
from medalign.data.reader import read_rows
from medalign.dual_encoders import open_classifier
from medalign.errors import CorpusError
from medalign.evaluation.extract import pixels
from medalign.evaluation.labelled import LabelledBatch, LeftOut, gather, labelled_batches
from medalign.evaluation.result import Samples
from medalign.pretraining.settings import IMAGE_EXTENT, IMAGENET, MEAN_COLOUR, PIXELS, Probing, Task

FIT = ("train", "val")  # splits that fit and choose heads; what else a task holds are its tests


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Labelled images of one split.

    Attributes:
        corpus: URI.
        split: its name.
        pixels: (N, 3, S, S) as for a test.
        samples: what is known of them.
        extents: (N, 2) width and height of the stored image, in pixels: of a crop, the crop's.
    """

    corpus: str
    split: str
    pixels: UInt8[ndarray, "N 3 S S"]
    samples: Samples
    extents: Float[ndarray, "N 2"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskImages:
    """The images of a task: "train", "val" if the corpus has it, and each test by its name."""

    classes: tuple[str, ...]
    parts: dict[str, Images]

    @property
    def tests(self) -> tuple[str, ...]:
        """The names of the tests."""
        return tuple(name for name in self.parts if name not in FIT)


def read_task(task: Task, *, size: int) -> TaskImages:
    """Decode the images of a task at (size, size).

    Raises:
        CorpusError: a split is missing or has no labelled image, or a test has other classes.
    """
    known = manifest.read(task.corpus)
    places = {name: (task.corpus, name) for name in FIT if name in known.splits and known.splits[name].classes}
    places |= {name: (uri, "test") for name, uri in task.tests.items()}
    for name, (uri, split) in places.items():
        found = manifest.read(uri)
        if found.classes != known.classes:
            raise CorpusError(
                f"{uri}: test {name!r} has the classes {list(found.classes)}, {task.corpus} has {list(known.classes)}."
            )
        found.split(split)
    parts = {
        name: _read(uri, split, classes=known.classes, size=size, most=task.most)
        for name, (uri, split) in places.items()
    }
    return TaskImages(classes=known.classes, parts=parts)


def plain_features(method: str, images: Images, *, classes: tuple[str, ...], probing: Probing) -> Float[ndarray, "N D"]:
    """Return the features of a method that has no encoder of ours: a floor, or the ImageNet network."""
    if method == PIXELS:
        return pixels(images.pixels, size=probing.pixel_size)
    if method == MEAN_COLOUR:
        return images.pixels.mean(axis=(2, 3)) / 255.0
    if method == IMAGE_EXTENT:
        return images.extents
    assert method == IMAGENET
    return _imagenet(images, classes=classes, size=probing.imagenet_size)


def _read(corpus: str, split: str, *, classes: tuple[str, ...], size: int, most: int) -> Images:
    batches = list(_first(corpus, split, classes=classes, size=size, most=most))
    if not batches:
        raise CorpusError(f"{corpus}: no labelled image of the {split!r} split can be read; validate the corpus.")
    samples = gather([batch.samples for batch in batches])
    extents: dict[str, tuple[int, int]] = {}
    for rows in read_rows(corpus, split, columns=("id", "width", "height")):
        extents |= {row["id"]: (row["width"], row["height"]) for row in rows.to_pylist()}
    return Images(
        corpus=corpus,
        split=split,
        pixels=np.concatenate([batch.images for batch in batches]),
        samples=samples,
        extents=np.array([extents[row] for row in samples.ids], dtype=np.float64),
    )


def _first(corpus: str, split: str, *, classes: tuple[str, ...], size: int, most: int) -> Iterator[LabelledBatch]:
    """Yield batches of a split until there are `most` images; 0 for all."""
    seen = 0
    for batch in labelled_batches(corpus, split, classes=classes, size=size, left_out=LeftOut()):
        left = most - seen if most else len(batch.images)
        if left <= 0:
            return
        seen += len(batch.images)
        places = np.arange(min(left, len(batch.images)))
        yield LabelledBatch(images=batch.images[places], samples=batch.samples.take(places))


def _imagenet(images: Images, *, classes: tuple[str, ...], size: int) -> Float[ndarray, "N D"]:
    """Return the mean of the last feature map of EfficientNet-Lite0, from the stored images at its own size."""
    network = open_classifier().eval()
    parts = []
    with torch.inference_mode():
        batches = _first(images.corpus, images.split, classes=classes, size=size, most=len(images.samples.ids))
        for batch in batches:
            scaled = (torch.from_numpy(batch.images).float() - 127) / 128
            parts.append(network(scaled).mean(dim=(2, 3)).numpy())
    return np.concatenate(parts)
