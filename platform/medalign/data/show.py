"""Show a corpus: what its manifest says, typed, and a contact sheet of its pictures."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from medalign import storage
from medalign.data import contact_sheet as sheets
from medalign.data import images, manifest
from medalign.data.manifest import Manifest

PER_CLASS = 10
MOST_CLASSES = 24
BOX_COLOUR = "#f2b705"


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """One split in numbers."""

    rows: int
    groups: int
    shards: int
    bytes: int
    classes: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A corpus in numbers and words."""

    uri: str
    name: str
    schema: str
    columns: dict[str, str]
    classes: tuple[str, ...]
    splits: dict[str, SplitSummary]
    rows: int
    bytes: int
    licence: str
    source: dict[str, str]
    transforms: tuple[str, ...]
    quarantined: int
    fingerprint: str
    contact_sheet: str | None


def show(uri: str, *, contact_sheet: str | Path | None = None) -> Summary:
    """Return a corpus's summary and, if `contact_sheet` names a PNG file, draw some pictures of each class there.

    Raises:
        CorpusError: no corpus at `uri`, or one of another schema.
        StorageError: `uri` cannot be reached.
    """
    corpus = manifest.read(uri)
    splits = {
        name: SplitSummary(
            rows=split.rows,
            groups=split.groups,
            shards=len(split.shards),
            bytes=sum(shard.bytes for shard in split.shards),
            classes=split.classes,
        )
        for name, split in corpus.splits.items()
    }
    if contact_sheet is not None:
        sheet = draw(uri, corpus)
        Path(contact_sheet).parent.mkdir(parents=True, exist_ok=True)
        sheet.save(contact_sheet, "PNG")
    return Summary(
        uri=uri,
        name=corpus.name,
        schema=corpus.schema,
        columns=corpus.columns,
        classes=corpus.classes,
        splits=splits,
        rows=sum(split.rows for split in splits.values()),
        bytes=sum(split.bytes for split in splits.values()),
        licence=corpus.licence,
        source=corpus.source,
        transforms=corpus.transforms,
        quarantined=len(corpus.quarantined),
        fingerprint=corpus.fingerprint,
        contact_sheet=None if contact_sheet is None else str(contact_sheet),
    )


def draw(uri: str, corpus: Manifest) -> Image.Image:
    """Return a contact sheet: a line of pictures per class, from as many groups of the first split as there are."""
    name = "train" if "train" in corpus.splits else min(corpus.splits)
    split = corpus.splits[name]
    chosen = _choose(uri, corpus, name)
    lines = []
    for label, places in chosen.items():
        count = split.classes.get(label, 0) if label else split.rows
        lines.append(sheets.Line(title=label or "unlabelled", note=f"{count:,} rows", pictures=_load(uri, places)))
    left = len(corpus.classes) - len(lines)
    rest = f"  ·  {left} more classes" if left > 0 else ""
    counts = ", ".join(f"{key} {value.rows:,}" for key, value in sorted(corpus.splits.items()))
    return sheets.draw(f"{corpus.name}", f"{counts} rows  ·  shown: {name}{rest}", lines)


def _choose(uri: str, corpus: Manifest, name: str) -> dict[str, list[tuple[str, int]]]:
    """Return (shard, row) of the pictures to show, by class; a new group first, while there are any."""
    by_class: dict[str, dict[str, list[tuple[str, int]]]] = defaultdict(lambda: defaultdict(list))
    for shard in corpus.splits[name].shards:
        with storage.open_input(storage.join(uri, shard.path)) as stream:
            table = pq.read_table(stream, columns=["label", "group"])
        for row, (label, group) in enumerate(zip(table["label"].to_pylist(), table["group"].to_pylist(), strict=True)):
            members = by_class[label or ""][group]
            if len(members) < PER_CLASS:
                members.append((shard.path, row))
    chosen = {}
    for label in sorted(by_class)[:MOST_CLASSES]:
        turns = [
            (turn, order, place)
            for order, members in enumerate(by_class[label].values())
            for turn, place in enumerate(members)
        ]
        chosen[label] = [place for _, _, place in sorted(turns)[:PER_CLASS]]
    return chosen


def _load(uri: str, places: list[tuple[str, int]]) -> list[Image.Image]:
    pictures = []
    for path, row in places:
        with storage.open_input(storage.join(uri, path)) as stream:
            file = pq.ParquetFile(stream)
            for index in range(file.num_row_groups):
                size = file.metadata.row_group(index).num_rows
                if row < size:
                    found = file.read_row_group(index, columns=["image", "boxes"]).slice(row, 1).to_pylist()[0]
                    pictures.append(_with_boxes(images.decode(found["image"]), found["boxes"] or []))
                    break
                row -= size
    return pictures


def _with_boxes(picture: Image.Image, boxes: list[dict[str, float]]) -> Image.Image:
    if not boxes:
        return picture
    picture = picture.convert("RGB")
    pen = ImageDraw.Draw(picture)
    for box in boxes:
        corners = (box["left"], box["top"], box["right"] - 1, box["bottom"] - 1)
        pen.rectangle(corners, outline=BOX_COLOUR, width=max(1, max(picture.size) // 150))
    return picture
