"""Any discrete solver made differentiable: black-box interpolation and I-MLE around a pure NumPy function.

`solve` returns argmax (or argmin) over v in some finite set of <theta, v>, as an array of the shape of theta. The
derivative of that is 0 almost everywhere; black-box interpolation (Vlastelica et al. 2020, Alg. 1) returns the slope
over a step of length lambda against the gradient g = dL/dv that comes in,
    dL/dtheta = (1 / lambda) * [ v(theta) - v(theta - lambda g) ]          (argmax; for argmin both signs change),
and I-MLE (Niepert, Minervini and Franceschi 2021) does so at theta plus noise. For graph matchings, whose edges need
more, see solvers.implicit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medalign_core.solvers.noise import Noise

Solve = Callable[[np.ndarray], np.ndarray]


def blackbox(
    solve: Solve,
    parameters: Float[Tensor, "*S"],
    *,
    strength: float,
    sense: Literal["max", "min"] = "max",
    estimator: Literal["homogeneous", "compat"] = "homogeneous",
    batch_axes: int = 0,
) -> Float[Tensor, "*S"]:
    """Return solve(parameters), with the estimator above as its gradient; a backward pass is one more call of `solve`.

    "homogeneous": g is divided by its largest entry in absolute value before the step, and the result multiplied by it.
    So the step is `strength` long whatever the loss is multiplied by, and the gradient is homogeneous of degree 1 in g:
    loss scales, weights and accumulation do what they say. "compat" is the formula as published, whose result does not
    grow with g. Where g is 0, so is the gradient.

    Args:
        solve: takes and returns a float64 array of the parameters' shape; must not change its argument.
        parameters: theta.
        strength: lambda > 0: longer steps see further and give a coarser slope.
        sense: whether `solve` maximises or minimises.
        estimator: see above.
        batch_axes: how many leading axes number separate problems, each with a largest entry of its own.

    Raises:
        ValueError: strength is not positive and finite; `solve` returns another shape.
    """
    if not 0 < strength < float("inf"):
        raise ValueError(f"strength (lambda) must be > 0 and finite, got {strength}.")
    setting = _Setting(solve, strength, 1.0 if sense == "max" else -1.0, estimator == "homogeneous", batch_axes)
    solution: Tensor = _Interpolation.apply(parameters, setting)
    return solution


def imle(
    solve: Solve,
    parameters: Float[Tensor, "*S"],
    noise: Noise,
    draws: torch.Generator,
    *,
    strength: float,
    samples: int = 1,
    sense: Literal["max", "min"] = "max",
    estimator: Literal["homogeneous", "compat"] = "homogeneous",
    batch_axes: int = 0,
) -> Float[Tensor, "R ..."]:
    """Return solutions at `samples` perturbations of the parameters, each with the gradient of `blackbox` there.

    Take the mean of a loss over the first axis: it estimates the loss expected under the perturbations, and its
    gradient is the estimate averaged over the samples. Both solves of a sample see the same noise.

    Args:
        solve: as in `blackbox`; called once for each sample.
        parameters: theta.
        noise: added to the parameters (subtracted for "min", whose costs are negative scores).
        draws: what the noise is drawn from.
        strength: as in `blackbox`.
        samples: R >= 1.
        sense: as in `blackbox`.
        estimator: as in `blackbox`.
        batch_axes: as in `blackbox`; samples are separate problems in any case.

    Raises:
        ValueError: samples < 1, and as `blackbox`.
    """
    if samples < 1:
        raise ValueError(f"samples must be >= 1, got {samples}.")
    drawn = torch.from_numpy(noise.draw((samples, *parameters.shape), draws)).to(parameters)
    return blackbox(
        lambda stacked: np.stack([solve(one) for one in stacked]),
        parameters + (drawn if sense == "max" else -drawn),
        strength=strength,
        sense=sense,
        estimator=estimator,
        batch_axes=batch_axes + 1,
    )


class _Setting(NamedTuple):
    solve: Solve
    strength: float
    sign: float  # +1 for argmax, -1 for argmin
    homogeneous: bool
    batch_axes: int


class _Interpolation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameters: Tensor, setting: _Setting) -> Tensor:
        theta = parameters.detach().cpu().numpy().astype(np.float64)
        solution = np.asarray(setting.solve(theta), dtype=np.float64)
        if solution.shape != theta.shape:
            raise ValueError(f"solve must return the parameters' shape {theta.shape}, got {solution.shape}.")
        ctx.theta, ctx.solution, ctx.setting = theta, solution, setting
        return torch.from_numpy(solution).to(parameters)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor, None]:
        setting = ctx.setting
        gradient = incoming.detach().cpu().numpy().astype(np.float64)
        if not gradient.any():
            return torch.zeros_like(incoming), None
        size: np.ndarray | float = 1.0
        if setting.homogeneous:
            size = np.abs(gradient).max(axis=tuple(range(setting.batch_axes, gradient.ndim)), keepdims=True, initial=0)
        step = np.divide(setting.strength * gradient, size, out=np.zeros_like(gradient), where=np.asarray(size) > 0)
        target = np.asarray(setting.solve(ctx.theta - setting.sign * step), dtype=np.float64)
        slope = setting.sign * (ctx.solution - target) * size / setting.strength
        return torch.from_numpy(slope).to(incoming), None
