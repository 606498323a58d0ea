"""Encoders from local directories: classifiers and whole models lose their heads, lacking weights are refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from striped_corpus import write_corpus
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    SamConfig,
    SamModel,
    SamVisionConfig,
    SamVisionModel,
    ViTConfig,
    ViTForImageClassification,
)

from medalign import export, train
from medalign.build import build_encoder, model_settings, open_backbone, random_encoder
from medalign.checkpoint.trained_encoder import open_encoder
from medalign.errors import UserError
from medalign_core.models.settings import ResNet, SamViT, ViT

VISION = SamVisionConfig(
    image_size=64,
    patch_size=16,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    mlp_dim=32,
    output_channels=16,
    window_size=2,
    global_attn_indexes=[1],
)


def images(size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def sam(tmp_path: Path) -> Path:
    """A whole SamModel with random weights on disk."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "image_size": 64, "patch_size": 16}
    config = SamConfig(
        vision_config=VISION.to_dict(),
        prompt_encoder_config={**sizes, "image_embedding_size": 4},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    )
    SamModel(config).save_pretrained(tmp_path / "sam")
    return tmp_path / "sam"


def test_a_whole_sam_and_its_vision_model_give_the_same_encoder(sam: Path, tmp_path: Path) -> None:
    whole = SamModel.from_pretrained(sam)
    SamVisionModel.from_pretrained(sam, config=whole.config.vision_config).save_pretrained(tmp_path / "vision")
    found = [build_encoder(SamViT(source=str(at)), seed=0).eval() for at in (sam, tmp_path / "vision")]
    for name, value in whole.vision_encoder.state_dict().items():
        assert torch.equal(found[0].backbone.vision_encoder.state_dict()[name], value), name
    torch.testing.assert_close(found[0](images()).map, found[1](images()).map)
    assert type(open_backbone(str(sam), whole=True)) is SamModel
    recipe = {"model": {"type": "sam_vit", "source": str(sam)}}
    assert model_settings(recipe) == SamViT(source=str(sam))
    assert random_encoder(recipe, 1).feature_size == found[0].feature_size == 16


def test_a_classifier_s_directory_gives_its_backbone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    resnet = ResNetForImageClassification(ResNetConfig(**sizes, num_labels=5)).eval()
    resnet.save_pretrained(tmp_path / "resnet")
    vit = ViTForImageClassification(
        ViTConfig(image_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    ).eval()
    vit.save_pretrained(tmp_path / "vit")
    for model, settings, at in ((resnet.resnet, ResNet, "resnet"), (vit.vit, ViT, "vit")):
        encoder = build_encoder(settings(source=str(tmp_path / at)), seed=0)
        own = encoder.backbone.state_dict()
        assert all(torch.equal(own[name], value) for name, value in model.state_dict().items())


def test_a_directory_that_lacks_weights_is_refused_and_not_filled_at_random(sam: Path) -> None:
    file = sam / "model.safetensors"
    weights = load_file(file)
    del weights["vision_encoder.layers.1.attn.qkv.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="model.source = .*lacks 1 weights, vision_encoder.layers.1.attn.qkv.weight"):
        open_backbone(str(sam))


def test_a_run_from_a_sam_trains_exports_and_opens_again(sam: Path, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "stripes", {"train": 40})
    keys = [f"model={{type: sam_vit, source: {sam}}}", "data.image_size=32", "train.steps=2", "train.workers=0"]
    keys += ["train.micro_batch=16", "train.global_batch=16", "train.validate_every=0"]
    run = str(tmp_path / "run")
    train("lvm_med/tiny_cpu", [f"data.corpus={corpus}", f"run.uri={run}", *keys])
    trained = open_encoder(run, checkpoint="latest").eval()
    started = build_encoder(SamViT(source=str(sam)), seed=0).eval()
    assert not torch.allclose(trained(images()).map, started(images()).map)
    export(run, str(tmp_path / "exported"), checkpoint="latest")
    again = open_encoder(str(tmp_path / "exported")).eval()
    torch.testing.assert_close(again(images()).map, trained(images()).map)
