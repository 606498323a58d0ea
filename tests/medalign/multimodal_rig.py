"""Steps of a tiny multimodal model on one rank of two under the engine: python multimodal_rig.py RANK ZERO STAGE STORE.

Rank 1's micro-batch has no image and no target, so that ranks differ in all that could make them call differently.
Rank 0 prints the losses of its steps as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))


def main() -> None:
    rank, zero, stage, store = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "DS_ACCELERATOR": "cpu"}
    import torch
    import torch.distributed as dist
    from multimodal_cases import batch, build
    from torch import nn

    from medalign.training.engine import Engine

    class Sum(nn.Module):
        """The loss plus the size of the nodes, so that gradients reach all that is trained."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, given):
            output = self.model(given)
            nodes = sum(n.square().mean() for n in output[2:] if n is not None)
            return output.ar_loss_sum / output.ar_tokens.clamp(min=1) + nodes, {}

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=90)
    )
    packed = {"text_nodes": "packed", "attention": "medalign_varlen", "activation_checkpointing": True}
    model = build(tied=True, stage=stage, loss_chunks=3, **packed)
    given = batch(model, seed=rank, without_image=(0, 1, 2) if rank else ())
    given = replace(given, valid=given.valid & (rank == 0))
    objective = Sum(model).train()
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    options = {"zero_stage": zero, "precision": "fp32", "micro_batch": 3, "accumulation": 1, "clip": 0.0}
    engine = Engine(objective, optimizer, **options)
    losses = []
    for _ in range(3):
        loss, _ = engine.forward(given)
        losses.append(loss.item())
        engine.backward(loss)
        engine.step(1e-2)
    if rank == 0:
        print(json.dumps(losses), flush=True)  # noqa: T201
    dist.barrier()
    os._exit(0)  # gloo and DeepSpeed take their time to go


if __name__ == "__main__":
    main()
