"""DICOM pixels: one frame of a file, through the modality and VOI transforms, to 8-bit grey or RGB. Pure."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from medalign.data.images import MAX_PIXELS, ImageReject

PERCENTILES = (0.5, 99.5)
MAX_FRAMES = 4096  # of one file


@dataclass(frozen=True, kw_only=True)
class Window:
    """Which values become black and white: a fixed window, else the file's own, else percentiles of the frame."""

    center: float | None = None
    width: float | None = None
    from_tags: bool = False


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep pydicom quiet: its warnings quote the values that it finds odd, and those may be names."""
    from pydicom.config import disable_value_validation

    log = logging.getLogger("pydicom")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def read_frame(stream: BinaryIO, frame: int, *, window: Window) -> tuple[Any, np.ndarray]:
    """Return (dataset without pixels, (H, W) or (H, W, 3) uint8) of one frame of a DICOM file.

    Raises:
        ImageReject: no pixels, too many of them, or a transfer syntax that numpy and Pillow cannot decode.
    """
    from pydicom.pixels import apply_color_lut

    dataset, raw = _raw_frame(stream, frame)
    kind = str(dataset.get("PhotometricInterpretation", ""))
    if kind == "PALETTE COLOR":
        return dataset, _high_byte(
            apply_color_lut(raw, dataset), bits=int(dataset.RedPaletteColorLookupTableDescriptor[2])
        )
    if raw.ndim == 3:
        return dataset, _high_byte(raw, bits=int(dataset.BitsStored))
    grey = to_grey(raw, dataset, frame=frame, window=window)
    return dataset, 255 - grey if kind == "MONOCHROME1" else grey


def _raw_frame(stream: BinaryIO, frame: int) -> tuple[Any, np.ndarray]:
    from pydicom import dcmread
    from pydicom.pixels import pixel_array
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    dataset = dcmread(stream, stop_before_pixels=True)
    _check_size(dataset)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    stream.seek(0)
    try:
        if int(dataset.get("NumberOfFrames") or 1) == 1:
            return dataset, pixel_array(dcmread(stream))
        if syntax == DeflatedExplicitVRLittleEndian:
            return dataset, pixel_array(dcmread(stream), index=frame)
        return dataset, pixel_array(stream, index=frame)  # reads this frame only
    except (RuntimeError, NotImplementedError) as error:
        raise ImageReject(f"cannot decode transfer syntax {getattr(syntax, 'name', 'unknown')}") from error
    except (AttributeError, ValueError, KeyError, EOFError) as error:
        raise ImageReject(f"damaged or missing pixels ({type(error).__name__})") from error


def to_grey(raw: np.ndarray, dataset: Any, *, frame: int, window: Window) -> np.ndarray:
    """Return stored values (H, W) as grey levels: modality transform, then VOI LUT or window."""
    from pydicom.pixels import apply_modality_lut, apply_voi

    if "ModalityLUTSequence" in dataset:
        values = apply_modality_lut(raw, dataset).astype(np.float64)
    else:
        slope = _value(dataset, frame, "PixelValueTransformationSequence", "RescaleSlope")
        intercept = _value(dataset, frame, "PixelValueTransformationSequence", "RescaleIntercept")
        values = raw * (1.0 if slope is None else slope) + (0.0 if intercept is None else intercept)
    if window.center is not None and window.width is not None:
        return linear_window(values, window.center, window.width)
    if window.from_tags:
        if dataset.get("VOILUTSequence"):
            return _stretch(apply_voi(values.astype(np.int64), dataset).astype(np.float64))
        center = _value(dataset, frame, "FrameVOILUTSequence", "WindowCenter")
        width = _value(dataset, frame, "FrameVOILUTSequence", "WindowWidth")
        if center is not None and width is not None and width > 0:
            function = str(dataset.get("VOILUTFunction", "LINEAR"))
            return {"SIGMOID": sigmoid_window, "LINEAR_EXACT": exact_window}.get(function, linear_window)(
                values, center, width
            )
    padding = dataset.get("PixelPaddingValue")
    seen = values if padding is None else values[raw != padding]
    low, high = np.percentile(seen if seen.size else values, PERCENTILES)
    return _stretch(np.clip(values, low, high))


def linear_window(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """Return grey levels 0..255 by the function LINEAR of DICOM PS3.3 C.11.2.1.2.1 (width >= 1).

    y = 0 for x <= c - 0.5 - (w - 1)/2;  255 for x > c - 0.5 + (w - 1)/2;  else 255 ((x - (c - 0.5))/(w - 1) + 0.5)
    """
    if width <= 1:
        return np.where(values > center - 0.5, 255, 0).astype(np.uint8)
    scaled = (values - (center - 0.5)) / (width - 1) + 0.5
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def exact_window(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """Return grey levels by the function LINEAR_EXACT of DICOM PS3.3 C.11.2.1.3.2: 255 ((x - c)/w + 0.5), clipped."""
    return np.rint(np.clip((values - center) / width + 0.5, 0, 1) * 255).astype(np.uint8)


def sigmoid_window(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """Return grey levels by the function SIGMOID of DICOM PS3.3 C.11.2.1.3.1: 255 / (1 + exp(-4 (x - c)/w))."""
    return np.rint(255 / (1 + np.exp(np.clip(-4 * (values - center) / width, -60, 60)))).astype(np.uint8)


def _value(dataset: Any, frame: int, sequence: str, keyword: str) -> float | None:
    """Return a number of the dataset or, in an enhanced multi-frame file, of the frame's or the shared groups."""
    places = [dataset]
    for groups, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        members = dataset.get(groups) or []
        if index < len(members) and members[index].get(sequence):
            places.append(members[index].get(sequence)[0])
    for place in places:
        value = place.get(keyword)
        if value is not None and value != "":
            try:
                return float(value)
            except TypeError:  # several windows: the first is the default view
                return float(value[0])
    return None


def _check_size(dataset: Any) -> None:
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    if rows < 1 or columns < 1:
        raise ImageReject("an image without pixels")
    if rows * columns > MAX_PIXELS:
        raise ImageReject(f"{columns} x {rows} pixels, more than {MAX_PIXELS}")
    if not 1 <= int(dataset.get("NumberOfFrames") or 1) <= MAX_FRAMES:
        raise ImageReject(f"not between 1 and {MAX_FRAMES} frames")


def _high_byte(pixels: np.ndarray, *, bits: int) -> np.ndarray:
    return pixels.astype(np.uint8) if bits <= 8 else (pixels >> (bits - 8)).astype(np.uint8)


def _stretch(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    return np.rint((values - low) * (255.0 / (high - low) if high > low else 0.0)).astype(np.uint8)
