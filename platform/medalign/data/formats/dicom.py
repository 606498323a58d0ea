"""Format `dicom`: a folder of DICOM files; each frame a row, rescaled and windowed. Of the tags only codes are kept."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from medalign import storage
from medalign.data.formats import dicom_pixels
from medalign.data.images import MAX_BYTES, ImageReject
from medalign.data.items import Content, Item
from medalign.errors import CorpusError, StorageError

OPTIONS: dict[str, Any] = {
    "split_by": "patient",  # the level that is the group: patient, study or series
    "label_by": "",  # class from: folder (the first one), modality or body_part
    "window": "auto",  # auto (the file's own window, else percentiles), percentiles, or CENTER,WIDTH
    "keep_tags": "",  # DICOM keywords, comma-separated, whose values become the caption. They may identify somebody.
}
LICENCE = "unknown"
LEVELS = {"patient": "PatientID", "study": "StudyInstanceUID", "series": "SeriesInstanceUID"}
NO_PICTURES = frozenset({"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "SR", "PR", "KO"})
LISTED = [*LEVELS.values(), "Modality", "BodyPartExamined", "Rows", "Columns", "NumberOfFrames"]
META_START = 132  # after the preamble and "DICM"
DEFLATED = b"1.2.840.10008.1.2.1.99"


def list_items(source: str, options: dict[str, Any]) -> Iterator[Item]:
    """List the frames of every DICOM file with a picture, from the headers; other files are passed over."""
    _check(options)
    prefix = len(source.rstrip("/")) + 1
    for path, size in storage.list_sizes(source).items():
        yield from list_file(path, size, key=path[prefix:], options=options)


def list_file(path: str, size: int, *, key: str, options: dict[str, Any]) -> Iterator[Item]:
    """List the frames of one file. A damaged one is listed as an item that `read_item` rejects."""
    whole = Item(key=key, path=path, group=key, size=size)
    try:
        with dicom_pixels.silence():
            found = _frames(whole, options)
    except ImageReject as error:
        found = [replace(whole, where={"reject": str(error)})]
    except StorageError:
        found = [replace(whole, where={"reject": "file cannot be read"})]
    yield from found


def _frames(whole: Item, options: dict[str, Any]) -> list[Item]:
    header = _header(whole.path, whole.size, named_dicom=whole.key.lower().endswith((".dcm", ".dicom")))
    try:
        if header is None or "Rows" not in header or _code(header, "Modality") in NO_PICTURES:
            return []
        modality, part = _code(header, "Modality"), _code(header, "BodyPartExamined")
        group = _group(header, options["split_by"]) or whole.key
        frames = int(header.get("NumberOfFrames") or 1)
    except Exception as error:  # noqa: BLE001  damaged headers raise anything; their text could quote a value
        raise ImageReject(f"damaged header ({type(error).__name__})") from error
    folder = PurePosixPath(whole.key).parts[0] if "/" in whole.key else None
    label = {"folder": folder, "modality": modality, "body_part": part}.get(options["label_by"])
    where = {"modality": modality, "body_part": part}
    # A number of frames out of range is listed once, for the pixel reader to reject.
    return [
        replace(whole, key=f"{whole.key}#{frame}", group=group, label=label, where={**where, "frame": frame})
        for frame in range(frames if 1 <= frames <= dicom_pixels.MAX_FRAMES else 1)
    ]


def read_item(item: Item, options: dict[str, Any]) -> Content:
    """Return one frame as 8-bit grey or RGB."""
    if "reject" in item.where:
        raise ImageReject(item.where["reject"])
    kept = [tag.strip() for tag in options["keep_tags"].split(",") if tag.strip()]
    with dicom_pixels.silence(), storage.open_input(item.path) as stream:
        dataset, pixels = dicom_pixels.read_frame(stream, item.where["frame"], window=_window(options["window"]))
        caption = "; ".join(f"{tag}: {dataset.get(tag)}" for tag in kept if dataset.get(tag) not in (None, ""))
    return Content(
        image=pixels, modality=item.where["modality"], body_part=item.where["body_part"], caption=caption or None
    )


def transforms(options: dict[str, Any]) -> tuple[str, ...]:
    """Say how values became grey levels."""
    window = {"auto": "the file's window, else percentiles 0.5 to 99.5", "percentiles": "percentiles 0.5 to 99.5"}
    return (
        "DICOM: rescale slope and intercept; window: " + window.get(options["window"], options["window"]),
        "DICOM: MONOCHROME1 inverted; palette and YBR to RGB; each frame a row",
    )


def _check(options: dict[str, Any]) -> None:
    from pydicom.datadict import tag_for_keyword

    if options["split_by"] not in LEVELS:
        raise CorpusError(f"split_by of format dicom is one of {', '.join(LEVELS)}, got {options['split_by']!r}.")
    if options["label_by"] not in ("", "folder", "modality", "body_part"):
        raise CorpusError(f"label_by is one of folder, modality, body_part, got {options['label_by']!r}.")
    for tag in filter(None, (tag.strip() for tag in options["keep_tags"].split(","))):
        if tag_for_keyword(tag) is None:
            raise CorpusError(f"keep_tags names {tag!r}, which is not a DICOM keyword (e.g. StudyDescription).")
    _window(options["window"])


def _window(text: str) -> dicom_pixels.Window:
    if text in ("auto", "percentiles"):
        return dicom_pixels.Window(from_tags=text == "auto")
    numbers = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*", text)
    if not numbers or float(numbers[2]) < 1:
        raise CorpusError(f"window is auto, percentiles or CENTER,WIDTH (e.g. 40,80), got {text!r}.")
    return dicom_pixels.Window(center=float(numbers[1]), width=float(numbers[2]))


def _header(path: str, size: int, *, named_dicom: bool) -> Any:
    """Return a file's header without pixels, or None if it is not DICOM."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    if size > MAX_BYTES:
        raise ImageReject(f"file larger than {MAX_BYTES >> 20} MiB")
    with storage.open_input(path) as stream:
        start = stream.read(4096)
        if start[128:132] != b"DICM" and not named_dicom:
            return None
        if DEFLATED in start:
            _check_deflated(start + stream.read())
        stream.seek(0)
        try:
            return dcmread(stream, stop_before_pixels=True, specific_tags=LISTED)
        except InvalidDicomError as error:
            raise ImageReject("not a DICOM file") from error
        except Exception as error:  # noqa: BLE001  damaged headers raise anything; their text could quote a value
            raise ImageReject(f"damaged header ({type(error).__name__})") from error


def _check_deflated(data: bytes) -> None:
    """Refuse a deflated file that would inflate beyond the cap: pydicom inflates it whole, in memory."""
    length = int.from_bytes(data[META_START + 8 : META_START + 12], "little")  # of the file meta group, (0002,0000)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflater.decompress(data[META_START + 12 + length :], MAX_BYTES)
    except zlib.error as error:
        raise ImageReject("damaged header (deflate)") from error
    if inflater.unconsumed_tail:
        raise ImageReject(f"inflates to more than {MAX_BYTES >> 20} MiB")


def _group(header: Any, level: str) -> str | None:
    """Return the value of the level, or of the next finer one where the file lacks it."""
    for name in list(LEVELS)[list(LEVELS).index(level) :]:
        value = str(header.get(LEVELS[name]) or "").strip()
        if value:
            return f"{name} {value}"
    return None


def _code(header: Any, keyword: str) -> str | None:
    """Return a code string; anything else in its place (free text could identify somebody) counts as absent."""
    value = header.get(keyword)
    text = str(value).strip().upper() if value is not None else ""
    return text if re.fullmatch(r"[A-Z0-9_ ]{1,16}", text) else None
