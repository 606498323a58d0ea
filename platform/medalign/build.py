"""Opening and building encoders: local directories and hub ids become backbones, settings become weights of a seed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from medalign import config, storage
from medalign.errors import UserError
from medalign_core.models.multimodal.settings import Llava

if TYPE_CHECKING:
    import torch

    from medalign_core.models.encoders import ImageEncoder

RECIPE = "recipe.yaml"  # what a run has and a model's directory does not
MODELS = {
    "resnet": "medalign_core.models.settings:ResNet",
    "vit": "medalign_core.models.settings:ViT",
    "sam_vit": "medalign_core.models.settings:SamViT",
    "llava": "medalign_core.models.multimodal.settings:Llava",
}


ANNOTATED_OBJECTIVES = {
    "classification": "medalign_core.objectives.classification.settings:Classification",
    "segmentation": "medalign_core.objectives.segmentation.settings:Segmentation",
    "detection": "medalign_core.objectives.detection.settings:Detection",
    "detr": "medalign_core.objectives.detr.settings:DETR",
    "box_prompts": "medalign_core.objectives.box_prompts.settings:BoxPrompts",
}


@dataclass(frozen=True, kw_only=True)
class ObjectiveSection:
    """The objective section of a recipe, alone."""

    objective: Any = field(metadata={"table": ANNOTATED_OBJECTIVES})


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """The model section of a recipe, alone."""

    model: Any = field(metadata={"table": MODELS})


def model_settings(recipe: Mapping[str, Any]) -> Any:
    """Return the model's settings from a resolved recipe."""
    document = config.loads(config.dump_yaml({"model": recipe["model"]}), source="recipe.yaml")
    return config.build(ModelSection, document).model


def annotated_objective(recipe: Mapping[str, Any]) -> Any:
    """Return the settings of an objective of annotated images from a resolved recipe."""
    document = config.loads(config.dump_yaml({"objective": recipe["objective"]}), source="recipe.yaml")
    return config.build(ObjectiveSection, document).objective


def build_objective(settings: Any, model: torch.nn.Module, *, seed: int) -> torch.nn.Module:
    """Return an objective's module around a model, in training mode, its weights drawn from the run's seed alone.

    A SamModel that `objective.sam` names is opened for it.

    Raises:
        UserError: it cannot be opened, or is of another kind.
    """
    import torch

    from medalign_core.ops.draws import draw_seed

    parts: dict[str, Any] = {}
    if source := getattr(settings, "sam", None):
        parts["sam"] = open_backbone(source, key="objective.sam", whole=True)
        if parts["sam"].config.model_type != "sam":
            raise UserError(f"objective.sam = {source}: a {parts['sam'].config.model_type} model; give a SamModel.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw_seed(seed, "heads"))
        return settings.build(model, **parts).train()


def is_run(source: str | None) -> bool:
    """Tell whether a place is a run, and not a directory that transformers opens."""
    return bool(source) and storage.exists(storage.join(str(source), RECIPE))


def build_encoder(settings: Any, *, seed: int) -> ImageEncoder:
    """Return the encoder that training starts from: from `settings.source`, else weights drawn from the seed.

    Raises:
        UserError: the source cannot be opened, or the model is a multimodal one.
    """
    from medalign_core.ops.draws import draw_seed

    _check_encoder(settings)
    if settings.source:
        return settings.build(open_backbone(settings.source))
    return _seeded(settings, draw_seed(seed, "model"))


def random_encoder(recipe: Mapping[str, Any], seed: int) -> ImageEncoder:
    """Return the architecture of a resolved recipe with random weights of a seed: the baseline of a probe."""
    import torch
    from transformers import AutoModel

    from medalign_core.ops.draws import draw_seed

    settings = model_settings(recipe)
    _check_encoder(settings)
    if is_run(settings.source):  # the architecture of the run it goes on from
        return random_encoder(yaml.safe_load(storage.read_bytes(storage.join(settings.source, RECIPE))), seed)
    if not settings.source:
        return _seeded(settings, draw_seed(seed, "model"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw_seed(seed, "model"))
        return settings.build(AutoModel.from_config(_config(settings.source)))


def open_backbone(source: str, *, key: str = "model.source", whole: bool = False) -> Any:
    """Open a transformers model from a local directory or, where there is a network, a hub id.

    Of a classifier it is the model without its head; of a SAM the image encoder, or the `whole` of it. Runs no remote
    code and reads safetensors only: a pickle may run anything.

    Raises:
        UserError: it cannot be opened, or lacks weights, which transformers would draw at random.
    """
    from safetensors import SafetensorError
    from transformers import MODEL_MAPPING

    try:
        settings = _config(source, whole=whole)
        kind: Any = MODEL_MAPPING[type(settings)]
        model, info = kind.from_pretrained(
            source, config=settings, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        where = "directory" if os.path.isdir(source) else "directory (or hub id, with a network)"
        cause = " ".join(str(error).split())[:160]
        raise UserError(f"{key} = {source}: not a transformers {where} that can be opened ({cause}).") from error
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))  # a ViT's is not used
    if missing:
        raise UserError(f"{key} = {source}: lacks {len(missing)} weights, {missing[0]} among them.")
    return model


def architecture(source: str, *, key: str = "model.source", whole: bool = False) -> Any:
    """Return the transformers configuration of a directory or hub id; no weight is opened.

    Raises:
        UserError: it cannot be opened.
    """
    try:
        return _config(source, whole=whole)
    except (OSError, ValueError, KeyError) as error:
        cause = " ".join(str(error).split())[:160]
        raise UserError(f"{key} = {source}: no transformers configuration that can be opened ({cause}).") from error


def _config(source: str, *, whole: bool = False) -> Any:
    """Return a source's configuration; of a SAM that of its image encoder, unless it is wanted `whole`."""
    from transformers import AutoConfig

    found = AutoConfig.from_pretrained(source, trust_remote_code=False)
    return found.vision_config if found.model_type == "sam" and not whole else found


def _check_encoder(settings: Any) -> None:
    if isinstance(settings, Llava):
        raise UserError(
            "a multimodal model has no image encoder of its own to open; `medalign evaluate` asks it questions."
        )


def _seeded(settings: Any, seed: int) -> ImageEncoder:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return settings.build()
