"""The modules of the baselines: losses with gradients, stats, holes, small views, what is carried between steps."""

from dataclasses import replace

import pytest
import torch
from core_problems import image_batch, small_encoder

from medalign_core.objectives.carried import Carries
from medalign_core.objectives.self_supervised.barlow_twins import BarlowTwins
from medalign_core.objectives.self_supervised.byol import BYOL
from medalign_core.objectives.self_supervised.contract import SelfSupervised
from medalign_core.objectives.self_supervised.moco import MoCo
from medalign_core.objectives.self_supervised.simclr import SimCLR
from medalign_core.objectives.self_supervised.swav import SwAV
from medalign_core.objectives.self_supervised.target import Target
from medalign_core.objectives.self_supervised.vicreg import VICReg
from medalign_core.objectives.self_supervised.vicregl import VICRegL
from medalign_core.types import DrawKey, ImageBatch

SETTINGS: dict[str, SelfSupervised] = {
    "simclr": SimCLR(projection_size=16),
    "barlow_twins": BarlowTwins(projection_size=16, projector_hidden=24),
    "vicreg": VICReg(projection_size=16),
    "vicregl": VICRegL(projection_size=16, local_size=12, local_matches=3, small_matches=1),
    "moco": MoCo(projection_size=16, queue_size=20, momentum=0.9),
    "byol": BYOL(projection_size=16, momentum=0.9),
    "swav": SwAV(projection_size=16, prototypes=12),
}
STATS = {"matching_accuracy", "embedding_std", "effective_rank"}
CARRYING = ("moco", "byol")


def build(name: str) -> torch.nn.Module:
    encoder = small_encoder()
    torch.manual_seed(1)
    return SETTINGS[name].build(encoder)  # type: ignore[attr-defined, no-any-return]


def with_small(batch: ImageBatch, count: int = 3, size: int = 16) -> ImageBatch:
    """The batch with small views cut out of its large ones."""
    rows = len(batch.valid)
    small = batch.images[:, 0, :, None, :size, :size].transpose(1, 2).repeat(1, count, 1, 1, 1)
    return replace(
        batch,
        small_images=small,
        small_boxes=batch.boxes[:, :1].repeat(1, count, 1) * 0.5,
        small_flipped=torch.zeros(rows, count, dtype=torch.bool),
    )


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("small", [False, True], ids=["two views", "small views"])
def test_the_module_gives_a_loss_with_gradients_and_its_stats(name: str, small: bool) -> None:
    module, batch = build(name), image_batch(8)
    batch = with_small(batch) if small else batch
    loss, stats = module(batch)
    loss.backward()
    assert stats.keys() >= STATS
    assert all(value.shape == () and not value.requires_grad for value in stats.values())
    for parameter_name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
    assert module(batch)[0] == loss
    if small:
        assert loss != build(name)(image_batch(8))[0]


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_in_a_hole_changes_nothing_and_all_holes_give_zero(name: str) -> None:
    module, batch = build(name), with_small(image_batch(8))
    valid = torch.tensor([True, True, False, True, True, False, True, True])
    results = []
    for fill in (0, 255):
        images, small = batch.images.clone(), batch.small_images.clone()
        images[~valid], small[~valid] = fill, fill
        results.append(module(replace(batch, images=images, small_images=small, valid=valid)))
    assert results[0] == results[1]
    module.zero_grad()
    loss, _ = module(replace(batch, valid=torch.zeros(8, dtype=torch.bool)))
    loss.backward()
    assert loss == 0
    assert all((p.grad == 0).all() for p in module.parameters() if p.requires_grad and p.grad is not None)


@pytest.mark.parametrize("name", SETTINGS)
def test_half_precision_modules_compare_in_single_precision(name: str) -> None:
    loss, stats = build(name).to(torch.bfloat16)(image_batch(8))
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in stats.values())


@pytest.mark.parametrize("name", SETTINGS)
def test_the_module_learns_and_does_not_collapse(name: str) -> None:
    module, batch = build(name), image_batch(16, noise=100)
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=3e-3)
    first = None
    for step in range(40):
        loss, stats = module(replace(batch, key=DrawKey(0, step, 0)))
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if isinstance(module, Carries):
            module.end_step(module.record()[None])
    if name != "moco":  # its queue fills with the images' own keys, which are the harder ones
        assert loss.item() < 0.5 * first
    if name != "byol":  # without negatives nothing asks for it in so few steps
        assert stats["matching_accuracy"] > 0.6
    assert stats["embedding_std"] > 0.6
    assert stats["effective_rank"] > 2


@pytest.mark.parametrize("name", CARRYING)
def test_the_target_follows_by_an_exponential_moving_average_and_gets_no_gradient(name: str) -> None:
    module = build(name)
    assert isinstance(module, Carries)
    before = {key: value.clone() for key, value in module.carried().items() if key != "queue"}
    loss, _ = module(image_batch(8))
    loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in module.target.parameters())
    with torch.no_grad():
        for parameter in (*module.encoder.parameters(), *module.projector.parameters()):
            parameter += 1.0
    module.end_step(module.record()[None])
    for key, value in module.carried().items():
        if key != "queue":
            torch.testing.assert_close(value, before[key] + 0.1)  # it began as a copy
            torch.testing.assert_close(module.get_parameter(key), value)


def test_the_average_of_a_bfloat16_target_keeps_steps_that_bfloat16_would_round_away() -> None:
    leader = torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        leader.weight.fill_(1.0)
    target = Target([leader], 0.999)
    with torch.no_grad():
        leader.weight.fill_(2.0)
    for _ in range(100):
        target.follow([leader])
    (average,) = target.carried("t").values()
    assert average.item() == pytest.approx(2 - 0.999**100, rel=1e-4)
    assert target.networks[0].weight.item() == pytest.approx(average.item(), abs=2**-8)


def test_the_queue_takes_the_valid_keys_of_all_micro_batches_in_order_and_drops_the_oldest() -> None:
    module = build("moco").eval()  # batch norms aside: a key then depends on its own image alone
    valid = torch.tensor([True, False, True, True, True, True, True, True])
    first, second = (replace(image_batch(8, seed=seed), valid=valid) for seed in (1, 2))
    oldest = module.carried()["queue"]
    records, keys = [], []
    for batch in (first, second):
        module(batch)
        records.append(module.record())
        encoder, projector = module.target.networks
        keys.append(projector(encoder(batch.images[valid][:, 1]).pooled))
    module.end_step(torch.stack(records))
    expected = torch.nn.functional.normalize(torch.cat(keys))  # 14 of them, for 20 places
    torch.testing.assert_close(module.carried()["queue"], torch.cat([oldest[14:], expected]))
    assert module.record().shape == records[0].shape


@pytest.mark.parametrize("name", CARRYING)
def test_what_is_carried_brings_another_module_to_the_same_loss(name: str) -> None:
    module = build(name)
    module(image_batch(8))
    with torch.no_grad():
        for parameter in (*module.encoder.parameters(), *module.projector.parameters()):
            parameter *= 1.5
    module.end_step(module.record()[None])
    other = build(name)
    other.load_state_dict(module.state_dict() | {n: p for n, p in other.target.state_dict(prefix="target.").items()})
    assert other(image_batch(8, seed=3))[0] != module(image_batch(8, seed=3))[0]
    other.load_carried({key: value.clone() for key, value in module.carried().items()})
    assert other(image_batch(8, seed=3))[0] == module(image_batch(8, seed=3))[0]


def test_keys_are_shuffled_by_the_batch_s_own_key_and_come_back_in_order() -> None:
    module = build("moco").eval()
    images = image_batch(8).images[:, 1]
    in_order = module._keys(images, torch.arange(8))
    for index in range(3):
        order = torch.randperm(8, generator=torch.Generator().manual_seed(index))
        torch.testing.assert_close(module._keys(images, order), in_order)


def test_prototypes_stay_at_first_when_they_are_frozen() -> None:
    module = SwAV(projection_size=16, prototypes=12, frozen_steps=2).build(small_encoder())
    for step, moves in ((0, False), (1, False), (2, True)):
        module.zero_grad()
        module(replace(image_batch(8), key=DrawKey(0, step, 0)))[0].backward()
        assert bool(module.prototypes.grad.any()) == moves


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (SimCLR, {"temperature": 0.0}, "temperature must be > 0 and finite, got 0.0"),
        (SimCLR, {"projector_hidden": 0}, "projector_hidden must be >= 1, got 0"),
        (BarlowTwins, {"redundancy": -1.0}, "redundancy must be > 0"),
        (VICReg, {"projector_norm": "layer"}, "projector_norm must be 'none' or 'batch', got 'layer'"),
        (VICRegL, {"alpha": 1.5}, r"alpha must be in \[0, 1\], got 1.5"),
        (MoCo, {"momentum": -0.1}, r"momentum must be in \[0, 1\]"),
        (BYOL, {"predictor_hidden": 0}, "predictor_hidden must be > 0"),
        (SwAV, {"frozen_steps": -1}, "frozen_steps must be >= 0, got -1"),
    ],
)
def test_settings_that_cannot_work_raise_with_their_value(kind: type, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**change)


def test_a_micro_batch_needs_others_and_every_part_of_keys_two() -> None:
    with pytest.raises(ValueError, match="micro_batch must be >= 2"):
        SimCLR().validate(1)
    with pytest.raises(ValueError, match=r"micro_batch must be >= 2 \* norm_groups = 8, got 7"):
        MoCo(norm_groups=4).validate(7)
