"""Multinomial logistic regression by L-BFGS, to its optimum."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

TOLERANCE = 1e-8  # of the largest entry of the gradient
STILL = 1e-12  # a fall of the loss, or a step, that is rounding: large supports never reach the tolerance


@torch.enable_grad()
def fit(
    features: Float[Tensor, "S D"],
    labels: Int[Tensor, " S"],
    classes: int,
    *,
    inverse_penalty: float,
    max_iterations: int = 1000,
) -> tuple[Float[Tensor, "C D"], Float[Tensor, " C"]]:
    """Return weights and intercepts W of min |W|^2 / 2 + inverse_penalty * sum_i CE(W [x_i, 1], y_i).

    Strictly convex, so the outcome is unique, whichever classes are there. Computed in float64, returned as `features`.
    """
    x = functional.pad(features.detach().double(), (0, 1), value=1.0)
    weights = x.new_zeros(classes, x.shape[1]).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=max_iterations,
        tolerance_grad=TOLERANCE,
        tolerance_change=STILL,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        errors = functional.cross_entropy(x @ weights.T, labels, reduction="sum")
        loss = weights.square().sum() / 2 + inverse_penalty * errors
        loss.backward()
        return loss

    optimizer.step(closure)
    found = weights.detach().to(features.dtype)
    return found[:, :-1], found[:, -1]
