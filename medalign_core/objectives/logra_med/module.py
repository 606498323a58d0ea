"""The objective around a multimodal model: the autoregressive loss plus alpha times an alignment of its node sets."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medalign_core.models.multimodal.batch import IGNORED, ChatBatch, ChatOutput
from medalign_core.objectives.logra_med.alignment import align
from medalign_core.objectives.logra_med.duplicates import duplicate_rate, first_of_kind
from medalign_core.objectives.logra_med.graphs import MaxGraphConvolutions
from medalign_core.objectives.logra_med.settings import AlignedObjective, LoGraMed


@runtime_checkable
class ChatModel(Protocol):
    """A multimodal model, as far as objectives need it: an nn.Module such as models.multimodal's.

    Attributes:
        width: D, of the nodes it returns.
        network: a transformers model; get_input_embeddings() is the embedding of words, of width D.
    """

    width: int
    network: Any

    def __call__(self, batch: ChatBatch) -> ChatOutput:
        """Return the losses and nodes of a micro-batch."""


class Losses(NamedTuple):
    """The two losses of a micro-batch, each a mean.

    Attributes:
        autoregressive: over target tokens; 0 without any.
        alignment: over pairs of graphs or node sets, not yet multiplied by alpha; None without alignment.
        stats: detached scalars.
    """

    autoregressive: Float[Tensor, ""]
    alignment: Float[Tensor, ""] | None
    stats: dict[str, Float[Tensor, ""]]


class ChatModule(nn.Module):
    """A multimodal model and the alignment that it is trained with; see AlignedObjective and its heirs for settings."""

    def __init__(
        self, model: ChatModel, settings: AlignedObjective | None = None, alignment: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.settings = settings
        self.alignment = alignment

    def forward(self, batch: ChatBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return (autoregressive + alpha * alignment, stats) of one micro-batch.

        Stats, detached scalars: ar_loss, ar_tokens; with an alignment also alignment_loss (what is differentiated),
        duplicate_rate (share of samples that could be aligned but repeat an image or an answer), aligned_samples, and
        those of the alignment. A matching_accuracy above settings.INERT_ACCURACY at the first step says that the
        alignment has nothing to teach.

        Raises:
            ValueError: the model returns no nodes of a set that is to be aligned.
        """
        losses = self.losses(batch)
        if losses.alignment is None or self.settings is None:
            return losses.autoregressive, losses.stats
        return losses.autoregressive + self.settings.alpha * losses.alignment, losses.stats

    def losses(self, batch: ChatBatch) -> Losses:
        """Return both losses apart; as `forward` otherwise."""
        output = self.model(batch)
        autoregressive = output.ar_loss_sum / output.ar_tokens.clamp(min=1)
        stats = {"ar_loss": autoregressive.detach(), "ar_tokens": output.ar_tokens.detach().float()}
        if self.alignment is None or self.settings is None:
            return Losses(autoregressive, None, stats)
        nodes, present = _node_sets(output, batch, self.settings.graphs)
        kept = first_of_kind(present, batch.image_ids, batch.answer_ids)
        valid = kept if self.settings.duplicates == "mask" else present
        with torch.autocast(device_type=batch.valid.device.type, enabled=False):
            alignment, found = self.alignment(nodes, valid, batch)
        stats |= {
            "alignment_loss": alignment.detach(),
            "duplicate_rate": duplicate_rate(present, kept),
            "aligned_samples": valid.sum().float(),
        }
        return Losses(autoregressive, alignment, stats | found)

    def gradient_norms(self, batch: ChatBatch) -> dict[str, Float[Tensor, ""]]:
        """Return the Euclidean norms of the gradients by the model's trained weights: ar_gradient, alignment_gradient.

        The latter has alpha in it. This costs a forward and two backward passes and leaves no `.grad`: for now and
        then. It needs whole weights, so it is not for ZeRO stage 3.
        """
        losses, weights = self.losses(batch), [p for p in self.model.parameters() if p.requires_grad]
        norms = {"ar_gradient": _norm(losses.autoregressive, weights)}
        if losses.alignment is not None and self.settings is not None:
            norms["alignment_gradient"] = _norm(self.settings.alpha * losses.alignment, weights)
        return norms


class GraphAlignment(nn.Module):
    """LoGra-Med's alignment with its graph network."""

    def __init__(self, settings: LoGraMed, width: int) -> None:
        super().__init__()
        self.settings = settings
        self.network: MaxGraphConvolutions | None = None
        if settings.message_passing == "graph_conv":
            self.network = MaxGraphConvolutions(
                width,
                width=settings.graph_width or width,
                layers=settings.graph_layers,
                messages=settings.messages,
            )

    def forward(
        self, nodes: dict[str, Float[Tensor, "B F"]], valid: Bool[Tensor, " B"], batch: ChatBatch
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return (loss, stats), with noise and dropout in training mode only; see alignment.align."""
        return align(nodes, valid, batch.key, settings=self.settings, network=self.network, training=self.training)


def _node_sets(output: ChatOutput, batch: ChatBatch, names: tuple[str, ...]) -> tuple[dict[str, Tensor], Tensor]:
    """Return the node sets and which rows have a node in all of them."""
    returned = {"image": output.image_nodes, "answer": output.answer_nodes, "extended": output.extended_nodes}
    spoken = batch.conversation_labels != IGNORED  # where answers are pooled that do not stand apart
    counted = {
        "image": batch.has_image[:, None],
        "answer": spoken if batch.answer_attended is None else batch.answer_attended,
        "extended": spoken if batch.extended_attended is None else batch.extended_attended,
    }
    nodes, present = {}, batch.valid
    for name in names:
        found = returned[name]
        if found is None:
            raise ValueError(f"the model gives no {name} nodes: prepare such texts, or leave {name!r} out of graphs.")
        nodes[name] = found
        present = present & counted[name].any(dim=1)
    return nodes, present


def _norm(loss: Tensor, weights: list[nn.Parameter]) -> Tensor:
    gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    squares = [g.detach().float().square().sum() for g in gradients if g is not None]
    return torch.stack(squares).sum().sqrt() if squares else loss.detach().new_zeros(())
