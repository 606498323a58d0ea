"""The root of a recipe: every part's settings under one roof, and where recipes are found by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from medalign import config
from medalign.build import ANNOTATED_OBJECTIVES, MODELS
from medalign.config import Document
from medalign.data.settings import Data
from medalign.errors import RecipeError
from medalign.tracking import Tracking
from medalign.training.optimizers import LARS, AdamW
from medalign.training.schedules import Cosine
from medalign.training.settings import Train
from medalign_core.models.multimodal.settings import Llava
from medalign_core.objectives.info_nce.settings import InfoNCE
from medalign_core.objectives.logra_med.settings import AlignedObjective, Autoregressive
from medalign_core.objectives.lvm_med.settings import LVMMed
from medalign_core.objectives.self_supervised.contract import SelfSupervised

OBJECTIVES = {
    "lvm_med": "medalign_core.objectives.lvm_med.settings:LVMMed",
    "info_nce": "medalign_core.objectives.info_nce.settings:InfoNCE",
    "simclr": "medalign_core.objectives.self_supervised.simclr:SimCLR",
    "moco": "medalign_core.objectives.self_supervised.moco:MoCo",
    "byol": "medalign_core.objectives.self_supervised.byol:BYOL",
    "barlow_twins": "medalign_core.objectives.self_supervised.barlow_twins:BarlowTwins",
    "vicreg": "medalign_core.objectives.self_supervised.vicreg:VICReg",
    "vicregl": "medalign_core.objectives.self_supervised.vicregl:VICRegL",
    "swav": "medalign_core.objectives.self_supervised.swav:SwAV",
    "logra_med": "medalign_core.objectives.logra_med.settings:LoGraMed",
    "autoregressive": "medalign_core.objectives.logra_med.settings:Autoregressive",
    "chat_info_nce": "medalign_core.objectives.logra_med.baselines.info_nce:ChatInfoNCE",
    "chat_siglip": "medalign_core.objectives.logra_med.baselines.siglip:ChatSigLIP",
    "chat_transport": "medalign_core.objectives.logra_med.baselines.transport:ChatTransport",
    "chat_vlap": "medalign_core.objectives.logra_med.baselines.vlap:ChatVLAP",
    **ANNOTATED_OBJECTIVES,
}
OPTIMIZERS = {
    "adam": "medalign.training.optimizers:Adam",
    "adamw": "medalign.training.optimizers:AdamW",
    "sgd": "medalign.training.optimizers:SGD",
    "lars": "medalign.training.optimizers:LARS",
}
SWEEP_SECTIONS = ("search", "tune")
SCHEDULES = {
    "cosine": "medalign.training.schedules:Cosine",
    "step": "medalign.training.schedules:Step",
    "constant": "medalign.training.schedules:Constant",
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run: where it lives, and the seed that every draw of it is keyed by."""

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "strict": True}

    uri: str
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that makes a run. Tables take `type`, a name or `package.module:Class`."""

    run: Run
    data: Data
    model: Any = field(metadata={"table": MODELS})
    objective: Any = field(metadata={"table": OBJECTIVES})
    optimizer: Any = field(default_factory=AdamW, metadata={"table": OPTIMIZERS})
    schedule: Any = field(default_factory=Cosine, metadata={"table": SCHEDULES})
    train: Train
    tracking: Tracking = field(default_factory=Tracking)


def open_recipe(name: str, overrides: Sequence[str] = ()) -> tuple[Recipe, Document]:
    """Read a recipe, lay `key=value` overrides over it and check it.

    Args:
        name: a YAML file, or the name of a shipped recipe such as lvm_med/tiny_cpu.
        overrides: dotted `key.path=value`.

    Raises:
        RecipeError: no such recipe, or anything wrong with a key, a type or a value.
    """
    document = of_one_run(config.load(str(find(name)), overrides))
    recipe = config.build(Recipe, document)
    _check_fit(recipe, document)
    validate = getattr(recipe.objective, "validate", None)
    if validate:
        try:
            validate(recipe.train.micro_batch)
        except ValueError as error:
            raise document.error(("train", "micro_batch"), str(error), value=recipe.train.micro_batch) from error
    return recipe, document


def of_one_run(document: Document) -> Document:
    """Return a recipe without the sections of a sweep, which its notes say; `medalign tune` reads them."""
    found = [name for name in SWEEP_SECTIONS if name in document.values]
    if not found:
        return document
    note = f"{document.source}: {' and '.join(found)}: left to `medalign tune`; this is the recipe beside it."
    return replace(document.without(*found), notes=(*document.notes, note))


def _check_fit(recipe: Recipe, document: Document) -> None:
    """Check that the objective reads what the model reads: conversations, or views of images."""
    model, objective = recipe.model, recipe.objective
    if hasattr(objective, "annotation"):
        _check_annotated(recipe, document)
    of_chats = isinstance(objective, Autoregressive | AlignedObjective)
    if of_chats != isinstance(model, Llava) and (of_chats or isinstance(objective, LVMMed | InfoNCE | SelfSupervised)):
        needed = (
            "model.type: llava, which reads conversations" if of_chats else "an image encoder, not a model of words"
        )
        raise document.error(("objective", "type"), f"needs {needed}.")
    looks = not isinstance(objective, InfoNCE) and getattr(objective, "local", True)
    if recipe.data.views.small and not looks:
        problem = "no objective looks at small views: write null; or take objective.type: simclr, or local: true."
        raise document.error(("data", "views", "small"), problem)
    if isinstance(recipe.optimizer, LARS) and recipe.train.zero_stage:
        problem = "must be 0 with optimizer.type: lars: ZeRO cuts layers apart, whose lengths LARS compares."
        raise document.error(("train", "zero_stage"), problem, value=recipe.train.zero_stage)
    if of_chats and model.text_nodes == "in_context" and "extended" in getattr(objective, "graphs", ()):
        raise document.error(
            ("objective", "graphs"),
            "model.text_nodes: in_context gives no extended nodes; give graphs: [image, answer] or other text_nodes.",
        )


def _check_annotated(recipe: Recipe, document: Document) -> None:
    if isinstance(recipe.model, Llava):
        raise document.error(("objective", "type"), "needs an image encoder, not a model of words.")
    figure = getattr(recipe.objective, "best", None)
    if figure and recipe.train.validate_every and recipe.train.best == "matching_accuracy":
        raise document.error(
            ("train", "best"),
            f"must be a figure of the objective; write train.best={figure}.",
            value=recipe.train.best,
        )


def find(name: str) -> Path:
    """Return the file of a recipe: a path, or a shipped name with or without .yaml.

    Raises:
        RecipeError: there is none; the message lists the shipped ones.
    """
    given = Path(name)
    if given.suffix in (".yaml", ".yml"):
        if given.is_file():
            return given
    else:
        for folder in _folders():
            if (folder / f"{name}.yaml").is_file():
                return folder / f"{name}.yaml"
    raise RecipeError(f"{name}: no such recipe; give a .yaml file, or one of: {', '.join(shipped())}.")


def shipped() -> list[str]:
    """Return the names of the recipes that come with MedAlign."""
    names = {str(p.relative_to(f).with_suffix("")) for f in _folders() for p in f.rglob("*.yaml")}
    return sorted(names)


def _folders() -> list[Path]:
    """Return where recipes lie: inside an installed wheel, or at the root of a checkout."""
    here = Path(__file__).resolve()
    return [f for f in (here.parent / "recipes", here.parents[2] / "jobs" / "recipes") if f.is_dir()]
