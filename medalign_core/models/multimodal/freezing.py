"""What each stage trains, and the checks that nothing else changes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from medalign_core.models.multimodal.settings import Stage

TOWER = "network.model.vision_tower."
PROJECTOR = "network.model.multi_modal_projector."
NEW_ROWS = "new_rows"


def trained(names: Iterable[str], stage: Stage, *, lora: bool = False) -> set[str]:
    """Return which of a MultimodalModel's parameters a stage trains.

    Stage 1: the projector, and the embeddings of new marker tokens, which are a parameter of their own: the embedding
    matrix itself is frozen, so that neither a gradient nor weight decay can reach its other rows. Stages 2 and "vqa":
    all but the vision tower; with LoRA the projector and the low-rank updates.
    """
    if stage == 1:
        return {name for name in names if name.startswith(PROJECTOR) or name == NEW_ROWS}
    if lora:
        return {name for name in names if name.startswith(PROJECTOR) or ".lora_" in name}
    return {name for name in names if not name.startswith(TOWER)}


def freeze(model: nn.Module, stage: Stage, *, lora: bool = False) -> None:
    """Let exactly the parameters of a stage require gradients."""
    parameters = dict(model.named_parameters())
    chosen = trained(parameters, stage, lora=lora)
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in chosen)


def check_frozen(model: nn.Module, stage: Stage, *, lora: bool = False) -> None:
    """Check that exactly the parameters of a stage require gradients, and that the vision tower is in evaluation mode.

    Raises:
        ValueError: one more or one fewer does, or the tower would change with use.
    """
    parameters = dict(model.named_parameters())
    chosen = trained(parameters, stage, lora=lora)
    wrong = [name for name, p in parameters.items() if p.requires_grad != (name in chosen)]
    if wrong:
        state = "trains" if parameters[wrong[0]].requires_grad else "is frozen"
        raise ValueError(f"stage {stage}: {wrong[0]} {state}, against the stage's rule ({len(wrong)} in all).")
    tower = model.get_submodule(TOWER.rstrip("."))
    if any(module.training for module in tower.modules()):
        raise ValueError(f"stage {stage}: the vision tower is in training mode; it must be frozen in evaluation mode.")


def fingerprint(module: nn.Module) -> str:
    """Return a sha256 over names and bytes of a module's parameters and buffers: equal only where nothing changed."""
    digest = hashlib.sha256()
    for name, tensor in sorted((*module.named_parameters(), *module.named_buffers())):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
