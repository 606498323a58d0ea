"""The whole module of a run on annotated images, encoder and head, out of its checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
import yaml

from medalign import build, storage
from medalign.checkpoint import catalogue, loading
from medalign.checkpoint.trained_encoder import starting_encoder
from medalign.errors import CheckpointError, RunError

if TYPE_CHECKING:
    from torch import nn


def open_trained(run: str, *, checkpoint: Literal["best", "latest"] = "best") -> tuple[nn.Module, Any]:
    """Return a run's module with its trained weights, in eval mode, and the settings of its objective.

    A checkpoint holds what the run trains; a frozen encoder comes, as it did when training began, from its source.

    Args:
        run: its URI.
        checkpoint: "best" by validation (the newest where no validation ran), or "latest".

    Raises:
        RunError: no run there, none on annotated images, or no complete checkpoint.
        CheckpointError: the checkpoint does not fit the run's recipe.
    """
    if not build.is_run(run):
        raise RunError(f"{run}: no run here ({build.RECIPE} is missing); give the URI that `medalign train` printed.")
    recipe: dict[str, Any] = yaml.safe_load(storage.read_bytes(storage.join(run, build.RECIPE)))
    kind = str(recipe["objective"].get("type"))
    is_known = kind in build.ANNOTATED_OBJECTIVES or ":" in kind
    settings = build.annotated_objective(recipe) if is_known else None
    if not hasattr(settings, "annotation"):
        raise RunError(
            f"{run}: its objective ({kind}) makes no predictions; train one of"
            f" {', '.join(build.ANNOTATED_OBJECTIVES)} from it, with model.source={run}."
        )
    saved = catalogue.chosen(run, checkpoint)
    encoder = starting_encoder(build.model_settings(recipe), seed=recipe["run"]["seed"])
    module = build.build_objective(settings, encoder, seed=recipe["run"]["seed"])
    _fill(module, loading.weights(saved), where=saved.uri)
    return module.eval(), settings


def _fill(module: nn.Module, found: dict[str, torch.Tensor], *, where: str) -> None:
    """Load every trained weight and every running statistic; each must be there, and no other."""
    state = module.state_dict()
    wanted = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    for name in [name for name in state if name.endswith((".running_mean", ".running_var"))]:
        weight = f"{name.rpartition('.')[0]}.weight"
        wanted |= {name} if weight in wanted or weight not in state else set()
    missing, unknown = sorted(wanted - found.keys()), sorted(found.keys() - wanted)
    if missing or unknown:
        raise CheckpointError(f"{where}: does not fit the run's model; missing {missing[:3]}, unknown {unknown[:3]}.")
    with torch.no_grad():
        for name in wanted:
            state[name].copy_(found[name])
