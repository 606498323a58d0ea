"""Cautions: what a plan shows that its reader should change, or know, before a GPU is rented."""

from __future__ import annotations

from collections.abc import Iterator

from medalign.plan.cost import Checkpoints, Cost
from medalign.plan.work import Work
from medalign.recipe import Recipe
from medalign_core.objectives.logra_med.settings import LoGraMed
from medalign_core.objectives.lvm_med.settings import LVMMed

SOLVE_SECONDS = 0.01  # of one matching of 16 nodes, 5 neighbours, on one core: 5 to 30 ms
VIEW_SECONDS = 0.008  # one core decodes and augments a view of 224 px in about this
PUBLISHED_NODES = 16


def cautions(recipe: Recipe, work: Work, cost: Cost, checkpoints: Checkpoints) -> tuple[str, ...]:
    """Return the cautions of a plan, a sentence each."""
    found = [*_of_graphs(recipe), *_of_processors(recipe, work, cost)]
    if work.steps < 1:
        found.append(f"{work.rows:,} rows are fewer than one step of {recipe.train.global_batch}: nothing trains.")
    if recipe.train.gpus_per_worker and not recipe.train.checkpoint_every:
        found.append("train.checkpoint_every is 0: a node that is lost costs the whole run; set it.")
    if checkpoints.upload_seconds > recipe.train.upload_deadline:
        found.append(
            f"a checkpoint takes {checkpoints.upload_seconds:,.0f} s to upload, longer than train.upload_deadline ="
            f" {recipe.train.upload_deadline:g} s; raise it."
        )
    return tuple(found)


def solves_per_step(recipe: Recipe) -> int:
    """Return how many matching problems a step of the whole run has."""
    objective, train = recipe.objective, recipe.train
    if isinstance(objective, LoGraMed):
        graphs = len(objective.graphs)
        pairs = graphs * (graphs - 1) if objective.target == "pairwise" else 2 * graphs
        return 2 * pairs * objective.samples * train.global_batch // train.micro_batch  # the target's solve is one
    if isinstance(objective, LVMMed):
        return 2 * objective.samples * train.global_batch // objective.graph_size
    return 0


def solver_bytes(recipe: Recipe) -> int:
    """Return the bytes that a micro-batch's matching problems take on the host."""
    objective, train = recipe.objective, recipe.train
    if isinstance(objective, LoGraMed):
        nodes, problems = train.micro_batch, solves_per_step(recipe) * train.micro_batch // (2 * train.global_batch)
    elif isinstance(objective, LVMMed):
        nodes, problems = objective.graph_size, objective.samples * train.micro_batch // objective.graph_size
    else:
        return 0
    edges = nodes * objective.neighbours
    return 8 * problems * (nodes**2 + edges**2 + 4 * edges)


def _of_graphs(recipe: Recipe) -> Iterator[str]:
    objective, size = recipe.objective, recipe.train.micro_batch
    if not isinstance(objective, LoGraMed):
        return
    if size <= objective.neighbours:
        yield (
            f"graphs have {size} nodes, the micro-batch, and {objective.neighbours} neighbours: every node is joined"
            " to every other, so edges say nothing; raise train.micro_batch."
        )
    elif size < PUBLISHED_NODES:
        yield (
            f"graphs have {size} nodes, the micro-batch; published runs have {PUBLISHED_NODES}. A smaller micro-batch"
            " is another method: shard more (train.zero_stage), or checkpoint activations, instead."
        )


def _of_processors(recipe: Recipe, work: Work, cost: Cost) -> Iterator[str]:
    train = recipe.train
    if cost.samples_per_second is None:
        return
    workers = max(train.workers, 1)
    views = 1 if not hasattr(recipe.data, "views") or hasattr(recipe.model, "stage") else 2
    decode = cost.samples_per_second * views * VIEW_SECONDS * (recipe.data.image_size / 224) ** 2
    yield (
        f"decoding {cost.samples_per_second:,.1f} samples/s takes about {max(1, round(decode + 0.5))} CPUs beside the"
        f" workers' own {workers * train.cpus_per_worker:g}."
    )
    solves = solves_per_step(recipe)
    if solves and work.steps:
        seconds = solves / workers * SOLVE_SECONDS
        step = train.global_batch / cost.samples_per_second
        yield (
            f"{solves} matchings a step take about {seconds:.2f} s on a core of each worker, {seconds / step:.0%} of a"
            f" step of {step:.2f} s; keep a core of each worker free for them (train.cpus_per_worker >= 1)."
        )
