"""What a validation of a recipe reports: its objective, tried on one validation micro-batch, before anything trains."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medalign.launch.run import dry_run
from medalign.launch.worker import build_module
from medalign.training.session import set_accelerator


def validation_figures(recipe: str, overrides: Sequence[str] = ()) -> list[str]:
    """Return the names of the figures of a validation; [] where the recipe does not validate. Writes nothing.

    Raises:
        UserError: as `train`.
    """
    set_accelerator()
    settled, plan = dry_run(recipe, overrides)
    if plan.validation is None:
        return []
    module = build_module(settled).eval()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = next(iter(plan.validation.plain(0, start=0, stop=1)))
    with torch.no_grad():
        _, stats = module.to(device)(batch.to(device))
    return sorted({"loss", *stats})
