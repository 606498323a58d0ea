"""The plan of a checkpoint's files: balanced, right to the byte, also for a model that does not fit here."""

import json

import pytest
import torch

from medalign.checkpoint.layout import HEADER_LIMIT, header_of, owners, plan_files
from medalign.errors import CheckpointError

KEYS = ("exp_avg", "exp_avg_sq")
PARAMETERS = 6_738_415_616  # of LLaMA-7B


@pytest.fixture(scope="module")
def llama() -> dict[str, tuple[int, ...]]:
    """LLaMA-7B's shapes, from the model itself, built where nothing is allocated."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        module = LlamaForCausalLM(config)
    assert all(p.is_meta for p in module.parameters())
    return {name: tuple(p.shape) for name, p in module.named_parameters()}


@pytest.mark.parametrize("world", [1, 2, 4, 8, 9, 64])
def test_llama_7b_is_cut_into_files_of_the_right_tensors_and_bytes(llama: dict, world: int) -> None:
    plans = plan_files(llama, keys=KEYS, buffers={}, world=world, attempt="0badcafe")
    assert len(plans) == 2 * world == len({plan.name for plan in plans})
    weights = [name for plan in plans if plan.name.startswith("model") for name in plan.shapes]
    assert sorted(weights) == sorted(llama)  # each once
    optimizer = [name for plan in plans if plan.name.startswith("optimizer") for name in plan.shapes]
    assert sorted(optimizer) == sorted(f"{name}/{key}" for name in llama for key in KEYS)
    data = sum(plan.bytes - len(plan.header) for plan in plans)
    assert data == 12 * PARAMETERS
    shares = [sum(plan.bytes for plan in plans if plan.rank == rank) for rank in range(world)]
    largest = 12 * 32_000 * 4096  # the words, with Adam's two
    assert max(shares) - min(shares) <= largest + HEADER_LIMIT


def test_llama_7b_s_names_and_shapes_are_its_own(llama: dict) -> None:
    assert len(llama) == 291
    assert llama["model.embed_tokens.weight"] == llama["lm_head.weight"] == (32_000, 4096)
    assert llama["model.layers.31.mlp.down_proj.weight"] == (4096, 11_008)
    assert sum(torch.Size(shape).numel() for shape in llama.values()) == PARAMETERS


def test_a_header_says_where_each_tensor_lies(llama: dict) -> None:
    (model, _) = plan_files(llama, keys=KEYS, buffers={}, world=1)
    assert model.name == "model-00000.safetensors"
    length = int.from_bytes(model.header[:8], "little")
    assert length == len(model.header) - 8
    assert length % 8 == 0
    entries = json.loads(model.header[8:])
    end = 0
    for name, shape in llama.items():  # end to end, past the 4 GiB that 32 bits could count
        assert entries[name] == {
            "dtype": "F32",
            "shape": list(shape),
            "data_offsets": [end, end + 4 * torch.Size(shape).numel()],
        }
        end = entries[name]["data_offsets"][1]
    assert end == 4 * PARAMETERS > 1 << 34


def test_the_buffers_are_rank_0_s() -> None:
    plans = plan_files({"a": (4,), "b": (4,)}, keys=["m"], buffers={"norm.running_mean": (4,)}, world=2)
    assert [list(plan.shapes) for plan in plans] == [["a", "norm.running_mean"], ["a/m"], ["b"], ["b/m"]]


def test_the_least_laden_rank_is_next() -> None:
    assert owners({"big": (100,), "a": (30,), "b": (30,), "c": (30,), "d": (30,)}, 2) == {
        "big": 0,
        **dict.fromkeys("abcd", 1),
    }
    assert owners({}, 3) == {}


def test_more_tensors_than_a_header_may_name_are_refused_before_anything_is_written() -> None:
    with pytest.raises(CheckpointError, match="50000 tensors are too many for one file; train with more workers"):
        header_of({f"a.rather.long.name.of.a.parameter.{number}": (1,) for number in range(50_000)})
