"""Making one network of a vision tower and a causal language model, with nothing of either lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel

from medalign_core.models.multimodal.architecture import MedAlignLlavaForConditionalGeneration, embedding_name
from medalign_core.models.multimodal.configurations import MedAlignLlavaConfig, image_tokens

if TYPE_CHECKING:
    from medalign_core.models.multimodal.settings import Llava

WITH_CLASS_TOKEN = ("clip_vision_model", "vit")
TRANSFORMERS_TOWERS = (*WITH_CLASS_TOKEN, "siglip_vision_model")


def assemble(tower: PreTrainedModel, causal: PreTrainedModel, settings: Llava, *, image_token: int) -> PreTrainedModel:
    """Return a network of the tower, a new projector and the language model.

    It is a transformers LlavaForConditionalGeneration wherever the tower is a CLIP, SigLIP or ViT, the projector
    "mlp2x_gelu", there is no dense channel integration, and the embeddings have the name that it looks for; else a
    MedAlignLlavaForConditionalGeneration. It holds the given modules themselves, no copies; the projector's weights
    come from torch's global generator.

    Args:
        tower: the vision tower.
        causal: any transformers causal language model with a plain head, its vocabulary grown to the image token.
        settings: projector, dense and feature_layer are read.
        image_token: the token id whose places the image tokens take.

    Raises:
        ValueError: the head is more than one matrix, or the assembled network does not give the same logits: its
            architecture would drop something.
    """
    _check_head(causal)
    kind = tower.config.model_type
    attention = [part.config._attn_implementation for part in (tower, causal)]
    plain = settings.projector == "mlp2x_gelu" and not settings.dense and kind in TRANSFORMERS_TOWERS
    plain = plain and embedding_name(causal.get_decoder()) == "embed_tokens.weight"
    options: dict[str, Any] = {
        "vision_config": tower.config,
        "text_config": causal.config,
        "image_token_index": image_token,
        "image_seq_length": image_tokens(tower.config),
        "vision_feature_layer": settings.feature_layer if kind in TRANSFORMERS_TOWERS else -1,
        "vision_feature_select_strategy": "default" if kind in WITH_CLASS_TOKEN else "full",
    }
    with torch.device("meta"):
        network: Any = (
            LlavaForConditionalGeneration(LlavaConfig(**options))
            if plain
            else MedAlignLlavaForConditionalGeneration(
                MedAlignLlavaConfig(**options, projector_kind=settings.projector, dense_channels=settings.dense)
            )
        )
    _put(network.model, "vision_tower", tower)
    _put(network.model, "language_model", causal.get_decoder())
    network.lm_head = causal.get_output_embeddings()
    for part, chosen in zip((tower, causal), attention, strict=True):  # building the shell has set its own default
        part.config._attn_implementation = chosen
    network.generation_config = causal.generation_config
    _materialise(network.model.multi_modal_projector, like=network.lm_head.weight)
    if not network.lm_head.weight.is_meta:
        _check_logits(network, causal)
    return network


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    expected = type(getattr(model, name))
    if type(module) is not expected:
        raise ValueError(f"{name} of this architecture is a {expected.__name__}, got a {type(module).__name__}.")
    setattr(model, name, module)


def _materialise(projector: nn.Module, *, like: Tensor) -> None:
    """Give the projector memory and PyTorch's initialisation of linear maps."""
    projector.to_empty(device=like.device).to(like.dtype)
    for module in projector.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()


def _check_head(causal: PreTrainedModel) -> None:
    head = causal.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise ValueError(
            f"the head of {type(causal).__name__} is not one matrix without a bias; a Llava model cannot hold it."
        )
    ours = {id(p) for p in (*causal.get_decoder().parameters(), head.weight)}
    lost = [name for name, p in causal.named_parameters() if id(p) not in ours]
    if lost:
        raise ValueError(f"{type(causal).__name__} has weights that a Llava model cannot hold: {lost[0]}.")


@torch.no_grad()
def _check_logits(network: PreTrainedModel, causal: PreTrainedModel) -> None:
    """Check that text alone gives the same logits: a head that scales or caps them, say, would be lost."""
    tokens = torch.arange(3, 9, device=causal.get_output_embeddings().weight.device)[None]
    was_training = causal.training
    causal.eval()
    network.eval()
    difference = (network(input_ids=tokens).logits - causal(input_ids=tokens).logits).abs().max()
    causal.train(was_training)
    network.train(was_training)
    if not difference <= 1e-5:
        raise ValueError(
            f"{type(causal).__name__} does more to its logits than a head's product (off by {float(difference):.1e}); "
            "a Llava model cannot hold it."
        )
