"""few_shot(recipe): every cell of a comparison that is not there yet, on Ray or in this process, and its table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy import ndarray

from medalign import banks, config, storage
from medalign.cluster import ensure_ray, own_error
from medalign.data import manifest
from medalign.dual_encoders import open_dual_encoder
from medalign.errors import CorpusError
from medalign.few_shot.cells import Cell, CellData, cell_key, is_done, run_cell, write_cell
from medalign.few_shot.features import FeatureCache, Features, read_labels
from medalign.few_shot.settings import FewShot, Method, Task, Texts
from medalign.few_shot.summary import Results, summarise
from medalign.few_shot.supports import draw_support
from medalign.recipe import find
from medalign_core.models.dual.encoder import DualEncoder
from medalign_core.objectives.few_shot.contract import ClassTexts

RECIPE, RESULTS, TABLE = "recipe.yaml", "results.json", "results.md"


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A cell with all that it needs; what is large is a handle on Ray."""

    cell: Cell
    method: Method
    texts: ClassTexts
    places: ndarray
    key: str
    uri: str


def few_shot(recipe: FewShot, *, progress: Callable[[str], None] = lambda line: None) -> Results:
    """Run what is missing of a comparison and write its table.

    Cells that are there, made of the same settings, texts, supports and features, are not run again: so a comparison
    that was stopped goes on, and one that has grown a method trains that method alone.

    Args:
        recipe: the comparison.
        progress: is told a line now and then.

    Raises:
        UserError: a corpus, bank or encoder that cannot be used; before anything is trained.
    """
    encoder = open_dual_encoder(recipe.encoder)
    cache = FeatureCache(
        uri=storage.join(recipe.out, "features"), encoder=encoder, fingerprint=fingerprint(recipe.encoder, encoder)
    )
    for task in recipe.tasks.values():
        _check(task)
    storage.write_bytes(storage.join(recipe.out, RECIPE), config.dump_yaml(config.resolve(recipe)).encode())
    run = _on_ray if recipe.workers else _here
    for name, task in recipe.tasks.items():
        tests = {test: _test_features(cache, uri, task) for test, uri in task.tests.items()}
        for seed in recipe.seeds:
            data, jobs = _jobs(recipe, name, cache, tests, seed=seed)
            missing = [job for job in jobs if not is_done(job.uri, job.key)]
            progress(f"{name}, seed {seed}: {len(missing)} of {len(jobs)} cells to run")
            if missing:
                run(recipe, missing, data, encoder)
    results = summarise(recipe)
    storage.write_bytes(storage.join(recipe.out, RESULTS), results.dumps().encode())
    storage.write_bytes(storage.join(recipe.out, TABLE), results.markdown().encode())
    return results


def open_comparison(name: str, overrides: Sequence[str] = ()) -> FewShot:
    """Read the recipe of a comparison: a YAML file, or the name of a shipped one.

    Raises:
        RecipeError: no such recipe, or anything wrong with a key, a type or a value.
    """
    return config.build(FewShot, config.load(str(find(name)), overrides))


def fingerprint(settings: Any, encoder: DualEncoder) -> str:
    """Return a hash of an encoder: its settings and every weight of its image tower."""
    digest = hashlib.sha256(json.dumps([type(settings).__name__, asdict(settings)], default=str).encode())
    for name, tensor in sorted(encoder.image.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check(task: Task) -> None:
    classes = manifest.read(task.train).classes
    manifest.read(task.train).split("train")
    banks.require(banks.read(task.bank), classes=classes)
    for name, uri in task.tests.items():
        if (seen := manifest.read(uri).classes) != classes:
            raise CorpusError(f"{uri}: test {name!r} has the classes {list(seen)}, {task.train} has {list(classes)}.")
        manifest.read(uri).split("test")


def _test_features(cache: FeatureCache, uri: str, task: Task) -> Features:
    rows = read_labels(uri, "test")
    if task.most_test:
        rows = rows.take(np.arange(min(task.most_test, len(rows.ids))))
    return cache.features(uri, "test", rows, views=None, count=0, seed=0)


def _jobs(
    recipe: FewShot, name: str, cache: FeatureCache, tests: dict[str, Features], *, seed: int
) -> tuple[CellData, list[Job]]:
    """Return the features that a seed's cells of a task share, and the cells."""
    task = recipe.tasks[name]
    rows, classes = read_labels(task.train, "train"), manifest.read(task.train).classes
    drawn = {
        shots: draw_support(rows.labels, classes, shots=shots, seed=seed, sampling=recipe.sampling)
        for shots in recipe.shots
    }
    union = np.unique(np.concatenate(list(drawn.values())))
    train = cache.features(
        task.train, "train", rows.take(union), views=recipe.views, count=recipe.view_count, seed=seed
    )
    known = [cache.fingerprint, asdict(recipe.views), recipe.view_count]
    known += [manifest.read(uri).content("test") for uri in task.tests.values()] + [task.most_test]
    data_key = hashlib.sha256(json.dumps(known).encode()).hexdigest()
    bank = banks.read(task.bank)
    jobs = []
    for label, method in recipe.methods.items():
        texts = texts_of(bank, classes, method.texts, seed=seed)
        for shots, places in drawn.items():
            ids = rows.ids[places]
            cell = Cell(task=name, method=label, shots=shots, seed=seed)
            jobs.append(
                Job(
                    cell=cell,
                    method=method,
                    texts=texts,
                    places=train.places(ids),
                    key=cell_key(method, texts, ids, fingerprint=data_key, seed=seed),
                    uri=storage.join(recipe.out, cell.path),
                )
            )
    return CellData(train=train, tests=tests), jobs


def texts_of(bank: banks.Bank, classes: Sequence[str], texts: Texts, *, seed: int) -> ClassTexts:
    """Return the texts of a method: a bank's, under the method's control."""
    from medalign.banks.class_texts import class_texts, led_by_template, shuffled_between_classes, template_instead

    found = class_texts(bank, classes)
    if texts.control == "shuffled":
        found = shuffled_between_classes(found, seed=seed)
    if texts.control == "template":
        return template_instead(found)
    return led_by_template(found) if texts.led_by_template else found


def _here(recipe: FewShot, jobs: Sequence[Job], data: CellData, encoder: DualEncoder) -> None:
    for job in jobs:
        _run(job, data, encoder)


def _run(job: Job, data: CellData, encoder: DualEncoder) -> None:
    found, said = run_cell(job.cell, job.method, job.texts, data, places=job.places, encoder=encoder)
    write_cell(job.uri, job.key, found, said, data.tests)


def _on_ray(recipe: FewShot, jobs: Sequence[Job], data: CellData, encoder: DualEncoder) -> None:
    """Run jobs as tasks; features and encoder are put into the object store once."""
    import ray

    ensure_ray()
    shared, model = ray.put(data), ray.put(encoder)
    task: Any = ray.remote(num_cpus=1, max_retries=2)(_run_alone)
    waiting = list(reversed(jobs))
    running: list[Any] = []
    try:
        while waiting or running:
            while waiting and len(running) < recipe.workers:
                running.append(task.remote(waiting.pop(), shared, model))
            done, running = ray.wait(running, num_returns=1)
            ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise own_error(error, doing="a few-shot cell") from error


def _run_alone(job: Job, data: CellData, encoder: DualEncoder) -> None:
    import torch

    torch.set_num_threads(1)
    _run(job, data, encoder)
