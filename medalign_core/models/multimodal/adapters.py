"""Low-rank updates of a language model by peft: put in place, and folded into the weights again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from medalign_core.models.multimodal.settings import LoRA


def add_lora(decoder: nn.Module, settings: LoRA) -> None:
    """Put low-rank updates beside linear maps of a decoder, in place; they start as zero and change nothing.

    Raises:
        ValueError: peft is not installed, or no map has a name of `settings.targets`.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError(f"lora needs the package peft: pip install peft ({error}).") from error
    targets = list(settings.targets) or sorted(_linear_names(decoder))
    alpha: Any = settings.alpha  # a ratio; peft's annotation has integers
    config = LoraConfig(r=settings.rank, lora_alpha=alpha, lora_dropout=settings.dropout, target_modules=targets)
    inject_adapter_in_model(config, decoder)


def fold_lora(decoder: nn.Module) -> None:
    """Add the updates to the weights they stand beside and take them away, in place."""
    for name, module in list(decoder.named_modules()):
        layer: Any = module
        if hasattr(layer, "lora_A") and hasattr(layer, "get_base_layer"):
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(decoder.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(decoder, "peft_config"):
        del decoder.peft_config


def _linear_names(decoder: nn.Module) -> set[str]:
    return {name.rpartition(".")[2] for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}
