"""Features of a frozen encoder, with the proof that it stayed frozen; and the raw pixels that any encoder must beat."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor, nn

from medalign.errors import FrozenError


def extract(encoder: nn.Module, batches: Iterable[UInt8[ndarray, "B 3 H W"] | Tensor]) -> Float[ndarray, "N D"]:
    """Return the pooled features of every image, in order, from an encoder that is left as it was found.

    Raises:
        FrozenError: a parameter or a buffer changed on the way.
    """
    with frozen(encoder):
        parts = [features(encoder, batch) for batch in batches]
    if not parts:
        raise ValueError("no batches to extract features from.")
    return np.concatenate(parts)


def features(encoder: nn.Module, images: UInt8[ndarray, "B 3 H W"] | Tensor) -> Float[ndarray, "B D"]:
    """Return the pooled features of one batch as float32; call it inside `frozen`."""
    device = next(encoder.parameters()).device
    with torch.inference_mode():
        return encoder(torch.as_tensor(images).to(device)).pooled.float().cpu().numpy()


@contextmanager
def frozen(encoder: nn.Module) -> Iterator[None]:
    """Hold an encoder in eval mode, and check at the end that no parameter and no buffer changed.

    Every submodule gets its own train or eval mode back, also after an exception.

    Raises:
        FrozenError: a parameter or a buffer changed; the message names the first one.
    """
    before = fingerprint(encoder)
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
    after = fingerprint(encoder)
    changed = [name for name in before if after.get(name) != before[name]]
    if changed or len(after) != len(before):
        first = changed[0] if changed else min(set(after) - set(before))
        raise FrozenError(
            f"the frozen encoder changed while it was evaluated: {first} ({max(1, len(changed))} in all)."
        )


def fingerprint(module: nn.Module) -> dict[str, str]:
    """Return the hash of every parameter and buffer, the non-persistent ones included."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {name: _hash(tensor) for name, tensor in tensors}


def pixels(images: UInt8[ndarray, "B 3 H W"] | Tensor, *, size: int) -> Float[ndarray, "B D"]:
    """Return each image as 3 * size * size numbers in [0, 1]: the mean colour of every cell of a size x size grid."""
    scaled = torch.as_tensor(images).float() / 255
    return nn.functional.adaptive_avg_pool2d(scaled, size).flatten(1).numpy()


def _hash(tensor: Tensor) -> str:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    shape = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    return hashlib.blake2b(shape + data.tobytes(), digest_size=16).hexdigest()
