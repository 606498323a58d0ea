"""Three linear encoders of three views of one latent: what each alignment teaches them about samples never seen."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from medalign_core.objectives.logra_med.alignment import align
from medalign_core.objectives.logra_med.baselines.info_nce import clip_loss
from medalign_core.objectives.logra_med.baselines.siglip import siglip_loss
from medalign_core.objectives.logra_med.baselines.transport import transport_loss
from medalign_core.objectives.logra_med.graphs import MaxGraphConvolutions
from medalign_core.objectives.logra_med.settings import NODE_SETS, LoGraMed
from medalign_core.ops.cosine import cosine_table
from medalign_core.solvers.sinkhorn import Sinkhorn
from medalign_core.types import DrawKey

WIDTH, ROWS, LATENT = 32, 16, 8
EVERYONE = torch.ones(ROWS, dtype=torch.bool)
SINKHORN = Sinkhorn(epsilon=0.1, gradient="implicit")


def views(step: int, rows: int = ROWS) -> dict[str, Tensor]:
    """One latent per sample through a map of each view's own, with noise and a common part, as raw features have."""
    draws, world = (torch.Generator().manual_seed(seed) for seed in (step, 77))
    latent = torch.randn(rows, LATENT, generator=draws)
    seen = {}
    for name, noise in zip(NODE_SETS, (1.4, 1.4, 0.7), strict=True):
        mixing = torch.randn(LATENT, WIDTH, generator=world)
        common = 2 * torch.randn(WIDTH, generator=world)
        seen[name] = latent @ mixing + noise * torch.randn(rows, WIDTH, generator=draws) + common
    return seen


def hits(encoders: nn.ModuleDict) -> float:
    """Share of 256 new images whose own answer is among the ten nearest; 0.04 by chance."""
    with torch.no_grad():
        held_out = views(1_000_000, 256)
        cosine = cosine_table(*(encoders[name](held_out[name]) for name in ("image", "answer")))
        return ((cosine > cosine.diagonal()[:, None]).sum(dim=1) < 10).double().mean().item()


def train(alignment, weights: nn.Module | None = None) -> tuple[float, float]:
    torch.manual_seed(0)
    encoders = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in NODE_SETS})
    before = hits(encoders)
    trained = [*encoders.parameters(), *(weights.parameters() if weights is not None else ())]
    optimizer = torch.optim.Adam(trained, lr=8e-3)
    for step in range(80):
        seen = views(step)
        optimizer.zero_grad()
        alignment({name: encoders[name](seen[name]) for name in NODE_SETS}, DrawKey(0, step, 0)).backward()
        optimizer.step()
    return before, hits(encoders)


@pytest.mark.parametrize("target", ["barycenter", "pairwise"])
def test_matching_graphs_teaches_linear_encoders_to_retrieve(target):
    torch.manual_seed(1)
    network = MaxGraphConvolutions(WIDTH, width=WIDTH, layers=2)
    settings = LoGraMed(target=target)

    def alignment(nodes: dict[str, Tensor], key: DrawKey) -> Tensor:
        return align(nodes, EVERYONE, key, settings=settings, network=network, training=True)[0]

    before, after = train(alignment, network)
    assert before < 0.1
    assert after > 0.5


@pytest.mark.parametrize(
    "loss",
    [
        partial(clip_loss, temperature=0.07),
        partial(siglip_loss, log_scale=2.3, bias=-10.0),
        partial(transport_loss, solver=SINKHORN, loss="identity"),
    ],
)
def test_so_do_the_baselines(loss):
    before, after = train(lambda nodes, key: loss(nodes["image"], nodes["answer"], EVERYONE))
    assert before < 0.1
    assert after > 0.5


def test_the_value_of_transport_alone_does_not_since_it_does_not_know_who_is_who():
    value = partial(transport_loss, solver=SINKHORN, loss="value")
    _, after = train(lambda nodes, key: value(nodes["image"], nodes["answer"], EVERYONE))
    assert after < 0.2
