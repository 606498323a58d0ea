"""compare_pretraining(comparison): every cell that is not there yet, in this process, and the table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from medalign import config, storage
from medalign.errors import RecipeError
from medalign.pretraining.cells import Cell, cell_key, encoder_features, is_done, run_keys, write_cell
from medalign.pretraining.images import TaskImages, plain_features, read_task
from medalign.pretraining.probing import Features, Predicted, with_all_labels, with_few_labels
from medalign.pretraining.results import Results
from medalign.pretraining.settings import RANDOM, Comparison
from medalign.pretraining.summary import summarise
from medalign.recipe import find, open_recipe

RECIPE, RESULTS, TABLE = "recipe.yaml", "results.json", "results.md"


def compare_pretraining(comparison: Comparison, *, progress: Callable[[str], None] = lambda line: None) -> Results:
    """Run what is missing of a comparison and write its table.

    Cells that are there, made of the same settings and corpora, are not run again: so a comparison that was stopped
    goes on, and one that has grown an arm pretrains that arm alone. Within a task a seed of all methods ends before the
    next one begins.

    Args:
        comparison: the recipe.
        progress: is told a line per cell.

    Raises:
        UserError: a corpus or a recipe that cannot be used; before anything is trained.
    """
    sizes = {name: _check(comparison, name) for name in comparison.tasks}
    storage.write_bytes(storage.join(comparison.out, RECIPE), config.dump_yaml(config.resolve(comparison)).encode())
    for name, size in sizes.items():
        cells = [Cell(task=name, method=m, seed=s) for s in comparison.seeds for m in comparison.methods]
        keys = {cell: cell_key(comparison, cell, size=size) for cell in cells}
        missing = [cell for cell in cells if not is_done(storage.join(comparison.out, cell.path), keys[cell])]
        progress(f"{name}: {len(missing)} of {len(cells)} cells to run")
        if not missing:
            continue
        runner = _Runner(comparison, read_task(comparison.tasks[name], size=size))
        for cell in missing:
            began = time.perf_counter()
            facts = runner(cell, keys[cell])
            told = ", ".join(f"{fact} {value:.3g}" for fact, value in facts.items())
            progress(f"{name}, {cell.method}, seed {cell.seed}: {time.perf_counter() - began:.1f} s ({told})")
    results = summarise(comparison)
    storage.write_bytes(storage.join(comparison.out, RESULTS), results.dumps().encode())
    storage.write_bytes(storage.join(comparison.out, TABLE), results.markdown().encode())
    return results


def open_comparison(name: str, overrides: Sequence[str] = ()) -> Comparison:
    """Read the recipe of a comparison: a YAML file, or the name of a shipped one.

    Raises:
        RecipeError: no such recipe, or anything wrong with a key, a type or a value.
    """
    return config.build(Comparison, config.load(str(find(name)), overrides))


def _check(comparison: Comparison, task: str) -> int:
    """Open the recipe of every arm; return the image size, which they share.

    Raises:
        RecipeError: an arm's overrides do not fit the base, or arms differ in the size of their images.
    """
    cells = [Cell(task=task, method=method, seed=comparison.seeds[0]) for method in comparison.arms]
    sizes = {open_recipe(comparison.base, run_keys(comparison, cell))[0].data.image_size for cell in cells}
    if len(sizes) > 1:
        raise RecipeError(f"arms differ in data.image_size, {sorted(sizes)}: they must see the same images.")
    return sizes.pop()


class _Runner:
    """Runs the cells of one task; what has no seed of its own is computed once."""

    def __init__(self, comparison: Comparison, images: TaskImages) -> None:
        self._comparison, self._images = comparison, images
        self._plain: dict[str, tuple[Features, Predicted, dict[str, float]]] = {}

    def __call__(self, cell: Cell, key: str) -> dict[str, float]:
        """Run a cell, store its predictions and return its facts."""
        comparison, images = self._comparison, self._images
        facts: dict[str, float] = {}
        if cell.method in comparison.arms or cell.method == RANDOM:
            features, facts = encoder_features(comparison, cell, images)
            predicted, chosen = with_all_labels(features, images, comparison.probing)
        else:
            if cell.method not in self._plain:
                self._plain[cell.method] = self._without_seed(cell.method)
            features, predicted, chosen = self._plain[cell.method]
        scarce = with_few_labels(features, images, comparison.probing, seed=cell.seed)
        facts = facts | {f"chosen {head}": value for head, value in chosen.items()}
        write_cell(storage.join(comparison.out, cell.path), key, {**predicted, **scarce}, images, facts)
        return facts

    def _without_seed(self, method: str) -> tuple[Features, Predicted, dict[str, float]]:
        images, probing = self._images, self._comparison.probing
        features = {
            name: plain_features(method, part, classes=images.classes, probing=probing)
            for name, part in images.parts.items()
        }
        return features, *with_all_labels(features, images, probing)
