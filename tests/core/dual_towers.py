"""Small random towers, and prompts for them, that the tests of dual encoders share."""

import torch
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel

from medalign_core.models.dual.encoder import PromptTokens

START, END, PADDING = 1, 63, 0
IMAGE_SIZE = 32


def clip_model(seed: int = 0) -> CLIPModel:
    torch.manual_seed(seed)
    text = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    text |= {"num_attention_heads": 4, "max_position_embeddings": 20, "projection_dim": 24}
    text |= {"bos_token_id": START, "eos_token_id": END, "pad_token_id": PADDING}
    vision = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision |= {"image_size": IMAGE_SIZE, "patch_size": 8, "projection_dim": 24}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    return scattered(model)


def bert_model(seed: int = 0, width: int = 128) -> BertModel:
    torch.manual_seed(seed)
    sizes = {"hidden_size": width, "num_hidden_layers": 3, "num_attention_heads": width // 64, "intermediate_size": 96}
    return scattered(BertModel(BertConfig(vocab_size=64, max_position_embeddings=20, **sizes)))


def scattered(model: torch.nn.Module) -> torch.nn.Module:
    """Draw every weight anew: as initialised, biases are 0, norms are the identity, and mistakes in them are unseen."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def images(rows: int = 3, size: int = IMAGE_SIZE, seed: int = 0) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, 3, size, size), generator=draws, dtype=torch.uint8)


def prompts(*lengths: int, padded_to: int = 0, seed: int = 0) -> PromptTokens:
    """Return prompts of `lengths` tokens, start and end included."""
    draws = torch.Generator().manual_seed(seed)
    longest = max(*lengths, padded_to)
    ids = torch.full((len(lengths), longest), PADDING)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(2, 62, (length,), generator=draws)
        ids[row, 0], ids[row, length - 1] = START, END
    return PromptTokens(ids, torch.arange(longest) < torch.tensor(lengths)[:, None])


def state_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}
