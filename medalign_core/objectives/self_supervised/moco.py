"""MoCo v2: a view finds its image's other view, encoded by a slow network, among a queue of earlier keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from medalign_core.objectives.self_supervised.contract import SelfSupervised, check_positive, check_share

if TYPE_CHECKING:
    from torch import Tensor

    from medalign_core.models.encoders import ImageEncoder
    from medalign_core.objectives.self_supervised.moco_module import MoCoModule


@dataclass(frozen=True, kw_only=True)
class MoCo(SelfSupervised):
    """MoCo v2 (He et al. 2020; Chen et al. 2020).

    The queue is the same on every rank: at the end of a step it takes the keys of all its micro-batches, in order.

    Attributes:
        temperature: tau, divides the cosines; > 0.
        momentum: of the key network, in [0, 1].
        queue_size: K, keys that a query is told from; the paper's 65536 is for a million images. >= 1.
        norm_groups: where a network has batch norms, a query's statistics would give its key away. So the keys of a
            micro-batch are shuffled and encoded in so many parts, each with statistics of its own, as MoCo does over
            GPUs; 1 does not.
        symmetric: use each large view as a query; MoCo v2 uses the first alone.
    """

    projector_norm: Literal["none", "batch"] = "none"
    temperature: float = 0.2
    momentum: float = 0.999
    queue_size: int = 65536
    norm_groups: int = 2
    symmetric: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "temperature", "queue_size", "norm_groups")
        check_share(self, "momentum")

    def validate(self, micro_batch: int) -> None:
        """Check that every part of a micro-batch holds at least two images.

        Raises:
            ValueError: it does not.
        """
        if micro_batch < 2 * self.norm_groups:
            raise ValueError(f"micro_batch must be >= 2 * norm_groups = {2 * self.norm_groups}, got {micro_batch}.")

    def build(self, model: ImageEncoder) -> MoCoModule:
        """Return the module that owns both networks and the queue; new weights by torch's global generator."""
        from medalign_core.objectives.self_supervised.moco_module import MoCoModule

        return MoCoModule(self, model)


def moco_loss(queries: Tensor, keys: Tensor, queue: Tensor, valid: Tensor, *, temperature: float) -> Tensor:
    """Return the mean over valid i of -log( exp(q_i.k_i / tau) / (exp(q_i.k_i / tau) + sum_j exp(q_i.n_j / tau)) ).

    q and k are divided by their lengths; k and the queue are constants. 0, still connected, without a valid row.

    Args:
        queries: (B, F).
        keys: (B, F), the own key of each query.
        queue: (K, F), unit keys n of other images.
        valid: (B,) bool.
        temperature: tau.
    """
    import torch

    from medalign_core.objectives.self_supervised.views import mean_over_valid
    from medalign_core.ops.cosine import normalize

    queries, keys = normalize(queries), normalize(keys.detach())
    own = (queries * keys).sum(dim=1, keepdim=True)
    logits = torch.cat([own, queries @ queue.to(queries.dtype).T], dim=1) / temperature
    return mean_over_valid(logits.logsumexp(dim=1) - logits[:, 0], valid)
