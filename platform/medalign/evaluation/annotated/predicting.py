"""A run's module over a split: its predictions as rows of a table, one per image. Pure but for reading the corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from torch.nn import functional

from medalign.data import images
from medalign.data.annotated_decode import view_mask
from medalign.evaluation.annotated.examples import Example, LeftOut, read_examples

FOUND = pa.struct(
    [("label", pa.string()), ("score", pa.float32())]
    + [(name, pa.float32()) for name in ("left", "top", "right", "bottom")]
)
COMMON = [
    pa.field("id", pa.string(), nullable=False),
    pa.field("split", pa.string(), nullable=False),
    pa.field("group", pa.string(), nullable=False),
]
SCHEMAS = {
    "labels": pa.schema([*COMMON, pa.field("label", pa.string()), pa.field("probabilities", pa.list_(pa.float64()))]),
    "masks": pa.schema([*COMMON, pa.field("predicted", pa.binary())]),  # PNG of class indices, as large as the image
    "boxes": pa.schema([*COMMON, pa.field("predicted", pa.list_(FOUND))]),  # in pixels of the stored image
}
Rows = list[dict[str, Any]]
Progress = Callable[[int], None]


def predict_split(
    module: nn.Module,
    settings: Any,
    corpus: str,
    split: str,
    *,
    size: int,
    batch: int,
    left_out: LeftOut,
    shift: str = "",
    progress: Progress | None = None,
) -> pa.Table:
    """Return the predictions of a split's images as a table of `SCHEMAS`.

    Args:
        module: in eval mode.
        settings: of its objective: what it reads, and its classes.
        corpus: the corpus's URI.
        split: which split.
        size: side of the view that the module reads.
        batch: images at once.
        left_out: is counted up on the way.
        shift: what is done to the images first; see shifts.py.
        progress: called with the number of images done.
    """
    module = module.to("cuda" if torch.cuda.is_available() else "cpu")
    say = {"labels": _labels, "masks": _masks, "boxes": _boxes}[settings.annotation]
    rows: Rows = []
    fit = "centre" if settings.annotation == "labels" else "whole"
    found = read_examples(corpus, split, size=size, fit=fit, left_out=left_out, shift=shift)  # type: ignore[arg-type]
    for examples in _together(found, batch):
        pixels = torch.from_numpy(np.stack([each.view.pixels for each in examples if each.view is not None]))
        with torch.inference_mode():
            said = say(module, pixels.to(next(module.parameters()).device), examples, tuple(settings.classes))
        common = [{"id": each.id, "split": split, "group": each.group} for each in examples]
        rows += [{**known, **more} for known, more in zip(common, said, strict=True)]
        if progress is not None:
            progress(len(rows))
    return pa.Table.from_pylist(rows, schema=SCHEMAS[settings.annotation])


def _together(examples: Iterator[Example], count: int) -> Iterator[list[Example]]:
    held: list[Example] = []
    for each in examples:
        held.append(each)
        if len(held) == count:
            yield held
            held = []
    if held:
        yield held


def _labels(module: nn.Module, pixels: torch.Tensor, examples: Sequence[Example], classes: tuple[str, ...]) -> Rows:
    chances = module.predict(pixels).double().softmax(1).cpu().numpy()  # type: ignore[operator]
    return [{"label": e.label, "probabilities": row.tolist()} for e, row in zip(examples, chances, strict=True)]


def _masks(module: nn.Module, pixels: torch.Tensor, examples: Sequence[Example], classes: tuple[str, ...]) -> Rows:
    """Bring the logits, not the classes, to each image's own size: a border between pixels stays smooth."""
    prompts = (_true_masks(examples, pixels),) if getattr(module, "is_prompted", False) else ()
    logits = module.predict(pixels, *prompts).float()  # type: ignore[operator]
    rows = []
    for each, own in zip(examples, logits, strict=True):
        width, height = each.size
        whole = functional.interpolate(own[None], size=(height, width), mode="bilinear", align_corners=False)[0]
        mask = whole.argmax(0).to(torch.uint8).cpu().numpy()
        rows.append({"predicted": images.encode_mask(mask, each.size)})
    return rows


def _true_masks(examples: Sequence[Example], pixels: torch.Tensor) -> torch.Tensor:
    """Return the true masks as the views show them: a prompted model is given their boxes."""
    side = pixels.shape[-1]
    shown = [
        np.zeros((side, side), dtype=np.uint8) if each.mask is None else view_mask(each.mask, each.view, side)
        for each in examples
        if each.view is not None
    ]
    return torch.from_numpy(np.stack(shown)).to(pixels.device)


def _boxes(module: nn.Module, pixels: torch.Tensor, examples: Sequence[Example], classes: tuple[str, ...]) -> Rows:
    rows = []
    side = pixels.shape[-1]
    for each, found in zip(examples, module.detect(pixels), strict=True):  # type: ignore[operator]
        scale = np.array([each.size[0] / side, each.size[1] / side] * 2)
        corners = found.boxes.cpu().numpy() * scale
        rows.append(
            {
                "predicted": [
                    {
                        "label": classes[int(c)],
                        "score": float(s),
                        **dict(zip(("left", "top", "right", "bottom"), map(float, box), strict=True)),
                    }
                    for box, s, c in zip(corners, found.scores, found.classes, strict=True)
                ]
            }
        )
    return rows
