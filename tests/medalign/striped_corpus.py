"""A small corpus of stripes, across or down, written without Ray."""

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from medalign.data import manifest, shards

CLASSES = ("across", "down")


def striped_png(label: str, draw: np.random.Generator, size: int = 40) -> bytes:
    """Return a PNG of noisy stripes, across or down, of a random phase and colour."""
    wave = np.sin(np.arange(size) / 2.5 + draw.uniform(0, 6.3))
    picture = np.tile(wave, (size, 1)).T if label == "across" else np.tile(wave, (size, 1))
    colour = draw.uniform(30, 70, 3)
    pixels = 128 + picture[..., None] * colour + draw.normal(scale=12, size=(size, size, 3))
    sink = BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def write_corpus(
    at: Path,
    splits: dict[str, int],
    change: Callable[[str, int, dict], None] | None = None,
    *,
    task: manifest.Task = "images",
) -> str:
    """Write a corpus of striped images and return its URI; two rows in turn are of one group.

    Args:
        at: the folder.
        splits: the number of rows of each split; shards hold 20 of them in row groups of 8.
        change: may change a row, given its split and number, before it is written.
        task: what the rows hold beside images; `change` gives them words.
    """
    found = {}
    for number, (split, count) in enumerate(splits.items()):
        draw = np.random.default_rng([7, number])
        rows = [_row(split, i, draw) for i in range(count)]
        for i, row in enumerate(rows):
            if change is not None:
                change(split, i, row)
        written = tuple(
            shards.write(
                str(at),
                shards.name(split, k // 20),
                pa.Table.from_pylist(rows[k : k + 20], schema=manifest.columns_of(task)),
                row_group_rows=8,
            )
            for k in range(0, count, 20)
        )
        labels = [row["label"] for row in rows if row["label"]]
        found[split] = manifest.Split(
            rows=count,
            groups=len({row["group"] for row in rows}),
            classes={name: labels.count(name) for name in sorted(set(labels))},
            shards=written,
        )
    of_task = {"task": task, "schema": manifest.schema_of(task)}
    made = manifest.Manifest(name=at.name, splits=found, classes=CLASSES, fingerprint="f" * 64, **of_task)
    manifest.write(str(at), made)
    return str(at)


def _row(split: str, i: int, draw: np.random.Generator) -> dict:
    label = CLASSES[i // 2 % 2]
    known = {"id": f"{split}-{i}", "label": label, "group": f"{split}-patient-{i // 2}", "width": 40, "height": 40}
    return {**known, "image": striped_png(label, draw), "pixels": f"{split}-{i}"}


class Colours:
    """A mapper for Ray's actors: mean colour and brightness of each image, and which process saw it."""

    def __init__(self, offset: float) -> None:
        self.offset = offset

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return (B, 3) and (B,) columns."""
        colour = images.mean((2, 3)).astype(np.float32) + np.float32(self.offset)
        return {"colour": colour, "brightness": colour.mean(1), "process": np.full(len(images), os.getpid())}


class Breaking:
    """A mapper that fails as soon as it is called."""

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Raise."""
        raise RuntimeError("the text of a foreign error may quote a patient")
