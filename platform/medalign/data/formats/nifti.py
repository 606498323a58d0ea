"""Format `nifti`: volumes cut into slices, grey levels clipped at percentiles, with masks where there are any.

A mask has its volume's name, in a folder of its own or behind a suffix. Everything of a volume is one group.
"""

from __future__ import annotations

import functools
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy import ndarray

from medalign import storage
from medalign.data import mask_values
from medalign.data.formats.image_folder import SPLITS, group_finder, group_of
from medalign.data.images import ImageReject
from medalign.data.items import Content, Item
from medalign.errors import CorpusError

OPTIONS: dict[str, Any] = {
    **mask_values.OPTIONS,
    "axis": 2,  # of the slices, in the file's own order
    "every": 1,  # keep each n-th slice
    "clip": "0.5,99.5",  # percentiles of a volume's finite grey levels that become 0 and 255
    "window": "",  # instead: the levels themselves, e.g. "-160,240" Hounsfield units
    "images": "images",  # the folder of volumes; "" for the source itself
    "masks": "masks",  # the folder of masks; "" for the source itself
    "image_suffix": "",  # what a volume's name ends with that its mask's lacks, e.g. "_flair"; others are left alone
    "mask_suffix": "",  # what a mask's name ends with instead, e.g. "_seg"
    "group_pattern": "",  # a regular expression; its first capture group in the relative path is the group
}
LICENCE = "unknown"
SUFFIXES = (".nii", ".nii.gz")
MAX_BYTES = 4 << 30


def list_items(source: str, options: dict[str, Any]) -> Iterator[Item]:
    """List the slices of every volume; only headers are read.

    Raises:
        CorpusError: no volumes, no masks where classes are named, options that do not fit, or nibabel is missing.
    """
    _check(options)
    mask_values.mask_classes(options)
    sizes = {path: size for path, size in storage.list_sizes(source).items() if path.endswith(SUFFIXES)}
    masks = _named(sizes, source, options["masks"], options["mask_suffix"]) if options["classes"] else {}
    volumes = _named(sizes, source, options["images"], options["image_suffix"])
    if not options["image_suffix"]:
        volumes = {name: path for name, path in volumes.items() if path not in masks.values()}
    if not volumes or (options["classes"] and not masks):
        lacking = "volumes below the folder images" if not volumes else "masks below the folder masks"
        raise CorpusError(f"{source}: no {lacking}; name it by an option, or give classes= for a source without masks.")
    find = group_finder(options["group_pattern"])
    is_split = {PurePosixPath(n).parts[0].lower() for n in volumes} <= SPLITS.keys()
    for name, path in volumes.items():
        mask = masks.get(name, "")
        item = Item(
            key=name,
            path=path,
            group=group_of(find, name),
            size=sizes[path],
            split=SPLITS[PurePosixPath(name).parts[0].lower()] if is_split else None,
            volume=name,
        )
        for number in range(0, _slices(path, options["axis"]), options["every"]):
            where = {"slice": number, "mask": mask if options["classes"] else ""}
            if options["classes"] and not mask:
                where["reject"] = "no mask"
            yield replace(item, key=f"{name}#{number}", where=where)


def read_item(item: Item, options: dict[str, Any]) -> Content:
    """Return one slice, with its mask, its place and its spacing."""
    if "reject" in item.where:
        raise ImageReject(item.where["reject"])
    number, axis = item.where["slice"], options["axis"]
    levels, spacing = _volume(item.path, item.size)
    low, high = _range(item.path, item.size, options["clip"], options["window"])
    plane = np.take(levels, number, axis=axis).astype(np.float32)
    shown = np.clip((np.nan_to_num(plane, nan=low) - low) / max(high - low, 1e-12), 0, 1)
    mask = None
    if item.where["mask"]:
        labels, _ = _volume(item.where["mask"], 0)
        if labels.shape != levels.shape:
            raise ImageReject("a mask of another shape than its volume")
        mask = mask_values.to_classes(np.rint(np.take(labels, number, axis=axis)).astype(np.int64), options)
    rest = [mm for place, mm in enumerate(spacing) if place != axis]
    return Content(image=np.rint(shown * 255).astype(np.uint8), mask=mask, slice=number, spacing=(spacing[axis], *rest))


def transforms(options: dict[str, Any]) -> tuple[str, ...]:
    """Say how a volume becomes slices."""
    levels = f"window {options['window']}" if options["window"] else f"percentiles {options['clip']} of its volume"
    return (f"slices along axis {options['axis']}, every {options['every']}, grey levels: {levels} to 0..255",)


def _check(options: dict[str, Any]) -> None:
    if options["axis"] not in (0, 1, 2) or options["every"] < 1:
        raise CorpusError(
            f"axis must be 0, 1 or 2 and every >= 1, got axis={options['axis']} and every={options['every']}."
        )
    for name in ("clip", "window"):
        if options[name]:
            low, high = _pair(options[name], name)
            if not low < high or (name == "clip" and not (low >= 0 and high <= 100)):
                raise CorpusError(f"{name} must be low,high with low < high, got {options[name]!r}.")


def _pair(text: str, name: str) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in text.split(","))
    except ValueError:
        raise CorpusError(f"{name} must be two numbers, e.g. 0.5,99.5, got {text!r}.") from None
    return low, high


def _named(sizes: dict[str, int], source: str, folder: str, suffix: str) -> dict[str, str]:
    """Return the volumes below a folder whose names end with a suffix, by their name without either."""
    found = {}
    for path in sizes:
        parts = PurePosixPath(path[len(source.rstrip("/")) + 1 :]).parts
        if folder and folder not in parts[:-1]:
            continue
        at = parts.index(folder) if folder else -1
        name = str(PurePosixPath(*(part for place, part in enumerate(parts) if place != at)))
        name = name.removesuffix(".gz").removesuffix(".nii")
        if name.endswith(suffix):
            found[name.removesuffix(suffix)] = path
    return found


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise CorpusError("NIfTI volumes need nibabel: pip install 'medalign[medical]'.") from error
    return nibabel


def _slices(path: str, axis: int) -> int:
    nibabel = _nibabel()
    with storage.open_input(path) as stream:
        head = stream.read(1 << 16)
    if path.endswith(".gz"):
        head = zlib.decompressobj(wbits=31).decompress(head, 4096)
    try:
        shape = nibabel.Nifti1Header(head[:348]).get_data_shape()
    except Exception as error:  # noqa: BLE001  nibabel raises many kinds
        raise CorpusError(f"{path}: not a NIfTI-1 volume ({type(error).__name__}).") from error
    if len(shape) < 3 or any(size != 1 for size in shape[3:]):
        raise CorpusError(f"{path}: of shape {tuple(shape)}; volumes of three dimensions are read.")
    return int(shape[axis])


@functools.lru_cache(maxsize=4)
def _volume(path: str, size: int) -> tuple[ndarray, tuple[float, float, float]]:
    """Return a volume's levels and its spacing in mm; the last few are kept, since its slices come one by one."""
    data = storage.read_bytes(path)
    if path.endswith(".gz"):
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ImageReject("a volume larger than 4 GiB")
    image = _nibabel().Nifti1Image.from_bytes(data)
    levels = np.asanyarray(image.dataobj)
    zooms = tuple(float(mm) for mm in image.header.get_zooms()[:3])
    return levels.reshape(levels.shape[:3]), (zooms[0], zooms[1], zooms[2])


@functools.lru_cache(maxsize=64)
def _range(path: str, size: int, clip: str, window: str) -> tuple[float, float]:
    if window:
        return _pair(window, "window")
    levels, _ = _volume(path, size)
    finite = levels[np.isfinite(levels)]
    if not finite.size:
        raise ImageReject("a volume without finite levels")
    low, high = np.percentile(finite, _pair(clip, "clip"))
    return float(low), float(high)
