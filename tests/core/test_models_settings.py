import subprocess
import sys

import pytest

from medalign_core.models.settings import ResNet, ViT


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (ResNet, {"embedding_size": 0}, "embedding_size must be >= 1, got 0"),
        (ResNet, {"depths": (1, 1)}, "one entry per stage"),
        (ResNet, {"depths": (1, 0, 1, 1)}, "depths and hidden_sizes must be >= 1"),
        (ResNet, {"layer_type": "wide"}, "layer_type must be 'basic' or 'bottleneck', got 'wide'"),
        (ResNet, {"std": (1.0, 0.0, 1.0)}, "std > 0"),
        (ViT, {"layers": 0}, "layers must be >= 1, got 0"),
        (ViT, {"heads": 5}, "heads must divide hidden_size, got 5 and 768"),
        (ViT, {"patch_size": 15}, "patch_size must divide image_size, got 15 and 224"),
        (ViT, {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        (ViT, {"mean": (0.5, 0.5)}, "one value for each of R, G, B"),
    ],
)
def test_settings_that_cannot_work_raise_with_their_value(kind, change, message):
    with pytest.raises(ValueError, match=message):
        kind(**change)


@pytest.mark.parametrize("module", ["models.settings", "objectives.lvm_med.settings", "objectives.info_nce.settings"])
def test_settings_load_without_the_frameworks(module):
    heavy = ("torch", "ray", "transformers", "scipy")
    code = f"import sys, medalign_core.{module}; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
