"""LLaMA-7B at true shapes on the meta device: what each stage trains, and how it is cut over ranks."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from medalign.checkpoint.layout import bytes_of, owners, plan_files
from medalign_core.models.multimodal.assembling import assemble
from medalign_core.models.multimodal.freezing import check_frozen
from medalign_core.models.multimodal.settings import Llava, LoRA
from medalign_core.objectives.logra_med.settings import Autoregressive, LoGraMed

VOCABULARY = 32_004  # LLaMA's 32,000, [PAD], and the image's three
LLAMA = 6_738_415_616 + 2 * 4 * 4096  # with four more rows of embedding and head
PROJECTOR = 1024 * 4096 + 4096 + 4096 * 4096 + 4096
GRAPHS = 2 * (2 * 4096 * 4096 + 4096)  # two GraphConv layers: W_rel, b, W_root
GIGA = 1e9


@pytest.fixture
def parts() -> Iterator[Any]:
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14
    )
    with torch.device("meta"):
        yield CLIPVisionModel(vision), LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY))


def module_of(parts: Any, stage: Any, *, objective: Any = None, lora: LoRA | None = None) -> nn.Module:
    tower, causal = parts
    settings = Llava(stage=stage, lora=lora, text_nodes="packed", attention="sdpa")
    with torch.device("meta"):
        network = assemble(tower, causal, settings, image_token=VOCABULARY - 3)
        model = settings.build(network, markers=(VOCABULARY - 2, VOCABULARY - 1))
        return (objective or Autoregressive()).build(model)


def trained(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}


def count(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def test_each_stage_trains_exactly_what_the_method_says(parts: Any) -> None:
    first = module_of(parts, 1)
    assert count(trained(first)) == PROJECTOR + 2 * 4096  # the projector and the rows of the two markers
    second = module_of(parts, 2, objective=LoGraMed())
    assert count(trained(second)) == LLAMA + PROJECTOR + GRAPHS
    assert (PROJECTOR, GRAPHS) == (20_979_712, 67_117_056)
    fine_tuned = module_of(parts, "vqa")
    assert count(trained(fine_tuned)) == LLAMA + PROJECTOR
    for module, stage in ((second, 2), (fine_tuned, "vqa")):
        model: Any = module.model
        check_frozen(model, stage)
        assert not any("vision_tower" in name for name in trained(module))


@pytest.mark.parametrize("world", [1, 4, 8, 16])
def test_a_checkpoint_of_stage_2_is_cut_over_the_ranks_within_one_parameter(parts: Any, world: int) -> None:
    shapes = trained(module_of(parts, 2, objective=LoGraMed()))
    owner = owners(shapes, world)
    share = [sum(bytes_of(shape) for name, shape in shapes.items() if owner[name] == rank) for rank in range(world)]
    assert max(share) - min(share) <= max(map(bytes_of, shapes.values()))
    files = plan_files(shapes, keys=("exp_avg", "exp_avg_sq"), buffers={}, world=world)
    assert len(files) == 2 * world
    weights = [name for file in files if file.name.startswith("model") for name in file.shapes]
    assert sorted(weights) == sorted(shapes)  # each parameter once
    assert sum(file.bytes for file in files) == pytest.approx(3 * 4 * count(shapes), rel=1e-5)


@pytest.mark.parametrize(("world", "gigabytes"), [(1, 109.2), (4, 27.3), (8, 13.7), (16, 6.8)])
def test_static_memory_of_zero_3_is_what_the_budget_says(parts: Any, world: int, gigabytes: float) -> None:
    # fp32 master, gradient and Adam's two moments: 16 bytes a parameter, each cut over the ranks and padded
    shapes = trained(module_of(parts, 2, objective=LoGraMed()))
    own = sum(-(-math.prod(shape) // world) for shape in shapes.values())
    assert 16 * own / GIGA == pytest.approx(gigabytes, rel=0.005)


def test_low_rank_updates_train_a_hundredth_and_freeze_the_rest(parts: Any) -> None:
    module = module_of(parts, 2, objective=LoGraMed(), lora=LoRA(rank=16))
    layer = 4 * 2 * 16 * 4096 + 3 * 16 * (4096 + 11_008)  # q, k, v, o; gate, up, down
    assert count(trained(module)) == 32 * layer + PROJECTOR + GRAPHS
