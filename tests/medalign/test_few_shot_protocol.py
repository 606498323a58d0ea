"""A whole comparison with a small encoder: features encoded once, cells resumed, halves of classes, explained plans."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from few_shot_recipe import built, write_bank, write_classes, write_recipe

from medalign.data.settings import Views
from medalign.dual_encoders import open_dual_encoder
from medalign.errors import BankError, CorpusError, MedAlignError, RecipeError
from medalign.few_shot import features as encoding
from medalign.few_shot import few_shot
from medalign.few_shot.cells import Cell
from medalign.few_shot.explaining import explain
from medalign.few_shot.features import FeatureCache, read_labels
from medalign.reports.plans import render
from medalign_core.models.dual.settings import Clip

DUDE = {"settings": {"type": "dude", "shared_n": 2, "shared_len": 2, "class_k": 2}, "epochs": 2, "views": 2}
VIEWS = Views(scale=(0.5, 1.0))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("few"))


@pytest.fixture
def document(world, tmp_path):
    return {**world, "out": str(tmp_path / "out"), "methods": dict(world["methods"]), "primary": dict(world["primary"])}


@pytest.fixture(scope="module")
def tower(world):
    return open_dual_encoder(Clip(source=world["encoder"]["source"])).image


def corpus_of(document):
    return document["tasks"]["colours"]["train"]


def cells_of(document):
    return {path.name: path.stat().st_mtime_ns for path in Path(document["out"]).glob("cells/*/*.parquet")}


def test_features_are_encoded_once_for_each_encoder_and_setting_of_views(world, tower, tmp_path, monkeypatch):
    cache = FeatureCache(uri=str(tmp_path), tower=tower, fingerprint="one")
    rows = read_labels(corpus_of(world), "train")
    known = {"views": VIEWS, "count": 2, "seed": 0}
    first = cache.features(corpus_of(world), "train", rows, **known)
    assert first.tokens.shape == (48, 3, 16, 16)
    monkeypatch.setattr(encoding, "decode_image", None)  # whoever encodes now fails
    again = cache.features(corpus_of(world), "train", rows, **known)
    assert np.array_equal(first.tokens, again.tokens)
    assert np.array_equal(first.pooled, again.pooled)
    monkeypatch.undo()
    for changes, fingerprint in (({}, "two"), ({"views": Views(scale=(0.6, 1.0))}, "one"), ({"seed": 1}, "one")):
        other = FeatureCache(uri=str(tmp_path), tower=tower, fingerprint=fingerprint)
        other.features(corpus_of(world), "train", rows, **{**known, **changes})
    assert len(list(tmp_path.iterdir())) == 4


def test_an_image_that_cannot_be_decoded_is_left_out(tower, tmp_path):
    corpus = write_classes(tmp_path / "corpus", {"train": 3}, broken="train-4")
    cache = FeatureCache(uri=str(tmp_path / "cache"), tower=tower, fingerprint="one")
    rows = read_labels(corpus, "train")
    found = cache.features(corpus, "train", rows, views=None, count=0, seed=0)
    assert "train-4" not in found.rows.ids
    assert len(found.rows.ids) == len(found.tokens) == 11
    assert found.places(["train-5", "train-4", "train-0"]).tolist() == [4, 0]
    assert found.rows.ids[4] == "train-5"


def test_features_are_those_of_the_tower(world, tower, tmp_path):
    cache = FeatureCache(uri=str(tmp_path), tower=tower, fingerprint="one")
    rows = read_labels(corpus_of(world), "test")
    found = cache.features(corpus_of(world), "test", rows, views=None, count=0, seed=0)
    images = dict(encoding.read_images(corpus_of(world), "test", [rows.ids[7]]))
    pixels = encoding.decode_image(images[rows.ids[7]], tower.image_size)
    with torch.no_grad():
        alone = tower(torch.from_numpy(pixels)[None])
    assert np.allclose(found.pooled[7, 0], alone.pooled[0], atol=1e-5)
    assert np.allclose(found.tokens[7, 0], alone.tokens[0], atol=2e-3)


def test_only_what_is_missing_or_made_of_other_things_runs_again(document):
    document["methods"]["dude"] = DUDE
    few_shot(built(document))
    before = cells_of(document)
    assert len(before) == 3 * 2 * 2
    few_shot(built(document))
    assert cells_of(document) == before
    next(Path(document["out"]).glob("cells/*/linear_probe-2shots-seed1.parquet")).unlink()
    few_shot(built(document))
    after = cells_of(document)
    assert {name for name in before if after[name] != before[name]} == {"linear_probe-2shots-seed1.parquet"}
    document["methods"]["dude"] = {**DUDE, "epochs": 1}
    few_shot(built(document))
    changed = cells_of(document)
    assert {name for name in after if changed[name] != after[name]} == {n for n in after if n.startswith("dude")}
    bank = Path(document["out"]).parent / "other.json"
    task = {**document["tasks"]["colours"], "bank": write_bank(bank, sentences=("photo of a {}", "a {}"))}
    few_shot(built({**document, "tasks": {"colours": task}}))
    assert all(cells_of(document)[name] != changed[name] for name in changed)


def test_a_cell_says_how_its_plans_fared(document):
    document["methods"]["dude"] = DUDE
    few_shot(built({**document, "shots": [2], "seeds": [0]}))
    path = next(Path(document["out"]).glob("cells/*/dude-*.parquet"))
    said = pq.read_schema(path).metadata[b"training"].decode()
    assert '"plan_entropy"' in said
    assert '"epoch": 1' in said


def test_base_to_new_trains_on_half_of_the_classes_and_tests_both_halves(document):
    document["methods"]["dude"] = DUDE
    document["primary"] |= {"method": "dude"}
    found = few_shot(built({**document, "base_to_new": True}))
    tests = {(e.test, e.method) for e in found.entries}
    assert ("colours, new", "dude") in tests
    assert ("colours, base", "linear_probe") in tests
    assert ("colours, new", "linear_probe") not in tests
    assert found.left_out == ("linear_probe",)
    assert "No answer to new classes" in found.markdown()
    for line in found.generalisation:
        assert line.harmonic_of_means == pytest.approx(2 * line.base * line.new / (line.base + line.new))
    table = pq.read_table(next(Path(document["out"]).glob("cells/*/dude-2shots-seed0.parquet"))).to_pylist()
    assert {row["label"] for row in table} == {0, 1}
    assert {len(row["probabilities"]) for row in table} == {2}
    assert {row["id"] for row in table if row["test"] == "colours, new"}.isdisjoint(
        row["id"] for row in table if row["test"] == "colours, base"
    )


def test_base_to_new_declares_no_method_without_an_answer(document):
    with pytest.raises(RecipeError, match="no answer to new classes"):
        built({**document, "base_to_new": True})


def test_a_fine_tuned_cnn_reads_its_own_features_and_learns(document):
    document["methods"]["cnn"] = {"settings": {"type": "fine_tuned_cnn"}, "epochs": 4}
    found = few_shot(built({**document, "seeds": [0], "shots": [2]}))
    reached = {e.method: e.value.estimate for e in found.entries if e.metric == "balanced_accuracy"}
    assert reached["cnn"] > 0.6  # four colours


def test_plans_are_explained_as_a_page_of_its_own(document):
    document["methods"]["dude"] = DUDE
    recipe = built(document)
    found = explain(recipe, Cell(task="colours", method="dude", shots=2, seed=0), images=1)
    for seen in found.images.values():
        for name, plan in seen[0].plans.items():
            assert plan.shape[1:] == (4, 4)
            assert plan.mean() == pytest.approx(1, abs=1e-4)
            assert seen[0].marginals[name].sum() == pytest.approx(1, abs=1e-4)
    page = render(replace(found, sentences={"cat": ("<b>bold</b>",)}))
    assert "&lt;b&gt;bold" in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "<script" not in page
    with pytest.raises(RecipeError, match="seed 9 is not in the recipe"):
        explain(recipe, Cell(task="colours", method="dude", shots=2, seed=9))
    with pytest.raises(RecipeError, match="nothing to draw"):
        explain(recipe, Cell(task="colours", method="linear_probe", shots=2, seed=0))


@pytest.mark.parametrize(
    ("change", "kind", "expected"),
    [
        ({"bank": "ready:nothing"}, BankError, "no such bank"),
        ({"train": "nowhere"}, CorpusError, "nowhere"),
    ],
)
def test_what_a_task_lacks_is_refused_before_anything_is_encoded(document, change, kind, expected):
    task = {**document["tasks"]["colours"], **change}
    with pytest.raises(kind, match=expected):
        few_shot(built({**document, "tasks": {"colours": task}}))
    assert not Path(document["out"]).exists()


def test_too_few_images_and_other_classes_are_refused(document, tmp_path):
    with pytest.raises(CorpusError, match="fewer than the 16"):
        few_shot(built({**document, "shots": [2, 16]}))
    other = write_classes(tmp_path / "other", {"test": 3}, classes=("cat", "dog", "of", "x"))
    task = {**document["tasks"]["colours"], "tests": {"other": other}}
    with pytest.raises(CorpusError, match="has the classes"):
        few_shot(built({**document, "tasks": {"colours": task}}))


def test_a_prompt_too_long_for_the_tower_names_the_method(document):
    document["methods"]["coop"] = {"settings": {"type": "coop"}}  # 16 vectors, the tower reads 12 tokens
    with pytest.raises(MedAlignError, match="methods.coop, task colours"):
        few_shot(built(document))


def test_visual_prompts_are_refused_since_features_are_kept(document):
    encoder = {**document["encoder"], "visual_prompts": 2}
    with pytest.raises(RecipeError, match="visual_prompts"):
        few_shot(built({**document, "encoder": encoder}))


@pytest.mark.slow
def test_cells_on_ray_are_those_of_this_process(document, ray_local, tmp_path):
    document["methods"]["dude"] = DUDE
    few_shot(built(document))
    there = {**document, "out": str(tmp_path / "ray"), "workers": 2}
    few_shot(built(there))
    for name in cells_of(document):
        here, remote = (pq.read_table(next(Path(d["out"]).glob(f"cells/*/{name}"))) for d in (document, there))
        first, second = (np.array(t["probabilities"].to_pylist()) for t in (here, remote))
        assert np.abs(first - second).max() < 1e-5
