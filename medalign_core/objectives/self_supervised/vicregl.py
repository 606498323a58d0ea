"""VICRegL: VICReg between images, and between the cells of their feature maps that show the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medalign_core.objectives.self_supervised.contract import check_positive, check_share
from medalign_core.objectives.self_supervised.vicreg import VICReg, vicreg_loss

if TYPE_CHECKING:
    from torch import Tensor

    from medalign_core.models.encoders import ImageEncoder
    from medalign_core.objectives.self_supervised.vicregl_module import VICRegLModule


@dataclass(frozen=True, kw_only=True)
class VICRegL(VICReg):
    """VICRegL (Bardes et al. 2022): alpha times VICReg of the images, 1 - alpha times that of matched cells.

    Attributes:
        alpha: share of the global loss, in [0, 1].
        local_size: width of the cells' own projector, 3 layers deep, and of its output.
        local_matches: cells of a map that count: those with the nearest match.
        small_matches: likewise between a large and a small view.
    """

    alpha: float = 0.9
    local_size: int = 512
    local_matches: int = 20
    small_matches: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "alpha")
        check_positive(self, "local_size", "local_matches", "small_matches")

    def build(self, model: ImageEncoder) -> VICRegLModule:  # type: ignore[override]
        """Return the module that owns encoder and both projectors; new weights by torch's global generator."""
        from medalign_core.objectives.self_supervised.vicregl_module import VICRegLModule

        return VICRegLModule(self, model)


def local_vicreg_loss(
    cells: tuple[Tensor, Tensor],
    grids: tuple[Tensor, Tensor],
    valid: Tensor,
    *,
    matches: int,
    weights: tuple[float, float, float],
) -> Tensor:
    """Return the mean of VICReg over matched cells: by place and by feature, from s to t and from t to s.

    For each cell of an image's one view its match is the nearest cell of the image's other view, in source coordinates
    or among the cells (Euclidean); the `matches` cells with the smallest distances are kept. The n-th best pairs of all
    images are one problem of `vicreg_loss`; it is the mean over the problems. Which cells match is constant.

    Args:
        cells: (B, P, D) of view s and (B, Q, D) of view t.
        grids: (B, P, 2) and (B, Q, 2), the cells' centres.
        valid: (B,) bool.
        matches: cells kept, at most P or Q.
        weights: of `vicreg_loss`.
    """
    import torch

    s, t = cells
    with torch.no_grad():
        distances = [torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist") for a, b in (grids, cells)]
    losses = []
    for distance in distances:
        for own, other, table in ((s, t, distance), (t, s, distance.transpose(1, 2))):
            nearest, partner = table.min(dim=2)
            best = nearest.sort(dim=1, stable=True).indices[:, :matches]
            first, second = _take(own, best), _take(other, partner.gather(1, best))  # (B, matches, D)
            losses.append(vicreg_loss(first.transpose(0, 1), second.transpose(0, 1), valid, weights=weights))
    return torch.stack(losses).mean()


def _take(cells: Tensor, places: Tensor) -> Tensor:
    return cells.gather(1, places[:, :, None].expand(-1, -1, cells.shape[2]))
