"""What an objective costs beside its encoder: its share of a training step, forward and backward, at real shapes.

python bench/objective_share.py --corpus CORPUS [--recipe lvm_med/resnet50] [--batch 64] [--steps 3] [--chunk 16]
    [--objectives lvm_med,simclr] [--threads 1] [key=value ...]

The objective sees the features of the whole micro-batch as leaves; its time is that of its forward and backward, with
projector, graphs, solver and estimator. The encoder's time is that of its own forward and backward with the gradient
that came back, in chunks of images, so that a ResNet-50 at batch 64 needs no 15 GB. Seconds are CPU seconds of this
process, for others may share the machine. The first step warms up and is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

from medalign.launch.worker import build_module
from medalign.plan import plan_run
from medalign.recipe import open_recipe
from medalign_core.types import ImageBatch, ImageFeatures


class Apart(nn.Module):
    """An encoder whose features are leaves: what follows can be timed without it, and it without what follows."""

    def __init__(self, encoder: nn.Module, chunk: int) -> None:
        super().__init__()
        self.encoder, self.chunk = encoder, chunk
        self.feature_size = encoder.feature_size
        self.calls: list[tuple[Tensor, ImageFeatures]] = []
        self.seconds = 0.0

    def forward(self, images: Tensor) -> ImageFeatures:
        """Return the features of all images, as leaves."""
        began = time.process_time()
        with torch.no_grad():
            parts = [self.encoder(part) for part in images.split(self.chunk)]
        leaves = ImageFeatures(*(torch.cat(values).requires_grad_() for values in zip(*parts, strict=True)))
        self.calls.append((images, leaves))
        self.seconds += time.process_time() - began
        return leaves

    def learn(self) -> float:
        """Send the leaves' gradients through the encoder, forward and backward; return the seconds."""
        began = time.process_time()
        for images, leaves in self.calls:
            gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
            cuts = [gradient.split(self.chunk) for gradient in gradients]
            for place, part in enumerate(images.split(self.chunk)):
                torch.autograd.backward(tuple(self.encoder(part)), tuple(cut[place] for cut in cuts))
        self.calls.clear()
        return time.process_time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--recipe", default="lvm_med/resnet50")
    parser.add_argument("--objectives", default="lvm_med,simclr")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("overrides", nargs="*", help="laid over the recipe")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for objective in arguments.objectives.split(","):
        own = [] if objective == "lvm_med" else [f"objective={{type: {objective}}}"]
        keys = [f"data.corpus={arguments.corpus}", f"train.micro_batch={arguments.batch}", "train.workers=0"]
        keys += [f"train.global_batch={arguments.batch}", *own, *arguments.overrides]
        print(_line(objective, arguments, keys), flush=True)


def _line(objective: str, arguments: argparse.Namespace, keys: list[str]) -> str:
    recipe, _ = open_recipe(arguments.recipe, keys)
    plan = plan_run(seed=0, data=recipe.data, train=recipe.train, objective=recipe.objective)
    module = build_module(recipe)
    module.encoder = Apart(module.encoder, arguments.chunk)
    batches = plan.stream.plain(0, start=0, stop=arguments.steps + 1)
    measured = [_step(module, batch) for batch in batches][1:]
    own, encoder = (statistics.median(seconds) for seconds in zip(*measured, strict=True))
    return (
        f"{objective}: {own / (own + encoder):.2%} of a step: {own:.3f} s beside {encoder:.2f} s of the encoder,"
        f" medians of {arguments.steps}; {recipe.train.micro_batch} x 2 views of {recipe.data.image_size} px"
    )


def _step(module: nn.Module, batch: ImageBatch) -> tuple[float, float]:
    """Return the CPU seconds of the objective and of the encoder in one step."""
    module.zero_grad()
    module.encoder.seconds = 0.0
    began = time.process_time()
    loss, _ = module(batch)
    loss.backward()
    own = time.process_time() - began - module.encoder.seconds
    return own, module.encoder.learn()


if __name__ == "__main__":
    main()
