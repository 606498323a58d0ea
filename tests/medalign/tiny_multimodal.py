"""A tiny random multimodal model as a directory, for tests of what opens directories."""

from pathlib import Path

import small_tokenizers
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from medalign.multimodal_models import Opened, open_multimodal, save_multimodal
from medalign_core.models.multimodal.settings import Llava

SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def write(folder: Path, *, seed: int = 0) -> str:
    """Write the parts and the whole, and return the whole's directory."""
    tokenizer = small_tokenizers.byte_level()
    tokenizer.save_pretrained(folder / "language")
    torch.manual_seed(seed)
    options = {"vocab_size": len(tokenizer), "bos_token_id": 3, "eos_token_id": 4, "initializer_range": 0.3}
    LlamaForCausalLM(LlamaConfig(**SIZES, **options)).save_pretrained(folder / "language")
    CLIPVisionModel(CLIPVisionConfig(**SIZES, image_size=32, patch_size=8)).save_pretrained(folder / "vision")
    opened = open_multimodal(Llava(language=str(folder / "language"), vision=str(folder / "vision")), seed=seed)
    save_multimodal(opened, folder / "whole")
    return str(folder / "whole")


def read(source: str) -> Opened:
    """Open it as evaluation does."""
    return open_multimodal(Llava(source=source, text_nodes="in_context", attention="sdpa"))
