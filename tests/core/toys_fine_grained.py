"""A toy of fine-grained classes without any training: attributes as prompts, noisy sightings of them as tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import normalize

from medalign_core.objectives.few_shot.coupling import Coupling
from medalign_core.objectives.few_shot.matching import score
from medalign_core.ops.draws import generator

CLASSES, ATTRIBUTES, TOKENS, WIDTH = 20, 4, 24, 64
LIKENESS = 1.75  # length of what all attributes have in common, beside 1 of their own
PER_CLASS = 20

RIVALS = {
    "mean": Coupling(kind="uniform"),
    "balanced": Coupling(epsilon=0.02, tau_a=1.0, tau_b=1.0),
    "semi": Coupling(epsilon=0.02, tau_a=1.0, tau_b=0.5),
    "full": Coupling(epsilon=0.02, tau_a=0.1 / 0.12, tau_b=0.1 / 0.12),  # rho = 0.1 on both sides
}


@dataclass(frozen=True)
class Scene:
    """What an image shows.

    Attributes:
        visible: attributes of its class that it shows, of 4.
        clutter: the share of its tokens that show something else.
        noise: length of what is added to a sighting.
        foreign: the share of the clutter that shows attributes of another class; the rest are random directions.
    """

    visible: int
    clutter: float = 0.0
    noise: float = 1.0
    foreign: float = 0.0


def attributes(seed: int) -> Tensor:
    """(20, 4, 64) of unit length."""
    draws = generator("fine-grained", "attributes", seed)
    common, own = (normalize(torch.randn(*shape, WIDTH, generator=draws), dim=-1) for shape in ((1, 1), (CLASSES, 4)))
    return normalize(LIKENESS * common + own, dim=-1)


def images(scene: Scene, prompts: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Unit tokens (400, 24, 64) and labels."""
    draws = generator("fine-grained", "images", seed)
    labels = torch.arange(CLASSES).repeat(PER_CLASS)
    count = len(labels)
    shown = torch.rand(count, ATTRIBUTES, generator=draws).argsort(1)[:, : scene.visible]
    tokens = prompts[labels[:, None], shown[:, torch.arange(TOKENS) % scene.visible]]
    cluttered = round(scene.clutter * TOKENS)
    others = round(scene.foreign * cluttered)
    rival = (labels + 1 + torch.randint(CLASSES - 1, (count,), generator=draws)) % CLASSES
    tokens[:, :others] = prompts[rival[:, None], torch.randint(ATTRIBUTES, (count, others), generator=draws)]
    tokens = tokens + scene.noise / math.sqrt(WIDTH) * torch.randn(tokens.shape, generator=draws)
    tokens[:, others:cluttered] = torch.randn(count, cluttered - others, WIDTH, generator=draws)
    return normalize(tokens, dim=-1), labels


@cache
def accuracies(scene: Scene, *, seeds: int = 2) -> dict[str, float]:
    """Percent right by each coupling's score, the mean over seeds."""
    right = dict.fromkeys(RIVALS, 0.0)
    for seed in range(seeds):
        prompts = attributes(seed)
        tokens, labels = images(scene, prompts, seed)
        for name, coupling in RIVALS.items():
            hits = score(coupling, tokens, prompts).argmax(1) == labels
            right[name] += 100 * hits.float().mean().item() / seeds
    return right
