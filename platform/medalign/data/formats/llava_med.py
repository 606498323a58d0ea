"""Format `llava-med`: a JSON list of images with conversations, as LLaVA-Med and LoGra-Med publish them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medalign import storage
from medalign.data.formats import records
from medalign.data.items import Content, Item
from medalign.errors import CorpusError

OPTIONS: dict[str, Any] = {
    "images": "images",  # the folder of the pictures, beside the file
    "group_by": "image",  # or `article`: what precedes the first underscore, as in 32432162_F1
}
LICENCE = "as of PubMed Central's articles (LLaVA-Med: CC BY-NC 4.0)"
SPELLINGS = ("conversations", "conversatons")  # the second really occurs
LONG_SPELLINGS = ("conversations_long", "conversatons_long")


def list_items(source: str, options: dict[str, Any]) -> Iterator[Item]:
    """List the records. A picture that is missing becomes no row, and no other record takes its place.

    Raises:
        CorpusError: not such a file, or an unknown `group_by`.
    """
    by_article = _grouping(options["group_by"])
    pictures = records.Pictures(records.folder_of(source, options["images"]))
    for number, record in enumerate(records.read(source)):
        path, size = pictures.place(record.get("image"), record=number)
        name = str(record.get("image") or record.get("id") or number)
        yield Item(
            key=f"{number}/{record.get('id', '')}",
            path=path,
            size=size,
            group=name.partition("_")[0] if by_article else name,
            where={"record": number},
            words=_words(record),
        )


def read_item(item: Item, options: dict[str, Any]) -> Content:
    """Return the file as it is."""
    return Content(image=storage.read_bytes(item.path))


def transforms(options: dict[str, Any]) -> tuple[str, ...]:
    """What is done to the words."""
    return ("blanks at the ends of turns removed; an image mark that is missing put first; numbers as text",)


def _grouping(name: str) -> bool:
    if name not in ("image", "article"):
        raise CorpusError(f"group_by must be image or article, got {name!r}.")
    return name == "article"


def _words(record: records.Record) -> dict[str, Any]:
    found = {}
    for name, spellings in (("conversations", SPELLINGS), ("conversations_long", LONG_SPELLINGS)):
        said = next((record[key] for key in spellings if key in record), None)
        if said is not None:
            found[name] = said
    return found
