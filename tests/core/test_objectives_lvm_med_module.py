from dataclasses import replace

import numpy as np
import pytest
import torch
from core_problems import image_batch, small_encoder
from torch import nn

from medalign_core.models.encoders import ImageEncoder
from medalign_core.models.settings import ViT
from medalign_core.objectives.lvm_med.affinity import local_affinity
from medalign_core.objectives.lvm_med.module import LVMMedModule
from medalign_core.objectives.lvm_med.settings import PRESETS, LVMMed
from medalign_core.ops.cosine import cosine_table
from medalign_core.ops.location import location_grid
from medalign_core.types import DrawKey, ImageBatch

SMALL = LVMMed(graph_size=8, neighbours=3, projection_size=16, graph_width=16)
STATS = {
    "hamming",
    "matching_accuracy",
    "retrieval_accuracy",
    "embedding_std",
    "edge_overlap",
    "solver_failures",
    "solver_iterations",
    "target_solves",
}


def build(settings: LVMMed = SMALL, encoder: ImageEncoder | None = None) -> LVMMedModule:
    torch.manual_seed(0)
    return settings.build(small_encoder() if encoder is None else encoder)


def gradients(module: nn.Module, batch: ImageBatch, scale: float = 1.0) -> list[torch.Tensor]:
    module.zero_grad()
    loss, _ = module(batch)
    (loss * scale).backward()
    return [p.grad.clone() / scale for p in module.parameters()]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_gives_a_loss_with_gradients_for_all_parameters_and_its_stats(preset):
    module = build(replace(SMALL, preset=preset))
    loss, stats = module(image_batch(16))
    loss.backward()
    assert loss.shape == ()
    assert loss.isfinite()
    assert set(stats) == STATS
    assert all(value.shape == () and not value.requires_grad and value.isfinite() for value in stats.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert any((p.grad != 0).any() for p in module.encoder.parameters())


@pytest.mark.parametrize(
    "change",
    [
        {"second_order": False},
        {"message_passing": False},
        {"graph_layer": "graph_conv"},
        {"local": False},
        {"noise": "margin"},
        {"noise": "sum_of_gamma"},
        {"samples": 3},
        {"estimator": "compat"},
        {"noise_scale": 0.0},
        {"graph_dropout": 0.5},
        {"strength": 0.3},
        {"projector_depth": 2, "projector_norm": "batch"},
    ],
)
def test_every_switch_and_knob_runs_and_changes_the_outcome(change):
    batch = image_batch(16, noise=120)
    loss, stats = build(replace(SMALL, **change))(batch)
    assert loss.isfinite()
    assert set(stats) == STATS
    assert loss != build()(batch)[0]


def test_a_transformer_trains_as_well():
    torch.manual_seed(0)
    encoder = ViT(image_size=32, patch_size=8, hidden_size=16, layers=1, heads=2, mlp_size=32).build()
    module = build(SMALL, encoder)
    assert all(g.isfinite().all() for g in gradients(module, image_batch(8)))
    assert any((g != 0).any() for g in gradients(module, image_batch(8)))


def test_in_evaluation_there_is_no_noise_no_dropout_and_no_dependence_on_the_key():
    module = build(replace(SMALL, graph_dropout=0.5)).eval()
    batch = image_batch(16)
    loss, stats = module(batch)
    other_loss, other_stats = module(replace(batch, key=DrawKey(5, 6, 7)))
    assert set(stats) == STATS
    assert loss >= 0
    torch.testing.assert_close(other_loss, loss)
    assert other_stats["matching_accuracy"] == stats["matching_accuracy"]


def test_the_same_key_gives_the_same_loss_to_the_bit_and_another_key_another():
    module = build(replace(SMALL, graph_dropout=0.3))
    batch = image_batch(16, key=DrawKey(1, 2, 3))
    first = module(batch)[0]
    torch.rand(7)  # the global generator has no say
    assert module(batch)[0] == first
    assert build(replace(SMALL, graph_dropout=0.3))(batch)[0] == first
    assert all(
        module(replace(batch, key=key))[0] != first for key in (DrawKey(2, 2, 3), DrawKey(1, 3, 3), DrawKey(1, 2, 4))
    )


def test_gradients_do_not_depend_on_the_loss_scale():
    module = build()
    plain, scaled = gradients(module, image_batch(16)), gradients(module, image_batch(16), scale=65536.0)
    for one, other in zip(plain, scaled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)


def with_holes(batch: ImageBatch, holes: list[int], fill: int) -> ImageBatch:
    valid, images, boxes = batch.valid.clone(), batch.images.clone(), batch.boxes.clone()
    valid[holes], images[holes], boxes[holes] = False, fill, fill / 255
    return replace(batch, valid=valid, images=images, boxes=boxes)


def test_what_is_in_a_hole_changes_nothing_at_all():
    module = build()
    black, white = (with_holes(image_batch(16), [2, 3, 11], fill) for fill in (0, 255))
    one, other = module(black), module(white)
    assert one[0] == other[0]
    assert one[1] == other[1]
    for a, b in zip(gradients(module, black), gradients(module, white), strict=True):
        assert (a == b).all()
    statistics = [{k: v.clone() for k, v in module.named_buffers()} for module in (build(), build())]
    modules = [build(), build()]
    for fresh, batch in zip(modules, (black, white), strict=True):
        fresh(batch)
    for name, value in modules[0].named_buffers():  # batch norm's running statistics
        assert (value == dict(modules[1].named_buffers())[name]).all()
    assert any((dict(modules[0].named_buffers())[name] != statistics[0][name]).any() for name in statistics[0])


def test_holes_leave_the_others_affinities_alone_where_no_batch_norm_mixes_them():
    module = build().eval()
    batch = image_batch(8)
    whole, holed = module.match(batch), module.match(with_holes(batch, [5], 0))
    kept = [0, 1, 2, 3, 4, 6, 7]
    assert (holed.vertex_affinity[:, 5] == 0).all()
    assert (holed.vertex_affinity[:, :, 5] == 0).all()
    assert holed.matching[0, 5] == 5
    local_only = replace(SMALL, message_passing=False)
    torch.manual_seed(0)
    plain = local_only.build(small_encoder()).eval()
    torch.testing.assert_close(
        plain.match(batch).vertex_affinity[0][kept][:, kept],
        plain.match(with_holes(batch, [5], 0)).vertex_affinity[0][kept][:, kept],
    )
    assert whole.vertex_affinity.shape == holed.vertex_affinity.shape


def test_a_micro_batch_of_holes_has_loss_zero_and_zero_gradients_for_all_parameters():
    module = build()
    batch = with_holes(image_batch(16), list(range(16)), 0)
    loss, stats = module(replace(batch, ids=torch.full((16,), -1), weight=0.0))
    loss.backward()
    assert loss == 0
    assert all(value.isfinite() for value in stats.values())
    assert all(p.grad is not None and (p.grad == 0).all() for p in module.parameters())


def test_half_precision_modules_compare_in_single_precision():
    module = build().to(torch.bfloat16)
    loss, _ = module(image_batch(16))
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.dtype == torch.bfloat16 and p.grad.isfinite().all() for p in module.parameters())
    assert module.eval().match(image_batch(16)).vertex_affinity.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_reach_the_affinities(dtype):
    module = build().eval()
    with torch.autocast("cpu", dtype=dtype):
        match = module.match(image_batch(16))
    assert match.vertex_affinity.dtype == torch.float32
    assert match.edge_affinity.dtype == torch.float32
    # cosines in half precision would sit on a coarse grid
    assert (match.edge_affinity != match.edge_affinity.to(dtype).float()).float().mean() > 0.5


def test_double_precision_stays_double():
    assert build().double()(image_batch(8))[0].dtype == torch.float64


def test_the_batch_is_cut_into_graphs_in_order():
    module = build().eval()
    batch = image_batch(16)
    halves = [
        ImageBatch(
            **{
                name: getattr(batch, name)[rows]
                if isinstance(getattr(batch, name), torch.Tensor)
                else getattr(batch, name)
                for name in ImageBatch.__dataclass_fields__
            }
        )
        for rows in (slice(0, 8), slice(8, 16))
    ]
    whole, parts = module.match(batch), [module.match(half) for half in halves]
    torch.testing.assert_close(whole.vertex_affinity, torch.cat([part.vertex_affinity for part in parts]))
    assert (whole.matching == np.concatenate([part.matching for part in parts])).all()


def test_match_tells_what_a_figure_needs():
    module = build().eval()
    match = module.match(image_batch(16))
    assert match.matching.shape == (2, 8)
    assert match.vertex_affinity.shape == (2, 8, 8)
    assert match.edge_affinity.shape == (2, 24, 24)
    assert match.map_size == (4, 4)
    assert match.cells_s.shape == match.cells_t.shape == (2, 8, 16)
    assert match.cells_s.max() < 16
    loss, stats = module(image_batch(16))
    assert stats["matching_accuracy"].item() == pytest.approx((match.matching == np.arange(8)).mean())


def test_matching_in_training_mode_raises():
    with pytest.raises(ValueError, match=r"call eval\(\)"):
        build().match(image_batch(8))


def test_batches_that_do_not_hold_whole_graphs_or_two_views_raise():
    with pytest.raises(ValueError, match="micro_batch must be a multiple of graph_size = 8, got 12"):
        build()(image_batch(12))
    batch = image_batch(8)
    three = replace(
        batch,
        images=torch.cat([batch.images, batch.images[:, :1]], dim=1),
        boxes=torch.cat([batch.boxes, batch.boxes[:, :1]], dim=1),
        flipped=torch.cat([batch.flipped, batch.flipped[:, :1]], dim=1),
    )
    with pytest.raises(ValueError, match="LVM-Med matches 2 views, got 3"):
        build()(three)


def test_the_whole_way_from_features_to_the_loss_has_the_right_gradient():
    """The matchings are constants, so finite differences see the surrogate as it is, noise and all."""
    settings = LVMMed(graph_size=4, neighbours=2, projection_size=5, graph_width=5, noise_scale=0.3)
    torch.manual_seed(0)
    module = settings.build(small_encoder()).double()
    batch = image_batch(8, noise=120)
    leaf = module.projector[0].weight

    def loss(weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, {"projector.0.weight": weight}, (batch,))[0]

    direction = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight = leaf.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(weight), weight)
    step = 1e-6
    with torch.no_grad():
        difference = (loss(weight + step * direction) - loss(weight - step * direction)) / (2 * step)
    assert slope.abs().max() > 0
    assert (slope * direction).sum().item() == pytest.approx(difference.item(), rel=1e-5)


def with_small(batch: ImageBatch, count: int, size: int = 24) -> ImageBatch:
    draws = torch.Generator().manual_seed(5)
    rows = len(batch.valid)
    corner = 0.5 * torch.rand(rows, count, 2, generator=draws)
    return replace(
        batch,
        small_images=torch.randint(0, 256, (rows, count, 3, size, size), generator=draws, dtype=torch.uint8),
        small_boxes=torch.cat([corner, torch.full((rows, count, 2), 0.3)], dim=-1),
        small_flipped=torch.rand(rows, count, generator=draws) < 0.5,
    )


def test_small_views_enter_the_local_affinity_alone_as_a_mean_over_pairs_with_a_large_view():
    settings = replace(SMALL, message_passing=False, alpha=0.6, local_matches=3, small_matches=2)
    module = build(settings).eval()
    batch = with_small(image_batch(8), 2)
    maps = [module.encoder(batch.images[:, v]).map for v in range(2)]
    maps += [module.encoder(batch.small_images[:, v]).map for v in range(2)]
    boxes, flipped = torch.cat([batch.boxes, batch.small_boxes], 1), torch.cat([batch.flipped, batch.small_flipped], 1)
    cells = [m.flatten(2).transpose(1, 2)[None] for m in maps]
    grids = [
        location_grid(boxes[:, v], flipped[:, v], rows=m.shape[2], columns=m.shape[3])[None] for v, m in enumerate(maps)
    ]

    def local(first: int, second: int, matches: int) -> torch.Tensor:
        views = (cells[first], cells[second], grids[first], grids[second])
        return local_affinity(*views, matches=matches, reduction="mean")

    tables = [local(0, 1, 3), *(local(0, small, 2) for small in (2, 3)), *(local(small, 1, 2) for small in (2, 3))]
    nodes = [module.projector(m.mean(dim=(2, 3)))[None] for m in maps[:2]]
    expected = 0.6 * cosine_table(*nodes) + 0.4 * torch.stack(tables).mean(dim=0)
    torch.testing.assert_close(module.match(batch).vertex_affinity, expected)


def test_small_views_leave_the_affinity_symmetric_in_the_large_ones():
    module = build(replace(SMALL, message_passing=False)).eval()
    batch = with_small(image_batch(8), 3)
    swapped = replace(batch, images=batch.images.flip(1), boxes=batch.boxes.flip(1), flipped=batch.flipped.flip(1))
    affinities = [module.match(each).vertex_affinity for each in (batch, swapped)]
    torch.testing.assert_close(affinities[0], affinities[1].transpose(1, 2))


def test_small_views_give_gradients_and_what_is_in_their_holes_does_not_matter():
    module, batch = build(), with_small(image_batch(16), 2)
    valid = torch.ones(16, dtype=torch.bool).index_fill(0, torch.tensor([3, 9]), False)
    losses = []
    for fill in (0, 255):
        small = batch.small_images.clone()
        small[~valid] = fill
        losses.append(module(replace(batch, small_images=small, valid=valid))[0])
    assert losses[0] == losses[1]
    assert any(
        (a != b).any() for a, b in zip(gradients(build(), batch), gradients(build(), image_batch(16)), strict=True)
    )


def test_small_views_that_nothing_looks_at_raise():
    with pytest.raises(ValueError, match="small views are for the local affinity, which is off"):
        build(replace(SMALL, local=False))(with_small(image_batch(8), 1))
