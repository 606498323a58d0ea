"""The plain side of throughput.py: a PyTorch DataLoader and DistributedDataParallel, two processes, no Ray.

python bench/plain_loader.py CORPUS STEPS WORKLOAD   prints images per second of the second half
"""

from __future__ import annotations

import os
import sys
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from identity_objective import IdentityModule
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from medalign.data.decode import augment, open_image
from medalign.data.reader import read_rows
from medalign.recipe import open_recipe
from medalign_core.types import DrawKey, ImageBatch

WORLD, MICRO = 2, 64


class Pictures(Dataset):
    """The corpus's encoded images in memory, two augmented views of one at a time."""

    def __init__(self, corpus: str, views: object, size: int) -> None:
        self.images = [d for b in read_rows(corpus, "train", ("image",)) for d in b["image"].to_pylist()]
        self.views, self.size = views, size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        image = open_image(self.images[i])
        found = [augment(image, self.size, self.views, key=(0, "view", time.monotonic_ns(), i, v)) for v in range(2)]
        pixels = torch.stack([torch.from_numpy(view.pixels) for view in found])
        return pixels, torch.tensor([view.box for view in found]), torch.tensor([view.flipped for view in found])


def work(rank: int, store: str, corpus: str, steps: int, workload: str) -> None:
    """Train one rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    recipe, _ = open_recipe("lvm_med/tiny_cpu", [f"data.corpus={corpus}", "objective={type: info_nce}"])
    data = Pictures(corpus, recipe.data.views, recipe.data.image_size)
    module = IdentityModule() if workload == "identity" else recipe.objective.build(recipe.model.build())
    model = DistributedDataParallel(module)
    optimizer = recipe.optimizer.build(module)
    sampler = DistributedSampler(data, WORLD, rank)
    loader = DataLoader(data, MICRO, sampler=sampler, num_workers=1, drop_last=True, persistent_workers=True)
    step, epoch, since = 0, 0, 0.0
    while step < steps:
        sampler.set_epoch(epoch)
        epoch += 1
        for images, boxes, flipped in loader:
            loss, _ = model(_batch(images, boxes, flipped, step))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            step += 1
            if step == steps // 2:
                since = time.perf_counter()
            if step == steps:
                break
    if rank == 0:
        print((steps - steps // 2) * WORLD * MICRO / (time.perf_counter() - since), flush=True)
    dist.barrier()


def _batch(images: torch.Tensor, boxes: torch.Tensor, flipped: torch.Tensor, step: int) -> ImageBatch:
    size = len(images)
    return ImageBatch(
        images=images,
        boxes=boxes.float(),
        flipped=flipped,
        valid=torch.ones(size, dtype=torch.bool),
        labels=torch.full((size,), -1),
        ids=torch.arange(size),
        key=DrawKey(0, step, 0),
    )


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (f"{folder}/store", sys.argv[1], int(sys.argv[2]), sys.argv[3]), nprocs=WORLD)
