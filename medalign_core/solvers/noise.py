"""Noise for perturb-and-MAP: keyed Gumbel and Sum-of-Gamma draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Independent draws that are added to the parameters of a discrete problem before it is solved.

    Attributes:
        distribution: "gumbel" is Gumbel(0, scale) on every entry: exact samples where exactly one entry is chosen.
            "sum_of_gamma" is the noise of I-MLE (Niepert, Minervini and Franceschi 2021, Th. 1) for structures with
            `degree` chosen entries: (scale / degree) * (sum over i <= terms of Gamma(1/degree, degree/i) - log terms).
            Any `degree` of these sum to one Gumbel(0, scale) as `terms` grows.
        scale: >= 0; 0 draws zeros.
        degree: how many entries a solution chooses, >= 1; read by "sum_of_gamma" only.
        terms: how many Gamma draws are summed, >= 1; read by "sum_of_gamma" only.
    """

    distribution: Literal["gumbel", "sum_of_gamma"] = "gumbel"
    scale: float = 1.0
    degree: int = 1
    terms: int = 10

    def __post_init__(self) -> None:
        if self.distribution not in ("gumbel", "sum_of_gamma"):
            raise ValueError(f"distribution must be 'gumbel' or 'sum_of_gamma', got {self.distribution!r}.")
        if not (np.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"scale must be finite and >= 0, got {self.scale}.")
        if self.degree < 1 or self.terms < 1:
            raise ValueError(f"degree and terms must be >= 1, got {self.degree} and {self.terms}.")

    def draw(self, shape: tuple[int, ...], draws: torch.Generator) -> Float[np.ndarray, "*S"]:
        """Return draws in float64; they depend on the generator's state alone, which moves on."""
        standard = _gumbel(shape, draws) if self.distribution == "gumbel" else self._sum_of_gamma(shape, draws)
        standard *= self.scale
        return standard

    def _sum_of_gamma(self, shape: tuple[int, ...], draws: torch.Generator) -> np.ndarray:
        import torch

        # NumPy's Gamma sampler, seeded from the generator: torch's public one takes no generator
        sampler = np.random.default_rng(int(torch.randint(2**62, (), generator=draws)))
        total = np.zeros(shape)
        for i in range(1, self.terms + 1):
            total += sampler.gamma(1.0 / self.degree, self.degree / i, size=shape)
        return (total - np.log(self.terms)) / self.degree


def _gumbel(shape: tuple[int, ...], draws: torch.Generator) -> np.ndarray:
    import torch

    uniform = torch.rand(shape, generator=draws, dtype=torch.float64).clamp_(min=1e-300)
    values: np.ndarray = -np.log(-np.log(uniform.numpy()))
    return values
