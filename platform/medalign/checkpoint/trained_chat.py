"""The multimodal model of a run, out of its checkpoint.

A checkpoint holds what the run's stage trains, nothing that is frozen: in stage 1 the projector and the embeddings of
new tokens, in the later ones all but the vision tower, with LoRA the projector and the low-rank updates. The rest
comes, as it did when training began, from the sources that the recipe names and from its seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
import yaml

from medalign import build, storage
from medalign.checkpoint import catalogue, loading
from medalign.errors import CheckpointError
from medalign_core.models.multimodal.settings import Llava

if TYPE_CHECKING:
    from medalign.multimodal_models import Opened

PREFIX = "model."


def is_chat_run(run: str) -> bool:
    """Tell whether a place is a run of a multimodal model."""
    where = storage.join(run, "recipe.yaml")
    return storage.exists(where) and isinstance(build.model_settings(_recipe(run)), Llava)


def open_chat_model(run: str, *, checkpoint: Literal["best", "latest"] = "best") -> Opened:
    """Return a run's model with its trained weights.

    Args:
        run: its URI.
        checkpoint: "best" by validation (the newest where no validation ran), or "latest".

    Raises:
        RunError: no complete checkpoint.
        CheckpointError: the checkpoint does not fit the run's recipe.
        UserError: a source of the recipe cannot be opened any more.
    """
    from medalign.multimodal_models import open_multimodal

    recipe = _recipe(run)
    saved = catalogue.chosen(run, checkpoint)
    opened = open_multimodal(build.model_settings(recipe), seed=recipe["run"]["seed"])
    own = {name.removeprefix(PREFIX): value for name, value in loading.weights(saved, prefix=PREFIX).items()}
    trained = {name: p for name, p in opened.model.named_parameters() if p.requires_grad}
    if own.keys() != trained.keys():
        missing, unknown = sorted(trained.keys() - own.keys()), sorted(own.keys() - trained.keys())
        raise CheckpointError(
            f"{saved.uri}: does not fit the run's model; missing {missing[:3]}, unknown {unknown[:3]}."
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(own[name])
    opened.model.eval()
    return opened


def _recipe(run: str) -> dict[str, Any]:
    recipe: dict[str, Any] = yaml.safe_load(storage.read_bytes(storage.join(run, "recipe.yaml")))
    return recipe
