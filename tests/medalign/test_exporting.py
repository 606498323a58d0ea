"""An exported encoder loads with transformers alone and gives the same features."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from striped_corpus import striped_png
from trained_run import write_run
from transformers import AutoImageProcessor, AutoModel

from medalign.build import open_backbone
from medalign.checkpoint.trained_encoder import open_encoder
from medalign.data.decode import decode_image
from medalign.errors import RunError, StorageError
from medalign.evaluation.source import image_size
from medalign.exporting import export, write_encoder
from medalign_core.models.settings import ResNet, ViT

MODELS = {
    "resnet": ResNet(embedding_size=8, hidden_sizes=(8, 16), depths=(1, 1), layer_type="basic", std=(0.2, 0.25, 0.3)),
    "vit": ViT(image_size=32, patch_size=8, hidden_size=16, layers=2, heads=2, mlp_size=32, mean=(0.4, 0.5, 0.6)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_plain_transformers_gives_the_same_features(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    encoder = MODELS[kind].build().eval()
    done = write_encoder(encoder, str(tmp_path / "out"), size=32)
    assert set(done.files) == {"config.json", "model.safetensors", "preprocessor_config.json"}
    data = striped_png("down", np.random.default_rng(0), size=32)
    (tmp_path / "image.png").write_bytes(data)

    model, processor = (loader.from_pretrained(done.uri) for loader in (AutoModel, AutoImageProcessor))
    inputs = processor(Image.open(tmp_path / "image.png"), return_tensors="pt")
    with torch.inference_mode():
        theirs = model.eval()(**inputs).last_hidden_state
        ours = encoder(torch.from_numpy(decode_image(data, 32))[None])
    pooled = theirs.mean((2, 3)) if kind == "resnet" else theirs[:, 1:].mean(1)
    torch.testing.assert_close(pooled, ours.pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_an_exported_directory_opens_again_bit_for_bit_and_knows_its_image_size(tmp_path: Path, kind: str) -> None:
    encoder = MODELS[kind].build().eval()
    write_encoder(encoder, str(tmp_path / "out"), size=48)
    again = open_backbone(str(tmp_path / "out")).state_dict()
    assert image_size(str(tmp_path / "out")) == 48
    for name, value in encoder.backbone.state_dict().items():
        assert torch.equal(again[name], value), name


def test_a_runs_best_checkpoint_is_exported_with_the_runs_image_size(tmp_path: Path) -> None:
    encoder = write_run(tmp_path / "run", seed=5)
    done = export(str(tmp_path / "run"), str(tmp_path / "out"))
    again = open_encoder(done.uri)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(again.eval()(images).pooled, encoder.eval()(images).pooled)
    assert image_size(done.uri) == image_size(str(tmp_path / "run")) == 32


def test_an_encoder_with_its_own_mean_and_std_comes_back_with_them(tmp_path: Path) -> None:
    encoder = MODELS["resnet"].build().eval()
    again = open_encoder(write_encoder(encoder, str(tmp_path / "out"), size=32).uri).eval()
    assert (again.mean, again.std) == (encoder.mean, encoder.std)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(again(images).pooled, encoder(images).pooled)


def test_the_preprocessor_carries_the_runs_own_numbers(tmp_path: Path) -> None:
    write_encoder(MODELS["resnet"].build(), str(tmp_path), size=64)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert written["image_std"] == [0.2, 0.25, 0.3]
    assert written["crop_size"] == {"height": 64, "width": 64}


def test_a_place_that_holds_files_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(StorageError, match="holds 1 files already"):
        write_encoder(MODELS["resnet"].build(), str(tmp_path), size=32)
    with pytest.raises(StorageError, match="holds 1 files already"):
        export(str(tmp_path / "run"), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_place_that_does_not_say_its_image_size_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError, match="give the image size"):
        image_size(str(tmp_path))
