"""The module of MoCo v2: a query network, a key network that follows it, and a queue of keys."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from medalign_core.models.encoders import ImageEncoder
from medalign_core.objectives.holes import stand_ins
from medalign_core.objectives.self_supervised.moco import MoCo, moco_loss
from medalign_core.objectives.self_supervised.target import Target
from medalign_core.objectives.self_supervised.views import embed, encode, project, view_stats
from medalign_core.ops.cosine import normalize
from medalign_core.ops.draws import generator
from medalign_core.types import ImageBatch

QUEUE = "queue"


class MoCoModule(nn.Module):
    """The objective around an encoder; see MoCo for its settings. It `Carries` its key network and its queue."""

    def __init__(self, settings: MoCo, encoder: ImageEncoder) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = encoder
        self.projector = settings.new_projector(encoder.feature_size)
        self.target = Target([encoder, self.projector], settings.momentum)
        # a plain tensor, no buffer: see Target
        self._queue = normalize(torch.randn(settings.queue_size, settings.projection_size))
        self._record = torch.zeros(0)

    def forward(self, batch: ImageBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return (loss, stats) of one micro-batch; stats as of `view_stats`.

        Queries are view s, and view t if symmetric, and the small views; keys are the large views. The queue gets view
        t's keys alone.

        Raises:
            ValueError: too few rows, or not two large views.
        """
        rows, valid = len(batch.valid), batch.valid
        self.settings.validate(rows)
        embeddings = embed(self.projector, encode(self.encoder, batch), rows=rows)
        with torch.no_grad():
            images = batch.images[stand_ins(valid)]
            order = torch.randperm(rows, generator=generator(*batch.key, "keys")).to(valid.device)
            needed = (0, 1) if self.settings.symmetric or len(embeddings.small) else (1,)
            keys = {view: self._keys(images[:, view], order) for view in reversed(needed)}
        with torch.autocast(device_type=valid.device.type, enabled=False):
            queue = self._queue = self._queue.to(valid.device)
            pairs = [(embeddings.large[0], keys[1])]
            if self.settings.symmetric:
                pairs.append((embeddings.large[1], keys[0]))
            pairs += [(small, key) for small in embeddings.small for key in keys.values()]
            losses = [moco_loss(q, k, queue, valid, temperature=self.settings.temperature) for q, k in pairs]
            self._record = _record(normalize(keys[1]), valid)
            return torch.stack(losses).mean(), view_stats(embeddings.large, valid)

    def _keys(self, images: UInt8[Tensor, "B 3 H W"], order: Int[Tensor, " B"]) -> Float[Tensor, "B F"]:
        """Return the keys of images, encoded in shuffled parts."""
        encoder, projector = self.target.networks
        parts = [project(projector, encoder(images[part]).pooled) for part in order.chunk(self.settings.norm_groups)]
        return torch.cat(parts)[order.argsort()]

    def record(self) -> Tensor:
        """Return the last micro-batch's keys and which of them are valid, flat."""
        return self._record

    def end_step(self, records: Float[Tensor, "A n"]) -> None:
        """Move the key network; the queue takes the step's valid keys, in order, and drops its oldest."""
        self.target.follow([self.encoder, self.projector])
        width = self.settings.projection_size + 1
        keys = records.unflatten(1, (-1, width)).flatten(0, 1)  # (A B, F + 1)
        fresh = keys[keys[:, -1] > 0, :-1].to(self._queue)
        self._queue = torch.cat([self._queue, fresh])[-self.settings.queue_size :]

    def carried(self) -> dict[str, Tensor]:
        """Return the key network's averages and the queue."""
        return {**self.target.carried("target"), QUEUE: self._queue}

    def load_carried(self, tensors: Mapping[str, Tensor]) -> None:
        """Set both."""
        self.target.load_carried(tensors, "target")
        self._queue = tensors[QUEUE].detach().clone().float()


def _record(keys: Float[Tensor, "B F"], valid: Bool[Tensor, " B"]) -> Float[Tensor, " n"]:
    return torch.cat([keys.detach(), valid[:, None].to(keys.dtype)], dim=1).flatten()
