"""Opening and saving multimodal models: tower, language model and tokenizer become one, and one directory again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medalign.byte_language_model import BYTES, byte_language_model
from medalign.errors import UserError
from medalign.multimodal_tokens import (
    IMAGE,
    PACKAGED_LANGUAGE,
    add_tokens,
    cannot_open,
    markers_of,
    open_tokenizer,
    slot_of,
)
from medalign.packaged_language_model import packaged_language_model
from medalign.vision_towers import NORMALISATION, open_tower

if TYPE_CHECKING:
    from medalign_core.models.multimodal.model import MultimodalModel
    from medalign_core.models.multimodal.settings import Llava

PREPROCESSOR = "preprocessor_config.json"


class Opened(NamedTuple):
    """A model and what writes its tokens.

    Attributes:
        model: the trainable model, frozen as its stage has it.
        tokenizer: the language model's, with the image's tokens and a chat template.
        slot: the text that stands for an image: its M image tokens, between markers where the model has them.
    """

    model: MultimodalModel
    tokenizer: Any
    slot: str


def open_multimodal(settings: Llava, *, seed: int = 0) -> Opened:
    """Open the model that training starts from, or that is evaluated.

    Runs no remote code and reads safetensors only. A language model that packs texts in one row is checked to keep
    them apart.

    Args:
        settings: what to open: `source`, else `vision` and `language`.
        seed: what the projector of a new model is drawn from.

    Raises:
        UserError: a source cannot be opened or does not fit, a package is missing, or there is no chat template.
    """
    import torch

    import medalign_core.models.multimodal.architecture  # noqa: F401  # registers what transformers lacks
    from medalign_core.models.multimodal.packing import check_isolation, layout
    from medalign_core.ops.draws import draw_seed

    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw_seed(seed, "model"))
            opened = _open_whole(settings) if settings.source else _open_parts(settings)
        if settings.text_nodes == "packed":
            check_isolation(opened.model.decoder, one_row=layout(settings.attention))
    except ValueError as error:
        raise UserError(f"model: {error}") from error
    return opened


def save_multimodal(opened: Opened, folder: str | Path) -> None:
    """Write a directory that `open_multimodal(Llava(source=...))` and transformers open.

    Weights learnt beside the network (new rows, low-rank updates) are written into it first. transformers opens it by
    AutoModelForImageTextToText; by LlavaForConditionalGeneration where the architecture is its own.
    """
    model, place = opened.model, Path(folder)
    network: Any = model.fold()
    network.save_pretrained(place)
    opened.tokenizer.save_pretrained(place)
    size = network.config.vision_config.image_size
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "image_mean": list(model.mean),
        "image_std": list(model.std),
        "crop_size": {"height": size, "width": size},
        "size": {"shortest_edge": size},
    }
    (place / PREPROCESSOR).write_text(json.dumps(preprocessor, indent=1))


def _open_parts(settings: Llava) -> Opened:
    from medalign_core.models.multimodal.assembling import assemble

    tokenizer = open_tokenizer("language", settings.language, settings)
    causal = _open_language(settings)
    known = len(tokenizer)
    add_tokens(tokenizer)
    _grow(causal, known=known, wanted=len(tokenizer))
    tower = open_tower(settings.vision, dtype=settings.dtype)
    network = assemble(tower.network, causal, settings, image_token=tokenizer.convert_tokens_to_ids(IMAGE))
    return _opened(network, tokenizer, settings, (tower.mean, tower.std))


def _open_language(settings: Llava) -> Any:
    from transformers import AutoModelForCausalLM

    if settings.language == BYTES:
        return byte_language_model(dtype=settings.dtype, attention=settings.attention)
    source = str(packaged_language_model()) if settings.language == PACKAGED_LANGUAGE else settings.language
    options = {"dtype": settings.dtype, "attn_implementation": settings.attention}
    return _load(AutoModelForCausalLM, "language", source, **options)


def _open_whole(settings: Llava) -> Opened:
    from transformers import AutoModelForImageTextToText

    source = str(settings.source)
    tokenizer = open_tokenizer("source", source, settings)
    # of the language model alone: the tower keeps its own
    attention = {"text_config": settings.attention}
    network = _load(AutoModelForImageTextToText, "source", source, dtype=settings.dtype, attn_implementation=attention)
    if network.config.model_type not in ("llava", "medalign_llava"):
        raise UserError(f"model.source = {source}: a {network.config.model_type}; this opens Llava models.")
    return _opened(network, tokenizer, settings, _saved_normalisation(source, network))


def _opened(network: Any, tokenizer: Any, settings: Llava, normalisation: tuple[Any, Any]) -> Opened:
    image = tokenizer.convert_ids_to_tokens(network.config.image_token_id)
    mean, std = normalisation
    model = settings.build(network, markers=markers_of(tokenizer), mean=mean, std=std)
    return Opened(model, tokenizer, slot_of(tokenizer, image, model.image_tokens))


def _load(kind: Any, key: str, source: str, **options: Any) -> Any:
    """Open a model whose weights are all there and all its own."""
    from safetensors import SafetensorError

    try:
        model, info = kind.from_pretrained(
            source, trust_remote_code=False, use_safetensors=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise cannot_open(key, source, error) from error
    wrong = sorted(map(str, (*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"])))
    if wrong:
        raise UserError(f"model.{key} = {source}: {len(wrong)} weights do not fit its config, {wrong[0]} among them.")
    return model


def _grow(causal: Any, *, known: int, wanted: int) -> None:
    """Give the tokens from `known` on the mean embedding and the mean head row; the vocabulary grows where it must."""
    import torch

    if wanted > causal.get_input_embeddings().weight.shape[0]:
        causal.resize_token_embeddings(wanted, mean_resizing=False)
    with torch.no_grad():
        for matrix in (causal.get_input_embeddings().weight, causal.get_output_embeddings().weight):
            matrix[known:wanted] = matrix[:known].float().mean(dim=0).to(matrix.dtype)


def _saved_normalisation(source: str, network: Any) -> tuple[Any, Any]:
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(source)
        return tuple(found["image_mean"]), tuple(found["image_std"])
    except (OSError, KeyError, ValueError, TypeError) as error:
        kind = network.config.vision_config.model_type
        if kind not in NORMALISATION:
            raise UserError(f"model.source = {source}: no {PREPROCESSOR} with image_mean and image_std.") from error
        return NORMALISATION[kind]
