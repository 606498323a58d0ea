"""Small annotated batches and encoders that several tests share."""

import torch

from medalign_core.models.encoders import ImageEncoder
from medalign_core.models.settings import ResNet, ViT
from medalign_core.types import AnnotatedBatch, DrawKey


def small_resnet(seed: int = 0) -> ImageEncoder:
    torch.manual_seed(seed)
    return ResNet(embedding_size=8, hidden_sizes=(8, 16, 24), depths=(1, 1, 1), layer_type="basic").build()


def small_vit(seed: int = 0) -> ImageEncoder:
    torch.manual_seed(seed)
    return ViT(image_size=32, patch_size=8, hidden_size=16, layers=1, heads=2, mlp_size=16).build()


def annotated(count: int = 4, size: int = 32, *, classes: int = 3, seed: int = 0) -> AnnotatedBatch:
    """Return a batch with a label, a mask and one or two boxes an image; the last image is a hole."""
    draw = torch.Generator().manual_seed(seed)
    corners = torch.rand((count, 2, 2), generator=draw) * size / 2
    boxes = torch.cat([corners, corners + size / 3], dim=-1)
    valid = torch.ones(count, dtype=torch.bool)
    valid[-1] = False
    labels = torch.randint(classes, (count, 2), generator=draw)
    labels[0, 1] = -1
    return AnnotatedBatch(
        images=torch.randint(256, (count, 3, size, size), generator=draw, dtype=torch.uint8),
        labels=torch.randint(classes, (count,), generator=draw),
        masks=torch.randint(classes, (count, size, size), generator=draw, dtype=torch.uint8),
        boxes=boxes,
        box_labels=labels,
        valid=valid,
        ids=torch.arange(count),
        key=DrawKey(0, 0, 0),
    )
