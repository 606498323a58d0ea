"""The encoder of a run, out of its checkpoint; or of a plain transformers directory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import yaml

from medalign import build, storage
from medalign.checkpoint import catalogue, loading
from medalign.checkpoint.manifest import Saved
from medalign.errors import CheckpointError, RunError

if TYPE_CHECKING:
    from medalign_core.models.encoders import ImageEncoder

PREFIX = "encoder."


def open_encoder(source: str, *, checkpoint: Literal["best", "latest"] = "best") -> ImageEncoder:
    """Return the trained encoder of a run, or the encoder of a transformers directory.

    Args:
        source: a run's URI, or a local directory with a transformers config.json.
        checkpoint: "best" by validation (the newest where no validation ran), or "latest".

    Raises:
        RunError: neither a run nor a directory, or a run without a complete checkpoint.
        CheckpointError: the checkpoint does not fit the run's recipe.
    """
    recipe_at = storage.join(source, build.RECIPE)
    if not build.is_run(source):
        if storage.exists(storage.join(source, "config.json")):
            return _from_directory(source)
        raise RunError(f"{source}: neither a run (recipe.yaml) nor a transformers directory (config.json).")
    recipe: dict[str, Any] = yaml.safe_load(storage.read_bytes(recipe_at))
    saved = catalogue.chosen(source, checkpoint)
    encoder = starting_encoder(build.model_settings(recipe), seed=recipe["run"]["seed"])
    if not recipe.get("objective", {}).get("frozen"):  # else it is what the run began with, and not in its checkpoints
        _fill(encoder, saved)
    return encoder


def starting_encoder(settings: Any, *, seed: int) -> ImageEncoder:
    """Return the encoder that training starts from: the trained one of a run, if `model.source` is one.

    Raises:
        UserError: the source cannot be opened.
    """
    if build.is_run(getattr(settings, "source", None)):
        return open_encoder(settings.source)
    return build.build_encoder(settings, seed=seed)


def _from_directory(source: str) -> ImageEncoder:
    from medalign_core.models import settings

    backbone = build.open_backbone(source)
    kinds: dict[str, Any] = {"resnet": settings.ResNet, "vit": settings.ViT, "sam_vision_model": settings.SamViT}
    kind = str(backbone.config.model_type)  # type: ignore[union-attr]
    if kind not in kinds:
        raise RunError(f"{source}: a {kind} model; image encoders are resnet, vit or sam_vision_model.")
    return kinds[kind](source=source, **_normalisation(source)).build(backbone)


def _normalisation(source: str) -> dict[str, tuple[float, ...]]:
    """Return the mean and std that a directory's preprocessor names; none where it has no preprocessor."""
    where = storage.join(source, "preprocessor_config.json")
    if not storage.exists(where):
        return {}
    try:
        written = json.loads(storage.read_bytes(where))
        return {name: tuple(map(float, written[f"image_{name}"])) for name in ("mean", "std")}
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{where}: names no image_mean and image_std ({error!r}).") from error


def _fill(encoder: ImageEncoder, saved: Saved) -> None:
    """Load the encoder's weights and buffers; every one of them must be there."""
    own = {name.removeprefix(PREFIX): value for name, value in loading.weights(saved, prefix=PREFIX).items()}
    report = encoder.load_state_dict(own, strict=False)
    missing = [name for name in report.missing_keys if not name.endswith("num_batches_tracked")]
    if missing or report.unexpected_keys:
        raise CheckpointError(
            f"{saved.uri}: does not fit the run's model;"
            f" missing {missing[:3]}, unexpected {report.unexpected_keys[:3]}."
        )
