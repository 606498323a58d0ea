"""Pictures of predictions over images: true and predicted masks or boxes side by side, classes that were mistaken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy import ndarray
from PIL import Image, ImageDraw

from medalign import storage
from medalign.data import images
from medalign.data.reader import read_rows
from medalign.errors import MedAlignError
from medalign.evaluation.annotated.result import PREDICTIONS, AnnotatedResult
from medalign.reports.matching import jpeg
from medalign_core.metrics.overlap import dice, overlap_counts

SHOWN, SIDE = 6, 320
LEAST_SCORE = 0.5  # boxes below it would cover the picture
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2", "#999999")


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """One image twice: as it is known, and as it was predicted; data URIs of JPEGs."""

    truth: str
    predicted: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Key:
    """What a colour means."""

    colour: str
    name: str


def draw_overlays(result: AnnotatedResult) -> tuple[list[Overlay], list[Key], str]:
    """Return pictures of an evaluation, the meaning of their colours, and why there are none, if so.

    Of masks the images with the best, the middle and the worst Dice are shown; of boxes images in equal distances; of
    labels the surest mistakes.
    """
    try:
        table = pq.read_table(BytesIO(storage.read_bytes(storage.join(result.uri, PREDICTIONS))))
        table = table.filter(pa.compute.equal(table["split"], result.split))
        predicted = {row["id"]: row for row in table.to_pylist()}
        if result.task == "classification":
            predicted = _surest_mistakes(predicted, result.classes)
            found = [_label(row, predicted[row["id"]], result.classes) for row in _rows(result, predicted)]
            return found, [], "" if found else "No image was mistaken."
        if result.task == "segmentation":
            return _masks(result, predicted), _keys(result.classes[1:]), ""
        chosen = _spread(predicted)
        return (
            [_boxes(row, chosen[row["id"]], result.classes) for row in _rows(result, chosen)],
            _keys(result.classes),
            "",
        )
    except MedAlignError as error:
        return [], [], f"No pictures: {error}"


def _rows(result: AnnotatedResult, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the corpus's rows with these ids, in the order of `wanted`."""
    columns = ("id", "image", "label") + (("mask",) if result.task == "segmentation" else ())
    columns += ("boxes",) if result.task == "detection" else ()
    found = {
        row["id"]: row
        for batch in read_rows(result.corpus, result.split, columns=columns)
        for row in batch.to_pylist()
        if row["id"] in wanted
    }
    return [found[key] for key in wanted if key in found]


def _keys(names: Sequence[str]) -> list[Key]:
    return [Key(colour=COLOURS[place % len(COLOURS)], name=name) for place, name in enumerate(names)]


def _spread(predicted: Mapping[str, Any]) -> dict[str, Any]:
    keys = sorted(predicted)
    chosen = [keys[int(place)] for place in np.linspace(0, len(keys) - 1, min(SHOWN, len(keys)))]
    return {key: predicted[key] for key in chosen}


def _surest_mistakes(predicted: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    wrong = []
    for key, row in predicted.items():
        at = int(np.argmax(row["probabilities"]))
        if row["label"] in classes and classes[at] != row["label"]:
            wrong.append((-row["probabilities"][at], key))
    return {key: predicted[key] for _, key in sorted(wrong)[:SHOWN]}


def _label(row: dict[str, Any], said: Mapping[str, Any], classes: Sequence[str]) -> Overlay:
    at = int(np.argmax(said["probabilities"]))
    picture = jpeg(_open(row["image"])[0], SIDE)
    caption = f"{row['label']}, taken for {classes[at]} ({said['probabilities'][at]:.0%})"
    return Overlay(truth=picture, predicted="", caption=caption)


def _masks(result: AnnotatedResult, predicted: Mapping[str, Any]) -> list[Overlay]:
    scored = []
    for row in _rows(result, predicted):
        if row["mask"] is None:
            continue
        truth, found = images.decode_mask(row["mask"]), images.decode_mask(predicted[row["id"]]["predicted"])
        values = dice(overlap_counts(truth, found, classes=len(result.classes)))[1:]
        if not np.isnan(values).all():
            scored.append((float(np.nanmean(values)), row["id"], row["image"], truth, found))
    scored.sort(key=lambda each: each[:2])
    places = np.linspace(0, max(0, len(scored) - 1), min(SHOWN, len(scored))).astype(int).tolist()
    shown = []
    for score, _, data, truth, found in (scored[place] for place in places):
        picture, _ = _open(data)
        pair = (jpeg(_tinted(picture, mask), SIDE) for mask in (truth, found))
        shown.append(Overlay(truth=next(pair), predicted=next(pair), caption=f"Dice {score:.3f}"))
    return shown


def _boxes(row: dict[str, Any], said: Mapping[str, Any], classes: Sequence[str]) -> Overlay:
    picture, scale = _open(row["image"])
    sure = [box for box in said["predicted"] if box["score"] >= LEAST_SCORE]
    pair = (jpeg(_framed(picture, boxes, classes, scale), SIDE) for boxes in (row["boxes"] or [], sure))
    caption = f"{len(row['boxes'] or [])} true boxes, {len(sure)} found with a score of at least {LEAST_SCORE:g}"
    return Overlay(truth=next(pair), predicted=next(pair), caption=caption)


def _open(data: bytes) -> tuple[ndarray, float]:
    """Return an image (H, W, 3) as it is drawn, and by what it was scaled."""
    image = images.decode(data).convert("RGB")
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR)), scale


def _tinted(picture: ndarray, mask: ndarray) -> ndarray:
    size = (picture.shape[1], picture.shape[0])
    shown = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    colours = np.array([_rgb(COLOURS[place % len(COLOURS)]) for place in range(256)])
    inside = (shown > 0) & (shown != 255)
    tinted = picture.copy()
    tinted[inside] = (0.5 * picture[inside] + 0.5 * colours[shown[inside].astype(int) - 1]).astype(np.uint8)
    return tinted


def _framed(picture: ndarray, boxes: Sequence[Mapping[str, Any]], classes: Sequence[str], scale: float) -> ndarray:
    image = Image.fromarray(picture.copy())
    pen = ImageDraw.Draw(image)
    place = {name: index for index, name in enumerate(classes)}
    for box in boxes:
        colour = COLOURS[place[box["label"]] % len(COLOURS)] if box["label"] in place else "#ffffff"
        corners = [box[name] * scale for name in ("left", "top", "right", "bottom")]
        pen.rectangle(corners, outline=colour, width=2)
    return np.asarray(image)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))
