"""export(run): the trained encoder as a plain transformers directory, which loads without MedAlign."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medalign import storage
from medalign.checkpoint.trained_encoder import open_encoder
from medalign.errors import StorageError
from medalign.evaluation.source import PREPROCESSOR, image_size

if TYPE_CHECKING:
    from medalign_core.models.encoders import ImageEncoder

CONFIG = "config.json"
_BILINEAR = 2  # Pillow's number of the filter, as transformers stores it


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """The exported directory and its files."""

    uri: str
    files: tuple[str, ...]


def export(run: str, to: str, *, checkpoint: Literal["best", "latest"] = "best") -> ExportResult:
    """Write a run's encoder to `to`: config.json, model.safetensors and preprocessor_config.json.

    `AutoModel.from_pretrained(to)` gives the same feature map as the run's encoder; the preprocessor's file carries
    the image size, the mean and the standard deviation it was trained with. config.json is written last.

    Args:
        run: the run's URI.
        to: URI of the directory; it must not hold anything yet.
        checkpoint: "best" or "latest".

    Raises:
        RunError: no run there, or no checkpoint yet.
        StorageError: `to` is taken, or a place cannot be reached.
    """
    _check_empty(to)
    encoder = open_encoder(run, checkpoint=checkpoint)
    return write_encoder(encoder, to, size=image_size(run))


def write_encoder(encoder: ImageEncoder, to: str, *, size: int) -> ExportResult:
    """Write an encoder to `to` as `export` does.

    Args:
        encoder: whose backbone is written.
        to: URI of the directory; it must not hold anything yet.
        size: height and width of the images it was trained on.

    Raises:
        StorageError: `to` is taken or cannot be reached.
    """
    to = storage.absolute(to)
    _check_empty(to)
    with tempfile.TemporaryDirectory(prefix="medalign-export-") as folder:
        backbone: Any = encoder.backbone
        backbone.save_pretrained(folder)
        settings = preprocessor(size=size, mean=encoder.mean, std=encoder.std)
        Path(folder, PREPROCESSOR).write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")
        names = sorted((path.name for path in Path(folder).iterdir()), key=lambda name: (name == CONFIG, name))
        for name in names:
            storage.write_bytes(storage.join(to, name), Path(folder, name).read_bytes())
    return ExportResult(uri=to, files=tuple(sorted(names)))


def preprocessor(*, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """Return transformers' description of the test transform: shorter side to `size`, centre cut out, normalised."""
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": _BILINEAR,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def _check_empty(to: str) -> None:
    if taken := storage.list_files(to):
        raise StorageError(f"{to}: holds {len(taken)} files already; choose another place or delete it.")
