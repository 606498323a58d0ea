"""forecast(comparison): what a few-shot comparison will train: weights, steps, cells and images, before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medalign import banks
from medalign.data import manifest
from medalign.errors import UserError
from medalign.few_shot.jobs import halves, texts_of
from medalign.few_shot.settings import FewShot, Method, Task


@dataclass(frozen=True, kw_only=True)
class MethodForecast:
    """A row of the comparison.

    Attributes:
        name: of the method.
        trained: weights that a cell of the largest task trains; None where the encoder cannot be opened.
        cells: of it: tasks by shots by seeds.
        epochs: of its longest training.
        steps: of its longest cell.
        total_steps: of all its cells.
    """

    name: str
    trained: int | None
    cells: int
    epochs: int
    steps: int
    total_steps: int


@dataclass(frozen=True, kw_only=True)
class ComparisonForecast:
    """What a comparison will do; `images` are those that the tower encodes once, views counted apart."""

    methods: tuple[MethodForecast, ...]
    cells: int
    supports: int
    images: int
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the forecast as plain values."""
        return asdict(self)


def forecast(recipe: FewShot) -> ComparisonForecast:
    """Return what a comparison will do; trains and writes nothing.

    Raises:
        CorpusError: a corpus that is not there.
        BankError: a bank that is not there, or lacks a class.
    """
    classes = {name: _classes(recipe, task) for name, task in recipe.tasks.items()}
    largest = max(classes, key=lambda name: len(classes[name]))
    notes: list[str] = []
    encoder = _open(recipe, notes)
    methods = tuple(
        _forecast(recipe, name, encoder, classes, task=recipe.tasks[largest], notes=notes) for name in recipe.methods
    )
    return ComparisonForecast(
        methods=methods,
        cells=sum(method.cells for method in methods),
        supports=len(recipe.tasks) * len(recipe.shots) * len(recipe.seeds),
        images=_images(recipe, classes),
        notes=tuple(dict.fromkeys(notes)),
    )


def cell_steps(method: Method, *, classes: int, shots: int) -> tuple[int, int]:
    """Return (epochs, optimizer steps) of a cell with a balanced support: as `fitting.batches` cuts it."""
    epochs = method.epochs_for(shots)
    return epochs, epochs * -(-classes * shots // method.schedule.batch)


def _forecast(
    recipe: FewShot, name: str, encoder: Any, classes: dict[str, Sequence[str]], *, task: Task, notes: list[str]
) -> MethodForecast:
    method = recipe.methods[name]
    every = [
        cell_steps(method, classes=len(found), shots=shots) for found in classes.values() for shots in recipe.shots
    ]
    trained = _trained(recipe, method, encoder, task, notes)
    return MethodForecast(
        name=name,
        trained=trained,
        cells=len(every) * len(recipe.seeds),
        epochs=max(epochs for epochs, _ in every) if trained != 0 else 0,
        steps=max(steps for _, steps in every) if trained != 0 else 0,
        total_steps=sum(steps for _, steps in every) * len(recipe.seeds) if trained != 0 else 0,
    )


def _trained(recipe: FewShot, method: Method, encoder: Any, task: Task, notes: list[str]) -> int | None:
    """Return the weights that a method trains: it is built as a cell builds it, around features that are zero."""
    import torch

    from medalign_core.models.dual.encoder import VisualTokens
    from medalign_core.objectives.few_shot.contract import Support

    if encoder is None:
        return None
    trained, _ = halves(recipe, manifest.read(task.train).classes)
    texts = texts_of(banks.read(task.bank), trained, method.texts, seed=0)
    tower = method.settings.open_tower() if hasattr(method.settings, "open_tower") else encoder.image
    side = tower.image_size
    with torch.no_grad():
        seen = tower(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    count = len(trained) * recipe.shots[-1]
    labels = torch.arange(len(trained)).repeat(recipe.shots[-1])
    features = VisualTokens(*(part.expand(count, *part.shape[1:]) for part in seen))
    try:
        built = method.settings.build(encoder, texts, Support(features=features, labels=labels), seed=0)
    except ValueError as error:
        notes.append(f"{type(method.settings).__name__}: not built ({error}); its weights are not known.")
        return None
    return sum(p.numel() for p in built.parameters() if p.requires_grad)


def _open(recipe: FewShot, notes: list[str]) -> Any:
    from medalign.dual_encoders import open_dual_encoder

    try:
        return open_dual_encoder(recipe.encoder)
    except UserError as error:
        notes.append(f"trained weights are not known: {error}")
        return None


def _classes(recipe: FewShot, task: Task) -> Sequence[str]:
    return halves(recipe, manifest.read(task.train).classes)[0]


def _images(recipe: FewShot, classes: dict[str, Sequence[str]]) -> int:
    """Return how many images the tower encodes: views of each seed's largest support, and every test once."""
    supports = sum(len(found) * recipe.shots[-1] for found in classes.values()) * len(recipe.seeds) * recipe.view_count
    tests = 0
    for task in recipe.tasks.values():
        for uri in task.tests.values():
            rows = manifest.read(uri).split("test").rows
            tests += (min(rows, task.most_test) if task.most_test else rows) * (1 + len(task.corruptions))
    return supports + tests
