"""What an objective costs beside its encoder: its share of a training step, forward and backward, at real shapes.

python bench/objective_share.py --corpus CORPUS [--recipe lvm_med/resnet50] [--batch 64] [--steps 3] [--threads 1]
    [--objectives lvm_med,simclr] [key=value ...]

The encoder's time ends when its features are there, and begins again when their gradient is: what lies between is the
objective's, with graphs, solver, estimator, projector and all. The first step warms up and is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medalign.launch.worker import build_module
from medalign.plan import plan_run
from medalign.recipe import open_recipe
from medalign_core.types import ImageBatch, ImageFeatures


@dataclass
class Watch:
    """When an encoder's last features were there, and when the last gradient of them was."""

    forward: float = 0.0
    gradient: float = 0.0

    def attach(self, encoder: nn.Module) -> None:
        """Watch an encoder."""
        encoder.register_forward_hook(self._seen)

    def _seen(self, module: nn.Module, arguments: tuple, features: ImageFeatures) -> None:
        self.forward = time.perf_counter()
        for part in features:
            if part.requires_grad:
                part.register_hook(self._arrived)

    def _arrived(self, gradient: Tensor) -> None:
        self.gradient = time.perf_counter()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--recipe", default="lvm_med/resnet50")
    parser.add_argument("--objectives", default="lvm_med,simclr")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("overrides", nargs="*", help="laid over the recipe")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for objective in arguments.objectives.split(","):
        own = [] if objective == "lvm_med" else [f"objective={{type: {objective}}}"]
        keys = [f"data.corpus={arguments.corpus}", f"train.micro_batch={arguments.batch}", "train.workers=0"]
        keys += [f"train.global_batch={arguments.batch}", *own, *arguments.overrides]
        print(_line(objective, arguments.recipe, keys, arguments.steps), flush=True)


def _line(objective: str, name: str, keys: list[str], steps: int) -> str:
    recipe, _ = open_recipe(name, keys)
    plan = plan_run(seed=0, data=recipe.data, train=recipe.train, objective=recipe.objective)
    module, watch = build_module(recipe), Watch()
    watch.attach(module.encoder)
    shares, seconds, losses = [], [], []
    for number, batch in enumerate(plan.stream.plain(0, start=0, stop=steps + 1)):
        whole, own, loss = _step(module, watch, batch)
        losses.append(loss)
        if number:
            shares.append(own / whole)
            seconds.append(whole)
    share, whole = statistics.median(shares), statistics.median(seconds)
    return (
        f"{objective}: {share:.1%} of {whole:.2f} s a step, {share * whole:.3f} s of its own, median of {steps};"
        f" batch {recipe.train.micro_batch} x 2 views of {recipe.data.image_size} px; losses {losses}"
    )


def _step(module: nn.Module, watch: Watch, batch: ImageBatch) -> tuple[float, float, float]:
    """Return a step's seconds, those of the objective alone, and the loss."""
    module.zero_grad()
    began = time.perf_counter()
    loss, _ = module(batch)
    forward = time.perf_counter()
    own = forward - watch.forward
    loss.backward()
    own += watch.gradient - forward
    return time.perf_counter() - began, own, round(loss.item(), 3)


if __name__ == "__main__":
    main()
