"""Dual encoders from directories and from packages: the real bridge, small saved checkpoints, and what is refused."""

import json
import pickle
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from saved_dual_encoders import WORDS, save_biomed_clip, save_clip, save_clip_resnet, save_tokenizer
from transformers import ResNetConfig

from medalign import config, dual_encoders
from medalign.dual_encoders import open_dual_encoder
from medalign.errors import UserError
from medalign_core.models.dual import bridge as bridging
from medalign_core.models.dual.bridge import ridge_map
from medalign_core.models.dual.settings import BiomedClip, Bridge, Clip


@dataclass(frozen=True, kw_only=True)
class Section:
    model: Any = field(metadata={"table": dual_encoders.DUAL_ENCODERS})


@pytest.fixture(scope="module")
def fitted():
    """Open the bridge and keep what it was fitted on: embedding the thousand names again would take seconds."""
    given = []

    def watched(rows, embeddings, *, strength):
        given.append((rows, embeddings))
        return ridge_map(rows, embeddings, strength=strength)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bridging, "ridge_map", watched)
        encoder = open_dual_encoder(Bridge())
    return encoder, *given[0]


@pytest.fixture(scope="module")
def bridge(fitted):
    return fitted[0]


def pictures(size: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_the_bridge_names_photographs_that_ship_in_a_package(bridge):
    labels = {
        "chelsea.png": "cat",
        "coffee.png": "cup of coffee",
        "rocket.jpg": "rocket",
        "motorcycle_left.png": "motorcycle",
        "astronaut.png": "astronaut",
        "grass.png": "meadow of grass",
        "brick.png": "brick wall",
        "clock_motion.png": "clock",
        "moon.png": "moon",
        "page.png": "page of a book",
    }
    folder = Path(str(metadata.distribution("scikit-image").locate_file("skimage/data")))
    seen = [Image.open(folder / name).convert("RGB").resize((224, 224)) for name in labels]
    images = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in seen])
    texts = bridge.encode_texts([f"a photo of a {name}" for name in labels.values()])
    cosines = torch.nn.functional.cosine_similarity(bridge.image(images).pooled[:, None], texts[None], dim=-1)
    rank = (cosines > cosines.diagonal()[:, None]).sum(1)
    assert (rank == 0).sum() >= 4, rank  # of 10: chance gives 4 or more once in 80 times
    assert (rank < 3).sum() >= 8, rank  # chance: once in 600


def test_the_bridge_finds_names_it_was_not_fitted_on(fitted):
    _, rows, embeddings = fitted
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    seen, unseen = order[:800], order[800:]
    mapped = (rows[unseen] - rows[seen].mean(0)) @ ridge_map(rows[seen], embeddings[seen], strength=Bridge().ridge)
    wanted = embeddings[unseen] - embeddings[seen].mean(0)
    cosines = torch.nn.functional.cosine_similarity(mapped[:, None], wanted[None], dim=-1)
    rank = (cosines > cosines.diagonal()[:, None]).sum(1)
    assert (rank < 5).float().mean() >= 0.55  # of 200; chance: 0.025
    assert (rank < 1).float().mean() >= 0.30


def test_the_bridges_tokeniser_leaves_room_and_refuses_what_is_too_long(bridge):
    prompts = bridge.tokenize(["a photo of a cat", "chest X-ray"], 4)
    assert prompts.ids[0].tolist()[:1] + prompts.ids[0].tolist()[5:] == [101, 1037, 6302, 1997, 1037, 4937, 102]
    assert len(set(prompts.ids[:, 1:5].flatten().tolist())) == 1
    assert prompts.attended.sum(1).tolist() == [11, 10]
    with pytest.raises(ValueError, match=r"'word word.*is 303 tokens long .* takes 256"):
        bridge.tokenize(["short", " ".join(["word"] * 301)], 0)


def test_a_prompts_gradient_reaches_the_bridges_word_embeddings(bridge):
    prompts = bridge.tokenize(["a photo of a cat"], 4)
    embedded = bridge.text.embed(prompts.ids).requires_grad_()
    bridge.text.encode(embedded, prompts.attended).sum().backward()
    assert embedded.grad.abs().sum(-1).gt(0).all()


@pytest.mark.parametrize("part", ["SENTENCE_ENCODER", "CLASSIFIER", "CLASS_NAMES"])
def test_a_missing_package_is_named_with_the_way_out(monkeypatch, part):
    monkeypatch.setattr(dual_encoders, part, ("no-such-package", "9.9", "no/file"))
    with pytest.raises(UserError, match=r"package no-such-package.*pip install 'medalign\[bridge\]'"):
        open_dual_encoder(Bridge())


def test_set_up_installs_the_packages_of_the_bridge():
    root = Path(__file__).parents[2]
    listed, extras = (root / "data-packages.txt").read_text(), (root / "pyproject.toml").read_text()
    for package, version, _ in (
        dual_encoders.SENTENCE_ENCODER,
        dual_encoders.CLASSIFIER,
        dual_encoders.CLASS_NAMES,
    ):
        assert f"{package}=={version}" in listed
        assert f'"{package}=={version}"' in extras
        assert metadata.version(package) == version


def test_a_clip_directory_opens_and_gives_transformers_features(tmp_path):
    model = save_clip(tmp_path)
    encoder = open_dual_encoder(Clip(source=str(tmp_path)))
    ids = torch.tensor([[2, 4, 5, 6, 4, 7, 9]])
    expected = model.get_text_features(input_ids=ids).pooler_output
    torch.testing.assert_close(encoder.encode_texts(["a photo of a cat"]), expected, rtol=0, atol=1e-5)
    assert encoder.image(pictures(32)).tokens.shape == (2, 16, 16)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert encoder.tokenize(["cat"], 2).ids.tolist() == [[2, 3, 3, 7, 9]]
    with pytest.raises(ValueError, match="13 tokens long .* takes 12"):
        encoder.tokenize(["a photo of a cat"], 6)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("{type: bridge}", Bridge()),
        ("{type: bridge, ridge: 10.0, scale: 20.0}", Bridge(ridge=10.0, scale=20.0)),
        ("{type: clip, source: here, visual_prompts: 4}", Clip(source="here", visual_prompts=4)),
        ("{type: biomed_clip}", BiomedClip()),
    ],
)
def test_every_type_of_the_table_is_a_section_of_a_recipe(section, expected):
    assert config.build(Section, config.loads(f"model: {section}", source="recipe.yaml")).model == expected


def test_visual_prompts_are_drawn_from_the_seed_alone(tmp_path):
    save_clip(tmp_path)
    settings = Clip(source=str(tmp_path), visual_prompts=3)
    vectors = [open_dual_encoder(settings, seed=seed).image.prompts.vectors for seed in (1, 1, 2)]
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])


@pytest.mark.parametrize("kind", ["bin", "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"])
def test_a_biomed_clip_directory_opens_from_any_of_its_files(tmp_path, kind):
    save_biomed_clip(tmp_path, kind=kind)
    encoder = open_dual_encoder(BiomedClip(source=str(tmp_path)))
    assert encoder.image(pictures(32)).tokens.shape == (2, 16, 16)
    assert encoder.encode_texts(["a photo of a cat", "dog"]).shape == (2, 16)
    assert encoder.scale == pytest.approx(20.0855, abs=1e-3)
    with pytest.raises(ValueError, match="11 tokens long .* takes 10"):
        encoder.tokenize(["a photo of a cat"], 4)


def test_what_is_no_clip_is_refused_in_one_line(tmp_path):
    ResNetConfig().save_pretrained(tmp_path / "resnet")
    save_clip(tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").write_bytes(b"no weights")
    for name, message in (
        ("none", "not a transformers CLIP that can be opened"),
        ("resnet", "of type resnet, not clip"),
        ("bare", "not a transformers CLIP that can be opened"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            open_dual_encoder(Clip(source=str(tmp_path / name)))
        assert "\n" not in str(caught.value)


def test_a_clip_that_lacks_weights_is_refused_rather_than_filled_at_random(tmp_path):
    model = save_clip(tmp_path)
    state = {name: value for name, value in model.state_dict().items() if "text_projection" not in name}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 weights of a CLIP, text_projection.weight among them"):
        open_dual_encoder(Clip(source=str(tmp_path)))


def test_a_tokeniser_of_another_model_is_refused(tmp_path):
    save_clip(tmp_path)
    save_tokenizer(tmp_path, (*WORDS, "more", "words"), bos_token="<start>", eos_token="<end>")
    with pytest.raises(UserError, match="tokenizer is another model's; it has 12 tokens for 10 embeddings"):
        open_dual_encoder(Clip(source=str(tmp_path)))
    save_tokenizer(tmp_path)
    with pytest.raises(UserError, match="bos_token_id None"):
        open_dual_encoder(Clip(source=str(tmp_path)))


def test_a_clip_with_a_resnet_opens_from_an_open_clip_directory(tmp_path):
    save_clip_resnet(tmp_path)
    encoder = open_dual_encoder(Clip(source=str(tmp_path)))
    assert encoder.image(pictures(32)).tokens.shape == (2, 1, 16)
    assert encoder.encode_texts(["a photo of a cat", "dog"]).shape == (2, 16)
    with pytest.raises(UserError, match="visual_prompts must be 0 for a ResNet"):
        open_dual_encoder(Clip(source=str(tmp_path), visual_prompts=2))
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match="there is no open_clip_model.safetensors or"):
        open_dual_encoder(Clip(source=str(tmp_path)))


def test_a_directory_without_a_tokeniser_is_refused_rather_than_read_without_words(tmp_path):
    save_clip(tmp_path)
    for path in tmp_path.glob("token*"):
        path.unlink()
    with pytest.raises(UserError, match="its tokenizer knows no words"):
        open_dual_encoder(Clip(source=str(tmp_path)))


def test_what_is_no_biomed_clip_is_refused_in_one_line(tmp_path):
    save_biomed_clip(tmp_path / "whole", kind="bin")
    config = json.loads((tmp_path / "whole" / "open_clip_config.json").read_text())

    def attempt(message: str, source: Path = tmp_path / "whole") -> None:
        with pytest.raises(UserError, match=message) as caught:
            open_dual_encoder(BiomedClip(source=str(source)))
        assert "\n" not in str(caught.value)

    attempt("not a directory, or a hub id with a network", tmp_path / "none")
    config["model_cfg"]["vision_cfg"]["timm_model_name"] = "resnet50"
    (tmp_path / "whole" / "open_clip_config.json").write_text(json.dumps(config))
    attempt(r"timm_model_name must be a vit_\*")
    (tmp_path / "whole" / "open_clip_config.json").write_text("{")
    attempt("not a BiomedCLIP as open_clip saves it")
    (tmp_path / "whole" / "open_clip_config.json").write_text("{}")
    attempt("not a BiomedCLIP as open_clip saves it")
    (tmp_path / "whole" / "open_clip_pytorch_model.bin").unlink()
    attempt("there is no open_clip_model.safetensors or")


def test_a_pickle_in_place_of_weights_does_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "mark",)

    save_biomed_clip(tmp_path, kind="bin")
    for planted in (pickle.dumps(Bomb(), protocol=2), b"nothing"):
        (tmp_path / "open_clip_pytorch_model.bin").write_bytes(planted)
        with pytest.raises(UserError, match="not a file of weights that can be opened"):
            open_dual_encoder(BiomedClip(source=str(tmp_path)))
    torch.save({"logit_scale": Bomb()}, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(UserError, match="not a file of weights that can be opened"):
        open_dual_encoder(BiomedClip(source=str(tmp_path)))
    assert not (tmp_path / "mark").exists()
