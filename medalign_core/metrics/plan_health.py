"""Whether a transport plan does anything: how far it is from uniform, and what it adds to the mean similarity."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def plan_health(
    plan: Float[Tensor, "*P M N"],
    similarity: Float[Tensor, "*P M N"],
    valid: Bool[Tensor, "*P N"] | None = None,
    *,
    iterations: Float[Tensor, "*P"],
    converged: Bool[Tensor, "*P"],
) -> dict[str, Float[Tensor, ""]]:
    """Return means over problems, detached scalars.

    plan_entropy: that of T / mass over log(M N), in [0, 1]; 1 is uniform: the transport does nothing. 1 as well where
    there is one token and one prompt. prompt_mass_min, prompt_mass_max: the smallest and the largest share of the mass
    that a prompt takes; both 1 / N where every prompt is used alike. plan_gain: <T, S> / mass - mean S, what the plan
    adds to mean pooling, in cosines. iterations: of the solver. unconverged: the share of problems that did not.

    Args:
        plan: T >= 0.
        similarity: S.
        valid: which prompts exist; None: all.
        iterations: of each problem.
        converged: whether each did.
    """
    if valid is None:
        valid = torch.ones_like(plan[..., 0, :], dtype=torch.bool)
    mass = plan.sum(dim=(-2, -1)).clamp(min=torch.finfo(plan.dtype).tiny)
    share = plan / mass[..., None, None]
    pairs = plan.shape[-2] * valid.sum(dim=-1)
    entropy = -torch.special.xlogy(share, share).sum(dim=(-2, -1))
    relative = torch.where(pairs > 1, entropy / pairs.clamp(min=2).log(), 1.0)
    of_prompts = share.sum(dim=-2)
    mean = torch.where(valid[..., None, :], similarity, 0.0).sum(dim=(-2, -1)) / pairs
    return {
        "plan_entropy": relative.mean(),
        "prompt_mass_min": torch.where(valid, of_prompts, torch.inf).amin(dim=-1).mean(),
        "prompt_mass_max": torch.where(valid, of_prompts, 0.0).amax(dim=-1).mean(),
        "plan_gain": ((share * similarity).sum(dim=(-2, -1)) - mean).mean(),
        "iterations": iterations.mean(),
        "unconverged": (~converged).to(plan.dtype).mean(),
    }
