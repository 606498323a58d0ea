"""One cell of a few-shot table: a method, trained on one support and tested on every corpus of its task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy import ndarray

from medalign import storage
from medalign.errors import RecipeError
from medalign.few_shot.features import Features
from medalign.few_shot.fitting import Fit, TrainViews, fit, predict
from medalign.few_shot.settings import Method, Tuning, carries_over
from medalign_core.models.dual.encoder import DualEncoder, VisualTokens
from medalign_core.objectives.few_shot.contract import ClassTexts, FewShotMethod, Support
from medalign_core.objectives.few_shot.transport_method import TransportMethod

WATCHED_IMAGES = 8  # of the support, whose plans are looked at while a method learns
KEY = b"medalign.cell"  # what went into a file of predictions: another key is another cell


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Where a cell stands in the table."""

    task: str
    method: str
    shots: int
    seed: int

    @property
    def path(self) -> str:
        """Where its predictions lie, below the results."""
        return f"cells/{self.task}/{self.method}-{self.shots}shots-seed{self.seed}.parquet"


@dataclass(frozen=True, kw_only=True, eq=False)
class CellData:
    """What a cell reads, shared by all cells of its task and seed.

    Attributes:
        train: features of the images that any support of this seed holds.
        tests: features of the test images by test.
        new: the tests of classes that nothing was trained on; their labels count those classes.
    """

    train: Features
    tests: Mapping[str, Features]
    new: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class CellTexts:
    """The texts of the classes that are trained on, and of those that are only tested on."""

    trained: ClassTexts
    new: ClassTexts | None = None


def cell_key(
    method: Method,
    texts: CellTexts,
    support: ndarray,
    *,
    fingerprint: str,
    seed: int,
    tuning: Tuning | None = None,
) -> str:
    """Return a hash of everything that decides a cell's predictions but the features, which `fingerprint` stands for.

    Args:
        method: its settings.
        texts: of its classes.
        support: the row ids.
        fingerprint: of encoder, views and test rows.
        seed: of the cell.
        tuning: how the method is tuned.
    """
    tuned = [asdict(tuning), method.space] if tuning else None
    known = {
        "method": [type(method.settings).__name__, asdict(method.settings), method.epochs, method.views],
        "schedule": asdict(method.schedule),
        "texts": asdict(texts),
        "support": list(support),
        "data": fingerprint,
        "seed": seed,
    } | ({"tuning": tuned} if tuned else {})
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()


def run_cell(
    cell: Cell, method: Method, texts: CellTexts, data: CellData, *, places: ndarray, encoder: DualEncoder
) -> tuple[dict[str, ndarray], dict[str, Any]]:
    """Train a cell and classify its test images.

    Args:
        cell: where it stands.
        method: its settings.
        texts: of its classes, with the method's control applied.
        data: features.
        places: the support, as places in `data.train`.
        encoder: whose text tower is used.

    Returns:
        (N, C) probabilities by test, and what training did. A method that does not carry over has none for new classes.

    Raises:
        RecipeError: the method cannot be built of these settings and texts.
        NonFiniteError: a loss that is not finite.
    """
    module, done = train_cell(cell, method, texts.trained, data.train, places=places, encoder=encoder)
    other: FewShotMethod | None = None
    if texts.new is not None and carries_over(method):
        other = _built(cell, method, encoder, texts.new, None)
        other.load_learnt(module.learnt())
    found = {}
    for name, test in data.tests.items():
        classifier = other if name in data.new else module
        if classifier is not None:
            logits = predict(classifier, torch.from_numpy(test.tokens[:, 0]), torch.from_numpy(test.pooled[:, 0]))
            found[name] = torch.softmax(logits.double(), dim=1).numpy()
    said = {"losses": list(done.losses), "stats": done.stats, "steps": done.steps, "support": len(places)}
    return found, said | {"health": list(done.health)}


def train_cell(
    cell: Cell,
    method: Method,
    texts: ClassTexts,
    train: Features,
    *,
    places: ndarray,
    encoder: DualEncoder,
    watched: bool = True,
) -> tuple[FewShotMethod, Fit]:
    """Return a cell's trained method, its plans looked at where `watched`; all else is as in `run_cell`."""
    module, seen, plain = start_cell(cell, method, texts, train, places=places, encoder=encoder)
    few = VisualTokens(plain.tokens[:WATCHED_IMAGES], plain.pooled[:WATCHED_IMAGES])
    done = fit(
        module,
        seen,
        method.schedule,
        epochs=epochs_of_cell(cell, method),
        views=method.views,
        seed=cell.seed,
        watch=(lambda held: _health(held, few)) if watched and isinstance(module, TransportMethod) else None,
    )
    return module, done


def start_cell(
    cell: Cell, method: Method, texts: ClassTexts, train: Features, *, places: ndarray, encoder: DualEncoder
) -> tuple[FewShotMethod, TrainViews, VisualTokens]:
    """Return a cell's method before training, the views it trains on, and the plain ones of its support."""
    tokens, pooled = torch.from_numpy(train.tokens[places]), torch.from_numpy(train.pooled[places])
    labels = torch.from_numpy(train.rows.labels[places])
    plain = VisualTokens(tokens[:, 0].float(), pooled[:, 0])
    module = _built(cell, method, encoder, texts, Support(features=plain, labels=labels))
    augmented = slice(1, None) if tokens.shape[1] > 1 else slice(0, 1)
    return module, TrainViews(tokens=tokens[:, augmented], pooled=pooled[:, augmented], labels=labels), plain


def epochs_of_cell(cell: Cell, method: Method) -> int:
    """Return how many epochs a cell trains."""
    return method.epochs_for(cell.shots)


def _built(
    cell: Cell, method: Method, encoder: DualEncoder, texts: ClassTexts, support: Support | None
) -> FewShotMethod:
    try:
        built: FewShotMethod = method.settings.build(encoder, texts, support, seed=cell.seed)
    except ValueError as error:
        raise RecipeError(f"methods.{cell.method}, task {cell.task}: {error}") from error
    return built


def _health(held: Any, few: VisualTokens) -> dict[str, float]:
    return {name: float(value) for name, value in held.health(few).items()}


def write_cell(
    uri: str, key: str, found: Mapping[str, ndarray], said: Mapping[str, Any], tests: Mapping[str, Features]
) -> None:
    """Write a cell's predictions, one row per test image."""
    parts = [
        pa.table(
            {
                "test": [name] * len(probabilities),
                "id": list(tests[name].rows.ids),
                "group": list(tests[name].rows.groups),
                "label": tests[name].rows.labels,
                "probabilities": list(probabilities.astype(np.float32)),
            }
        )
        for name, probabilities in found.items()
    ]
    table = pa.concat_tables(parts).replace_schema_metadata({KEY: key.encode(), b"training": json.dumps(said).encode()})
    stream = BytesIO()
    pq.write_table(table, stream, compression="zstd")
    storage.write_bytes(uri, stream.getvalue())


def is_done(uri: str, key: str) -> bool:
    """Tell whether a cell's predictions are there, made of the same things."""
    if not storage.exists(uri):
        return False
    metadata = pq.read_schema(BytesIO(storage.read_bytes(uri))).metadata or {}
    return metadata.get(KEY, b"").decode() == key
