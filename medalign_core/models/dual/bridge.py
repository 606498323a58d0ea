"""The bridge: an ImageNet classifier and a sentence encoder made to meet, by ridge regression, without one image.

Each row w_c of the classifier is a direction of the image features that speaks for class c; the sentence encoder has an
embedding e_c of "a photo of a <c>". The map A between them is the ridge regression of centred embeddings on centred
rows,

    A = argmin_A sum_c |(w_c - w) A - (e_c - e)|^2 + strength |A|^2,   w, e the means over the classes,

and it is then applied to image features. What is centred by what:

    texts    by e, the mean of the class embeddings (each a unit vector);
    images   by the features' mean over ImageNet's training images, as the network's last batch norm remembers it:
             there the channels are beta + |gamma| z before the ReLU6, with z of mean 0 and variance 1, here taken as
             normal. It is fixed: no evaluated image has any part in it, so an image's logits depend on no other image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from medalign_core.models.dual.bert import BertTextTower
from medalign_core.models.dual.efficientnet import STRIDE, WIDTH, EfficientNetLite0, PublishedWeights
from medalign_core.models.dual.encoder import DualEncoder, ImageTower, Tokenize, VisualTokens
from medalign_core.models.dual.pixels import Normalisation

if TYPE_CHECKING:
    from medalign_core.models.dual.settings import Bridge

IMAGE_SIZE = 224
CHUNK = 128  # prompts embedded at a time
CHUNK_IMAGES = 4
PIXELS = Normalisation((127 / 255,) * 3, (128 / 255,) * 3)  # (value - 127) / 128


class BridgeImageTower(ImageTower):
    """EfficientNet-Lite0's 7 x 7 cells, each centred and mapped to the sentence space; their mean is the pooled one."""

    def __init__(self, network: EfficientNetLite0, *, mean: Float[Tensor, " 1280"], weights: Tensor) -> None:
        super().__init__()
        self.network = network
        self.projection = nn.Linear(WIDTH, weights.shape[1])
        with torch.no_grad():
            self.projection.weight.copy_(weights.T)
            self.projection.bias.copy_(-mean @ weights)
        self.image_size, self.token_count = IMAGE_SIZE, (IMAGE_SIZE // STRIDE) ** 2

    def forward(self, images: UInt8[Tensor, "B 3 H W"]) -> VisualTokens:
        """Return the cells, row by row from the top left, and their mean."""
        # the first maps are wide: 16 images at once take 1.7 times as long per image on a processor
        parts = images.split(CHUNK_IMAGES) if images.device.type == "cpu" else (images,)
        tokens = torch.cat([self._tokens(part) for part in parts])
        return VisualTokens(tokens, tokens.mean(dim=1))

    def _tokens(self, images: Tensor) -> Tensor:
        pixels = PIXELS(images, self.image_size, self.projection.weight.dtype)
        cells = self.network(pixels.contiguous(memory_format=torch.channels_last))
        projected: Tensor = self.projection(cells.flatten(2).transpose(1, 2))
        return projected


class CentredUnit(nn.Module):
    """The head of the text tower: unit length, as the sentence encoder was trained, minus a fixed centre."""

    centre: Tensor

    def __init__(self, centre: Float[Tensor, " D"]) -> None:
        super().__init__()
        self.register_buffer("centre", centre)

    def forward(self, pooled: Float[Tensor, "P D"]) -> Float[Tensor, "P D"]:
        """Return pooled / |pooled| - centre."""
        return functional.normalize(pooled, dim=-1) - self.centre


def build_bridge(
    weights: PublishedWeights, bert: nn.Module, tokenize: Tokenize, *, names: Sequence[str], settings: Bridge
) -> DualEncoder:
    """Return the dual encoder of an ImageNet classifier and a sentence encoder.

    Args:
        weights: of EfficientNet-Lite0.
        bert: a transformers BertModel, pooled by the mean; its dropout is off.
        tokenize: of that model.
        names: one per row of the classifier, in its order.
        settings: template, strength, scale and context length.

    Raises:
        ValueError: not one name per row.
    """
    if len(names) != len(weights.classifier):
        raise ValueError(f"the classifier has {len(weights.classifier)} rows, got {len(names)} names.")
    embeddings = _embed([settings.template.format(name) for name in names], bert, tokenize, settings)
    text = BertTextTower(
        bert, head=CentredUnit(embeddings.mean(dim=0)), pooling="mean", context_length=settings.context_length
    )
    image = BridgeImageTower(
        weights.network,
        mean=mean_after_relu6(weights.head_mean, weights.head_std),
        weights=ridge_map(weights.classifier, embeddings, strength=settings.ridge),
    )
    return DualEncoder(image, text, tokenize=tokenize, scale=settings.scale)


def ridge_map(inputs: Float[Tensor, "C F"], targets: Float[Tensor, "C D"], *, strength: float) -> Float[Tensor, "F D"]:
    """Return (X^T X + strength I)^{-1} X^T Y for centred X and Y, solved in float64, in the type of `inputs`.

    Raises:
        ValueError: strength is not > 0.
    """
    if not strength > 0:
        raise ValueError(f"strength must be > 0, got {strength}.")
    x, y = (values.double() - values.double().mean(dim=0) for values in (inputs, targets))
    # the dual form: C x C is the smaller system where there are fewer classes than features
    gram = x @ x.T
    gram.diagonal().add_(strength)
    return (x.T @ torch.linalg.solve(gram, y)).to(inputs.dtype)


def mean_after_relu6(mean: Float[Tensor, "*S"], std: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Return E[min(max(z, 0), 6)] for z ~ N(mean, std^2), std > 0.

    With a = -mean / std, b = (6 - mean) / std: mean (Phi(b) - Phi(a)) + std (phi(a) - phi(b)) + 6 (1 - Phi(b)).
    """
    low, high = -mean / std, (6 - mean) / std
    cumulative, density = torch.special.ndtr, _density
    inside = cumulative(high) - cumulative(low)
    return mean * inside + std * (density(low) - density(high)) + 6 * cumulative(-high)


def _density(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z.square()) / (2 * torch.pi) ** 0.5


def _embed(texts: Sequence[str], bert: nn.Module, tokenize: Tokenize, settings: Bridge) -> Tensor:
    """Return the unit embeddings of texts, in chunks of texts of like length: padding is work too."""
    text = BertTextTower(bert, head=nn.Identity(), pooling="mean", context_length=settings.context_length)
    prompts = tokenize(texts, 0)
    lengths = prompts.attended.sum(dim=1)
    pooled = torch.empty(len(texts), text.width)
    with torch.no_grad():
        for rows in torch.argsort(lengths, stable=True).split(CHUNK):
            longest = int(lengths[rows].max())
            embedded = text.embed(prompts.ids[rows, :longest])
            pooled[rows] = text.encode(embedded, prompts.attended[rows, :longest]).float()
    return functional.normalize(pooled, dim=-1)
