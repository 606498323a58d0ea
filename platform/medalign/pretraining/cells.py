"""One cell of the table: a method on a task with one seed, pretrained where it is an arm, its predictions stored."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from medalign import config, storage
from medalign.build import build_encoder
from medalign.checkpoint.trained_encoder import open_encoder
from medalign.data import manifest
from medalign.evaluation.extract import extract
from medalign.launch.run import train
from medalign.pretraining.images import TaskImages
from medalign.pretraining.probing import Features, Predicted
from medalign.pretraining.settings import RANDOM, Comparison
from medalign.recipe import Recipe, open_recipe
from medalign_core.metrics.collapse import effective_rank, embedding_std

BATCH = 128  # images through a frozen encoder at a time
KEY, FACTS = b"medalign.cell", b"medalign.facts"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Where a cell stands in the table."""

    task: str
    method: str
    seed: int

    @property
    def path(self) -> str:
        """Where its predictions lie, below the results."""
        return f"cells/{self.task}/{self.method}-seed{self.seed}.parquet"


def run_keys(comparison: Comparison, cell: Cell) -> list[str]:
    """Return the overrides of the base recipe that make a cell's run; the untrained encoder has those of every arm."""
    task = comparison.tasks[cell.task]
    arm = comparison.arms.get(cell.method, ())
    return [
        *comparison.common,
        *arm,
        f"data.corpus={task.corpus}",
        f"run.uri={storage.join(comparison.out, 'runs', cell.task, f'{cell.method}-seed{cell.seed}')}",
        f"run.seed={cell.seed}",
        "train.workers=0",
        f"train.steps={task.steps}",
        "train.validate_every=0",
        "train.checkpoint_every=0",
    ]


def cell_key(comparison: Comparison, cell: Cell, *, size: int) -> str:
    """Return a hash of everything that decides a cell's predictions."""
    task = comparison.tasks[cell.task]
    recipe: dict[str, Any] = {}
    if cell.method in comparison.arms or cell.method == RANDOM:
        recipe = config.resolve(_recipe(comparison, cell))
        recipe["run"] = recipe["run"]["seed"]
    known = {
        "recipe": recipe,
        "task": asdict(task),
        "contents": {uri: manifest.read(uri).fingerprint for uri in (task.corpus, *task.tests.values())},
        "probing": asdict(comparison.probing),
        "seed": cell.seed,
        "size": size,
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def encoder_features(comparison: Comparison, cell: Cell, images: TaskImages) -> tuple[Features, dict[str, float]]:
    """Return the features of an arm's encoder, which is pretrained for it, or of the untrained one; and its facts.

    Facts: CPU seconds of the pretraining, and measures of collapse on the first test's features.
    """
    facts: dict[str, float] = {}
    recipe = _recipe(comparison, cell)
    if cell.method == RANDOM:
        encoder = build_encoder(recipe.model, seed=cell.seed)
    else:
        began = time.process_time()
        _forget(recipe.run.uri)
        result = train(comparison.base, run_keys(comparison, cell))
        facts = {"cpu_seconds": time.process_time() - began, "skipped": float(result.skipped)}
        encoder = open_encoder(recipe.run.uri, checkpoint="latest")
    features = {name: extract(encoder, _batches(part.pixels)) for name, part in images.parts.items()}
    seen = torch.from_numpy(features[images.tests[0]])
    every = torch.ones(len(seen), dtype=torch.bool)
    collapse = {"embedding_std": embedding_std(seen, every), "effective_rank": effective_rank(seen, every)}
    return features, {**facts, **{name: float(value) for name, value in collapse.items()}}


def write_cell(uri: str, key: str, predicted: Predicted, images: TaskImages, facts: Mapping[str, float]) -> None:
    """Write a cell's predictions, one row per head and test image."""
    parts = []
    for (head, test), probabilities in predicted.items():
        samples = images.parts[test].samples
        parts.append(
            pa.table(
                {
                    "head": [head] * len(probabilities),
                    "test": [test] * len(probabilities),
                    "id": list(samples.ids),
                    "group": list(samples.groups),
                    "label": samples.labels,
                    "probabilities": list(probabilities.astype(np.float32)),
                }
            )
        )
    metadata = {KEY: key.encode(), FACTS: json.dumps(dict(facts)).encode()}
    stream = BytesIO()
    pq.write_table(pa.concat_tables(parts).replace_schema_metadata(metadata), stream, compression="zstd")
    storage.write_bytes(uri, stream.getvalue())


def is_done(uri: str, key: str) -> bool:
    """Tell whether a cell's predictions are there, made of the same things."""
    if not storage.exists(uri):
        return False
    metadata = pq.read_schema(BytesIO(storage.read_bytes(uri))).metadata or {}
    return metadata.get(KEY, b"").decode() == key


def _recipe(comparison: Comparison, cell: Cell) -> Recipe:
    return open_recipe(comparison.base, run_keys(comparison, cell))[0]


def _forget(run: str) -> None:
    """Delete what an earlier attempt at this cell, perhaps of other settings, has left: runs here are minutes long."""
    if storage.exists(storage.join(run, "recipe.yaml")):
        storage.delete_folder(run)


def _batches(pixels: np.ndarray) -> list[np.ndarray]:
    return [pixels[at : at + BATCH] for at in range(0, len(pixels), BATCH)]
