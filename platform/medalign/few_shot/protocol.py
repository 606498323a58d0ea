"""few_shot(recipe): every cell of a comparison that is not there yet, on Ray or in this process, and its table."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

from medalign import config, storage
from medalign.cluster import ensure_ray, own_error
from medalign.dual_encoders import open_dual_encoder
from medalign.few_shot.cells import CellData, is_done, run_cell, write_cell
from medalign.few_shot.jobs import Job, caches, check_task, features_of_tests, jobs
from medalign.few_shot.settings import FewShot
from medalign.few_shot.summary import Results, summarise
from medalign.few_shot.tuning import said_of, tuned
from medalign.recipe import find, of_one_run
from medalign_core.models.dual.encoder import DualEncoder

Runner = Callable[[Sequence[Job], CellData], None]
RECIPE, RESULTS, TABLE = "recipe.yaml", "results.json", "results.md"


def few_shot(recipe: FewShot, *, progress: Callable[[str], None] = lambda line: None) -> Results:
    """Run what is missing of a comparison and write its table.

    Cells that are there, made of the same settings, texts, supports and features, are not run again: so a comparison
    that was stopped goes on, and one that has grown a method trains that method alone.

    Args:
        recipe: the comparison.
        progress: is told a line now and then.

    Raises:
        UserError: a corpus, bank or encoder that cannot be used, or too few images; before anything is trained.
    """
    for task in recipe.tasks.values():
        check_task(recipe, task)
    encoder = open_dual_encoder(recipe.encoder)
    storage.write_bytes(storage.join(recipe.out, RECIPE), config.dump_yaml(config.resolve(recipe)).encode())
    run = _on_ray(recipe.workers, encoder) if recipe.workers else _here(encoder)
    for cache, methods in caches(recipe, encoder):
        for name, task in recipe.tasks.items():
            tests = features_of_tests(recipe, task, cache)
            for seed in recipe.seeds:
                data, every = jobs(recipe, name, cache, tests, methods=methods, seed=seed)
                missing = [job for job in every if not is_done(job.uri, job.key)]
                progress(f"{name}, seed {seed}: {len(missing)} of {len(every)} cells to run")
                if missing:
                    run(missing, data)
    results = summarise(recipe)
    storage.write_bytes(storage.join(recipe.out, RESULTS), results.dumps().encode())
    storage.write_bytes(storage.join(recipe.out, TABLE), results.markdown().encode())
    return results


def open_comparison(name: str, overrides: Sequence[str] = ()) -> FewShot:
    """Read the recipe of a comparison: a YAML file, or the name of a shipped one.

    Raises:
        RecipeError: no such recipe, or anything wrong with a key, a type or a value.
    """
    return config.build(FewShot, of_one_run(config.load(str(find(name)), overrides)))


def _here(encoder: DualEncoder) -> Runner:
    def run(jobs: Sequence[Job], data: CellData) -> None:
        for job in jobs:
            _run(job, data, encoder)

    return run


def _run(job: Job, data: CellData, encoder: DualEncoder) -> None:
    method, tried = tuned(job, data.train, encoder)
    found, said = run_cell(job.cell, method, job.texts, data, places=job.places, encoder=encoder)
    write_cell(job.uri, job.key, found, said | said_of(tried, method), data.tests)


def _on_ray(workers: int, encoder: DualEncoder) -> Runner:
    """Return what runs jobs as tasks, so many at a time; the encoder, and each call's features, are stored once."""
    import ray

    @functools.cache
    def stored() -> Any:
        ensure_ray()  # not before there is something to run
        return ray.put(encoder)

    def run(jobs: Sequence[Job], data: CellData) -> None:
        model, task = stored(), cast(Any, ray.remote(num_cpus=1, max_retries=2)(_run_alone))
        shared, waiting = ray.put(data), list(reversed(jobs))
        running: list[Any] = []
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    running.append(task.remote(waiting.pop(), shared, model))
                done, running = ray.wait(running, num_returns=1)
                ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise own_error(error, doing="a few-shot cell") from error

    return run


def _run_alone(job: Job, data: CellData, encoder: DualEncoder) -> None:
    import torch

    torch.set_num_threads(1)
    _run(job, data, encoder)
