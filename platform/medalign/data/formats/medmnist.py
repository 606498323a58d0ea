"""Format `medmnist`: one npz with {train,val,test}_images (N, H, W[, 3]) uint8 and _labels (N, 1)."""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from medalign import storage
from medalign.data.items import Content, Item
from medalign.errors import CorpusError

OPTIONS: dict[str, Any] = {
    "classes": "",  # names of classes 0, 1, ..., comma-separated; the numbers themselves if empty
}
LICENCE = "as of the MedMNIST set (most are CC BY 4.0)"
SPLITS = ("train", "val", "test")
MAX_ARRAY_BYTES = 4 << 30  # each worker holds one whole array


def list_items(source: str, options: dict[str, Any]) -> Iterator[Item]:
    """List the images of every split the file has, with their labels.

    Raises:
        CorpusError: not such a file, several labels an image, volumes, or more classes than names.
    """
    size = storage.list_sizes(source.rpartition("/")[0], recursive=False).get(source)
    if size is None:
        raise CorpusError(f"{source}: not found; give the path of a MedMNIST .npz file.")
    labels = {split: _labels(source, split) for split in SPLITS if f"{split}_images" in _members(source)}
    if not labels:
        raise CorpusError(f"{source}: has none of the arrays {', '.join(f'{split}_images' for split in SPLITS)}.")
    names = _names(options["classes"], count=1 + max(int(values.max()) for values in labels.values()), source=source)
    for split, values in labels.items():
        for number, value in enumerate(values):
            key = f"{split}/{number}"
            where = {"split": split, "number": number}
            yield Item(key=key, path=source, group=key, size=size, split=split, label=names[value], where=where)


def read_item(item: Item, options: dict[str, Any]) -> Content:
    """Return one image."""
    return Content(image=_array(item.path, f"{item.where['split']}_images")[item.where["number"]])


def transforms(options: dict[str, Any]) -> tuple[str, ...]:
    """Nothing beyond what every image undergoes."""
    return ()


def _names(text: str, *, count: int, source: str) -> list[str]:
    if not text:
        return [str(number).zfill(len(str(count - 1))) for number in range(count)]
    names = [name.strip() for name in text.split(",")]
    if len(names) < count or len(set(names)) < len(names) or not all(names):
        raise CorpusError(f"{source}: has {count} classes; classes={text!r} must name each, once.")
    return names


def _labels(source: str, split: str) -> np.ndarray:
    labels, images = _array(source, f"{split}_labels"), _header(source, f"{split}_images")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or (labels.size and labels.min() < 0):
        raise CorpusError(f"{source}: {split}_labels of shape {labels.shape} is not one class an image.")
    is_pictures = len(images) == 3 or (len(images) == 4 and images[3] == 3)
    if not is_pictures or images[0] != len(labels):
        raise CorpusError(f"{source}: {split}_images of shape {images} is not {len(labels)} grey or RGB images.")
    return labels


def _members(source: str) -> list[str]:
    with storage.open_input(source) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                return [name.removesuffix(".npy") for name in archive.namelist()]
        except (zipfile.BadZipFile, ValueError) as error:  # ValueError: pyarrow, for a seek before the start
            raise CorpusError(f"{source}: not an npz file.") from error


def _header(source: str, member: str) -> tuple[int, ...]:
    """Return an array's shape without reading it; refuse one that does not fit in memory or holds objects."""
    with storage.open_input(source) as stream, zipfile.ZipFile(stream) as archive:
        with archive.open(f"{member}.npy") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
    if dtype.hasobject:
        raise CorpusError(f"{source}: {member} holds Python objects, which are not read.")
    if int(np.prod(shape)) * dtype.itemsize > MAX_ARRAY_BYTES:
        raise CorpusError(f"{source}: {member} is larger than {MAX_ARRAY_BYTES >> 30} GiB; use a smaller image size.")
    return shape


@functools.lru_cache(maxsize=4)
def _array(source: str, member: str) -> np.ndarray:
    try:
        _header(source, member)
        with storage.open_input(source) as stream:
            return np.load(stream, allow_pickle=False)[member]
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise CorpusError(f"{source}: cannot read {member} ({type(error).__name__}).") from error
