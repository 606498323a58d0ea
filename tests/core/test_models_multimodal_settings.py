import subprocess
import sys

import pytest

from medalign_core.models.multimodal.settings import Llava, LoRA


def test_the_defaults_are_the_packaged_model_in_stage_2_packed():
    settings = Llava()
    assert (settings.vision, settings.language) == ("efficientnet_lite0", "smollm2_135m")
    assert (settings.stage, settings.text_nodes, settings.projector) == (2, "packed", "mlp2x_gelu")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"loss_chunks": 0}, "loss_chunks must be >= 1, got 0"),
        ({"stage": 3}, "stage must be 1, 2 or 'vqa', got 3"),
        ({"pooling": "with_padding"}, "'with_padding' is defined for text_nodes 'separate' alone, got 'packed'"),
        ({"stage": 1, "lora": LoRA()}, "lora updates the language model, which stage 1 freezes"),
        ({"mean": (0.5, 0.5, 0.5)}, "give both of mean and std or neither"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.0, 0.5)}, "std must be > 0"),
    ],
)
def test_settings_that_cannot_be_meant_raise(keys, message):
    with pytest.raises(ValueError, match=message):
        Llava(**keys)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rank": 0}, "rank must be >= 1, got 0"),
        ({"alpha": 0.0}, "alpha must be > 0, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1"),
    ],
)
def test_low_rank_settings_out_of_range_raise(keys, message):
    with pytest.raises(ValueError, match=message):
        LoRA(**keys)


def test_importing_the_settings_imports_neither_torch_nor_transformers():
    code = "import sys, medalign_core.models.multimodal.settings; print(*(n in sys.modules for n in sys.argv[1:]))"
    shown = subprocess.run(
        [sys.executable, "-c", code, "torch", "transformers"], capture_output=True, text=True, check=True, timeout=60
    )
    assert shown.stdout.split() == ["False", "False"]
