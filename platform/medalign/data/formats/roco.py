"""Format `roco`: the folder of ROCO or ROCOv2; each caption becomes the answer to one instruction."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from medalign import storage
from medalign.data import dialogue
from medalign.data.formats import records
from medalign.data.items import Content, Item
from medalign.errors import CorpusError

OPTIONS: dict[str, Any] = {
    "instruction": "Describe the image concisely.",  # what the human asks for
}
LICENCE = "as of PubMed Central's articles"
FOLDERS = {"train": ("train",), "val": ("validation", "valid"), "test": ("test",)}


def list_items(source: str, options: dict[str, Any]) -> Iterator[Item]:
    """List the captions of every split.

    ROCO has SPLIT/radiology/captions.txt (id, tab, caption) and SPLIT/radiology/images; ROCOv2 has
    SPLIT_captions.csv (ID,Caption) and SPLIT/ or SPLIT_images/.

    Raises:
        CorpusError: no captions there.
    """
    found = list(_captions(source))
    if not found:
        raise CorpusError(f"{source}: has neither SPLIT/radiology/captions.txt nor SPLIT_captions.csv.")
    for split, file, folder in found:
        pictures = records.Pictures(folder)
        for number, (name, caption) in enumerate(_read(file)):
            path, size = pictures.place(f"{name}.jpg", record=number)
            yield Item(
                key=f"{split}/{name}",
                path=path,
                size=size,
                group=name,
                split=split,
                caption=caption,
                where={"record": number},
                words={"conversations": dialogue.ask(options["instruction"], caption)},
            )


def read_item(item: Item, options: dict[str, Any]) -> Content:
    """Return the file as it is."""
    return Content(image=storage.read_bytes(item.path))


def transforms(options: dict[str, Any]) -> tuple[str, ...]:
    """What is done to the words."""
    return (f"the caption is the answer to: {options['instruction']}",)


def _captions(source: str) -> Iterator[tuple[str, str, str]]:
    """Yield (split, file, folder of pictures)."""
    root = source.rstrip("/")
    for split, names in FOLDERS.items():
        for name in names:
            first, second = f"{root}/{name}/radiology/captions.txt", f"{root}/{name}_captions.csv"
            if storage.exists(first):
                yield split, first, f"{root}/{name}/radiology/images"
            elif storage.exists(second):
                apart = f"{root}/{name}_images"
                yield split, second, apart if storage.list_sizes(apart) else f"{root}/{name}"


def _read(file: str) -> Iterator[tuple[str, str]]:
    try:
        text = storage.read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{file}: not UTF-8 text ({error.reason}); save the captions as UTF-8.") from error
    if file.endswith(".txt"):
        for line in text.splitlines():
            name, tab, caption = line.partition("\t")
            if tab:
                yield name.strip(), caption.strip()
        return
    for row in csv.DictReader(io.StringIO(text, newline="")):
        yield (row.get("ID") or "").strip(), (row.get("Caption") or "").strip()
