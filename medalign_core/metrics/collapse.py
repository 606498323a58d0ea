"""Whether embeddings still tell samples apart."""

from __future__ import annotations

import torch
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


def effective_rank(embeddings: Float[Tensor, "B F"], valid: Bool[Tensor, " B"]) -> Float[Tensor, ""]:
    """Return (sum l)^2 / sum l^2 of the eigenvalues l of the valid rows' covariance: the participation ratio.

    In [1, min(B - 1, F)]: how many directions the samples vary in alike. 1 is collapse onto a line, and is returned for
    samples that do not vary at all, or fewer than two; `embedding_std` tells those apart. No eigenvalue is computed.
    """
    rows = at_least_float32(embeddings.detach())
    weight = valid.to(rows.dtype)[:, None]
    rows = (rows - (rows * weight).sum(dim=0) / weight.sum().clamp(min=1)) * weight
    length = torch.linalg.matrix_norm(rows)  # squared: the sum of the eigenvalues, but for the count
    units = rows / length.clamp(min=torch.finfo(rows.dtype).tiny)
    gram = units @ units.T if len(rows) <= rows.shape[1] else units.T @ units
    return torch.where(length > 0, 1 / gram.square().sum().clamp(min=1e-12), 1.0)
