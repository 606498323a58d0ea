"""Learnt contexts beside class names, run through the frozen text tower: N contexts x C classes, in chunks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medalign_core.models.dual.encoder import CONTEXT_START, DualEncoder, Injection, PromptTokens, TextTower
from medalign_core.ops.runs import runs_of_like_length

CONTEXT_STD = 0.02  # of new context vectors: that of CLIP's and BERT's own word embeddings
START_TOKENS = 16  # what calling the text tower once more costs on a processor, as tokens of work


def new_contexts(
    model: DualEncoder, *, count: int, length: int | None, words: str | None, draws: torch.Generator
) -> Float[Tensor, "N n W"]:
    """Return `count` contexts of `length` vectors: the embeddings of `words`, or N(0, 0.02^2) where there are none.

    Equal contexts would have equal gradients and stay equal: all but the first start from the words plus N(0, 0.02^2).

    Args:
        model: whose text tower the contexts are for.
        count: N.
        length: n; None: as many as the words have tokens.
        words: what the contexts start from.
        draws: what is random is drawn by.

    Raises:
        ValueError: the words are not `length` tokens, or neither is given.
    """
    device = next(model.text.parameters()).device
    if words is None:
        if length is None:
            raise ValueError("a context without words needs a length, got none.")
        return _noise(model, count, length, draws).to(device)
    prompt = model.tokenize([words], 0)
    tokens = prompt.ids[0, CONTEXT_START : int(prompt.attended[0].sum()) - 1]  # between the start and the end token
    if length not in (None, len(tokens)):
        raise ValueError(f"the words {words!r} are {len(tokens)} tokens; set the length of the context to that.")
    noise = _noise(model, count, len(tokens), draws)
    noise[0] = 0
    with torch.no_grad():
        return model.text.embed(tokens[None].to(device)).float() + noise.to(device)


def injection_layer(tower: TextTower, layer: int | None) -> int:
    """Return the block at whose input vectors are mixed in; None is two thirds of the depth, TCP's 8 of 12.

    Raises:
        ValueError: the tower has no such block.
    """
    taken = 2 * tower.layers // 3 if layer is None else layer
    if not 0 <= taken < tower.layers:
        raise ValueError(f"the layer of the injection must be in [0, {tower.layers - 1}], got {taken}.")
    return taken


class PromptLearner(nn.Module):
    """The prompts [start][context j][class name][end], j = 1..N, of C classes. Only the contexts learn."""

    def __init__(self, tower: TextTower, prompts: PromptTokens, contexts: Tensor, *, chunk: int = 512) -> None:
        """Hold the frozen word embeddings of the prompts.

        Args:
            tower: frozen (see `freezing`): its mode means nothing.
            prompts: (C, L), with room for n contexts. Classes whose prompts are about as long are encoded together, so
                that little of the work is padding.
            contexts: (N, n, W), in float32 whatever the tower computes in.
            chunk: sequences encoded at a time; where there are more in all, activations are made again in the backward
                pass, so that memory is that of one chunk.
        """
        super().__init__()
        if chunk < 1:
            raise ValueError(f"chunk must be >= 1, got {chunk}.")
        self.tower, self.chunk = tower, chunk
        self.contexts = nn.Parameter(contexts)
        lengths = prompts.attended.sum(dim=1)
        longest = int(lengths.max())
        ids, attended = (x[:, :longest].to(contexts.device) for x in prompts)
        with torch.no_grad():
            words = tower.embed(ids)
        self.words: Tensor
        self.attended: Tensor
        self.register_buffer("words", words, persistent=False)  # (C, L, W)
        self.register_buffer("attended", attended, persistent=False)
        most = max(1, chunk // len(contexts))
        order, ends = runs_of_like_length(lengths.tolist(), most=most, start=START_TOKENS // len(contexts))
        self.order: Tensor
        self.register_buffer("order", torch.tensor(order, device=contexts.device), persistent=False)
        self.ends, self.recomputes = ends, len(words) > most

    @classmethod
    def of_classes(cls, model: DualEncoder, names: Sequence[str], contexts: Tensor, *, chunk: int) -> PromptLearner:
        """Return the learner for the prompts "[context] name."."""
        prompts = model.tokenize([f"{name}." for name in names], contexts.shape[1])
        return cls(model.text, prompts, contexts, chunk=chunk)

    def forward(
        self, injected: Float[Tensor, "C n W"] | None = None, *, layer: int = 0, weight: float = 1.0
    ) -> Float[Tensor, "C N D"]:
        """Return the features of all prompts, not normalised.

        Args:
            injected: vectors of each class, mixed into the context positions of its prompts at the input of a block.
            layer: that block.
            weight: their share.
        """
        parts, start = [], 0
        for end in self.ends:
            at = self.order[start:end]
            start, attended = end, self.attended[at]
            longest = int(attended[-1].sum())  # of a run the last is the longest
            vectors = None if injected is None else injected[at]
            arguments = (self.words[at, :longest], attended[:, :longest], self.contexts, vectors, layer, weight)
            if self.recomputes and torch.is_grad_enabled():
                parts.append(checkpoint(self._encode, *arguments, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(self._encode(*arguments))
        return torch.cat(parts)[self.order.argsort()]

    def _encode(
        self, words: Tensor, attended: Tensor, contexts: Tensor, vectors: Tensor | None, layer: int, weight: float
    ) -> Tensor:
        classes, count, length = len(words), *contexts.shape[:2]
        every = words[:, None].expand(-1, count, -1, -1)
        beside = contexts.to(words.dtype).expand(classes, -1, -1, -1)
        behind = every[:, :, CONTEXT_START + length :]
        embeddings = torch.cat([every[:, :, :CONTEXT_START], beside, behind], dim=2).flatten(0, 1)
        injection = None
        if vectors is not None:
            injection = Injection(layer, vectors.to(words.dtype).repeat_interleave(count, dim=0), weight)
        features = self.tower.encode(embeddings, attended.repeat_interleave(count, dim=0), injection=injection)
        return features.unflatten(0, (classes, count))


def _noise(model: DualEncoder, count: int, length: int, draws: torch.Generator) -> Tensor:
    return torch.randn(count, length, model.text.width, generator=draws) * CONTEXT_STD
