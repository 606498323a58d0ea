"""export(run): the trained encoder, or multimodal model, as a plain transformers directory."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medalign import storage
from medalign.checkpoint.trained_chat import is_chat_run, open_chat_model
from medalign.checkpoint.trained_encoder import open_encoder
from medalign.errors import StorageError
from medalign.evaluation.source import PREPROCESSOR, image_size
from medalign.multimodal_models import save_multimodal

if TYPE_CHECKING:
    from medalign.multimodal_models import Opened
    from medalign_core.models.encoders import ImageEncoder

CONFIG = "config.json"
_BILINEAR = 2  # Pillow's number of the filter, as transformers stores it


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """The exported directory and its files."""

    uri: str
    files: tuple[str, ...]


def export(run: str, to: str, *, checkpoint: Literal["best", "latest"] = "best") -> ExportResult:
    """Write a run's model to `to`: config.json, model.safetensors and preprocessor_config.json.

    A multimodal model is written with its tokenizer, whole, the frozen tower too; `model.source` of a next stage opens
    it, and so does transformers. Of any other run the encoder is written:

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
    if is_chat_run(run):
        return write_multimodal(open_chat_model(run, checkpoint=checkpoint), to)
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
        names = _copy(Path(folder), to)
    return ExportResult(uri=to, files=names)


def write_multimodal(opened: Opened, to: str) -> ExportResult:
    """Write a multimodal model to `to` as `export` does.

    Args:
        opened: the model, into which low-rank updates are folded, and its tokenizer.
        to: URI of the directory; it must not hold anything yet.

    Raises:
        StorageError: `to` is taken or cannot be reached.
    """
    to = storage.absolute(to)
    _check_empty(to)
    with tempfile.TemporaryDirectory(prefix="medalign-export-") as folder:
        save_multimodal(opened, folder)
        names = _copy(Path(folder), to)
    return ExportResult(uri=to, files=names)


def _copy(folder: Path, to: str) -> tuple[str, ...]:
    """Copy a folder's files, config.json last, and return their names."""
    names = sorted((path.name for path in folder.iterdir()), key=lambda name: (name == CONFIG, name))
    for name in names:
        storage.write_bytes(storage.join(to, name), (folder / name).read_bytes())
    return tuple(sorted(names))


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
