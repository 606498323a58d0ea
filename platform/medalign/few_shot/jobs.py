"""The cells of a task and seed with all that they read: supports, features, texts, tests of all classes or halves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy import ndarray

from medalign import banks, storage
from medalign.banks.class_texts import class_texts, led_by_template, shuffled_between_classes, template_instead
from medalign.data import manifest
from medalign.errors import CorpusError, RecipeError
from medalign.few_shot.cells import Cell, CellData, CellTexts, cell_key
from medalign.few_shot.features import FeatureCache, Features, read_labels
from medalign.few_shot.settings import FewShot, Method, Task, Texts, Tuning
from medalign.few_shot.supports import draw_support
from medalign_core.models.dual.encoder import DualEncoder
from medalign_core.objectives.few_shot.contract import ClassTexts

BASE, NEW = "base", "new"
FEWEST = 4  # classes of which each half has two


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A cell with all that it needs but the features, which cells share."""

    cell: Cell
    method: Method
    texts: CellTexts
    places: ndarray
    key: str
    uri: str
    tuning: Tuning | None = None


def check_task(recipe: FewShot, task: Task) -> None:
    """Refuse what cannot be compared, before anything is encoded or trained.

    Raises:
        CorpusError: a split, or images for a support, are missing, or the classes of a test are others.
        BankError: the bank has a problem, or lacks a class.
    """
    classes = manifest.read(task.train).classes
    manifest.read(task.train).split("train")
    banks.require(banks.read(task.bank), classes=classes)
    if recipe.base_to_new and len(classes) < FEWEST:
        raise CorpusError(f"{task.train}: base_to_new needs {FEWEST} classes at least, it has {len(classes)}.")
    for name, uri in task.tests.items():
        if (seen := manifest.read(uri).classes) != classes:
            raise CorpusError(f"{uri}: test {name!r} has the classes {list(seen)}, {task.train} has {list(classes)}.")
        manifest.read(uri).split("test")
    for change in task.corruptions:
        if change.foreign:
            manifest.read(change.foreign).split("test")
    labels = read_labels(task.train, "train").labels
    for seed in recipe.seeds:
        _supports(recipe, task, labels, seed=seed)


def halves(recipe: FewShot, classes: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes that are trained on, and those that are not: none, or the smaller half, as CoOp cuts them."""
    cut = -(-len(classes) // 2) if recipe.base_to_new else len(classes)
    return tuple(classes[:cut]), tuple(classes[cut:])


def names_of_tests(recipe: FewShot, task: Task) -> list[str]:
    """Return the tests of a task's cells: those of the recipe, or each as one of base and one of new classes."""
    if not recipe.base_to_new:
        return [*task.tests, *(f"{name}, {c.name}" for name in task.tests for c in task.corruptions)]
    return [f"{name}, {half}" for name in task.tests for half in (BASE, NEW)]


def features_of_tests(recipe: FewShot, task: Task, cache: FeatureCache) -> dict[str, Features]:
    """Return the features of a task's test images, by test."""
    found: dict[str, Features] = {}
    for name, uri in task.tests.items():
        rows = read_labels(uri, "test")
        if task.most_test:
            rows = rows.take(np.arange(min(task.most_test, len(rows.ids))))
        whole = cache.features(uri, "test", rows, views=None, count=0, seed=0)
        if recipe.base_to_new:
            classes = manifest.read(uri).classes
            cut = len(halves(recipe, classes)[0])
            found[f"{name}, {BASE}"] = whole.of_classes(0, cut)
            found[f"{name}, {NEW}"] = whole.of_classes(cut, len(classes))
        else:
            found[name] = whole
    for name, uri in task.tests.items():
        for change in task.corruptions:
            rows = found[name].rows
            found[f"{name}, {change.name}"] = cache.features(
                uri, "test", rows, views=None, count=0, seed=0, corruption=change
            )
    return found


def jobs(
    recipe: FewShot,
    name: str,
    cache: FeatureCache,
    tests: Mapping[str, Features],
    *,
    methods: Collection[str],
    seed: int,
) -> tuple[CellData, list[Job]]:
    """Return the features that a seed's cells of a task share, and the cells.

    Args:
        recipe: the comparison.
        name: of the task.
        cache: of the tower that the methods read.
        tests: the task's, see `features_of_tests`.
        methods: those that are wanted.
        seed: of supports and views.
    """
    task = recipe.tasks[name]
    rows, (trained, new) = read_labels(task.train, "train"), halves(recipe, manifest.read(task.train).classes)
    drawn = _supports(recipe, task, rows.labels, seed=seed)
    union = np.unique(np.concatenate(list(drawn.values())))
    train = cache.features(
        task.train, "train", rows.take(union), views=recipe.views, count=recipe.view_count, seed=seed
    )
    fingerprint = _data_key(recipe, task, cache)
    bank = banks.read(task.bank)
    found = []
    for label in methods:
        method = recipe.methods[label]
        texts = CellTexts(
            trained=texts_of(bank, trained, method.texts, seed=seed),
            new=texts_of(bank, new, method.texts, seed=seed) if new else None,
        )
        for shots, places in drawn.items():
            ids = rows.ids[places]
            cell = Cell(task=name, method=label, shots=shots, seed=seed)
            key = cell_key(method, texts, ids, fingerprint=fingerprint, seed=seed, tuning=recipe.tuning)
            uri = storage.join(recipe.out, cell.path)
            found.append(
                Job(
                    cell=cell,
                    method=method,
                    texts=texts,
                    places=train.places(ids),
                    key=key,
                    uri=uri,
                    tuning=recipe.tuning,
                )
            )
    is_new = frozenset(test for test in tests if test.endswith(f", {NEW}")) if recipe.base_to_new else frozenset()
    return CellData(train=train, tests=tests, new=is_new), found


def caches(recipe: FewShot, encoder: DualEncoder) -> list[tuple[FeatureCache, list[str]]]:
    """Return each image tower that methods read, as a cache of its features, with the names of those methods.

    Raises:
        RecipeError: the encoder has visual prompts, which learn: its features cannot be kept.
    """
    if any(p.requires_grad for p in encoder.image.parameters()):
        raise RecipeError("encoder.visual_prompts learn, and features are encoded once: set visual_prompts = 0.")
    uri = recipe.features or storage.join(recipe.out, "features")
    found: dict[str, tuple[FeatureCache, list[str]]] = {
        "": (FeatureCache(uri=uri, tower=encoder.image, fingerprint=_fingerprint(recipe.encoder, encoder.image)), [])
    }
    for name, method in recipe.methods.items():
        kind, opens = type(method.settings).__name__, getattr(method.settings, "open_tower", None)
        if opens is None:
            found[""][1].append(name)
            continue
        if kind not in found:
            tower = opens()
            found[kind] = (FeatureCache(uri=uri, tower=tower, fingerprint=_fingerprint(kind, tower)), [])
        found[kind][1].append(name)
    return [entry for entry in found.values() if entry[1]]


def texts_of(bank: banks.Bank, classes: Sequence[str], texts: Texts, *, seed: int) -> ClassTexts:
    """Return the texts of a method: a bank's, under the method's control."""
    found = class_texts(bank, classes)
    if texts.control == "shuffled":
        found = shuffled_between_classes(found, seed=seed)
    if texts.control == "template":
        return template_instead(found)
    return led_by_template(found) if texts.led_by_template else found


def _supports(recipe: FewShot, task: Task, labels: ndarray, *, seed: int) -> dict[int, ndarray]:
    trained, _ = halves(recipe, manifest.read(task.train).classes)
    drawable = np.where(labels < len(trained), labels, -1)
    return {
        shots: draw_support(drawable, trained, shots=shots, seed=seed, sampling=recipe.sampling)
        for shots in recipe.shots
    }


def _data_key(recipe: FewShot, task: Task, cache: FeatureCache) -> str:
    known = [
        cache.fingerprint,
        asdict(recipe.views),
        recipe.view_count,
        recipe.base_to_new,
        manifest.read(task.train).content("train"),
        [[name, manifest.read(uri).content("test")] for name, uri in task.tests.items()],
        task.most_test,
        [asdict(change) for change in task.corruptions],
    ]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _fingerprint(settings: Any, tower: Any) -> str:
    """Return a hash of a tower: its settings and every weight."""
    known = settings if isinstance(settings, str) else [type(settings).__name__, asdict(settings)]
    digest = hashlib.sha256(json.dumps(known, default=str).encode())
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
