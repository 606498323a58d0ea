"""Whether embeddings still tell samples apart."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from medalign_core.ops.cosine import at_least_float32, normalize


def embedding_std(embeddings: Float[Tensor, "B F"], valid: Bool[Tensor, " B"]) -> Float[Tensor, ""]:
    """Return sqrt(F) times the mean over dimensions of the standard deviation of z / |z| over valid samples.

    In [0, 1] whatever F: 1 when the directions are spread evenly over the sphere, 0 when all samples are one direction
    (a collapsed encoder) or fewer than two are valid. The measure of SimSiam (Chen and He 2021, sec. 4.1), rescaled.
    """
    units = normalize(at_least_float32(embeddings.detach()))
    weight = valid.to(units.dtype)[:, None]
    count = weight.sum().clamp(min=1)
    mean = (units * weight).sum(dim=0) / count
    variance = ((units - mean).square() * weight).sum(dim=0) / count
    return variance.sqrt().mean() * (embeddings.shape[1] ** 0.5)
