"""The arms table: its statements leak nothing, its splits share nobody, its cells are stored, its accuracy is right."""

import importlib
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

BENCH = Path(__file__).resolve().parents[2] / "bench"
NAMES = ("cached_features", "pictures", "statements", "words", "arms", "cells", "table")


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    places = [str(BENCH), str(BENCH / "logra_arms")]
    sys.path[:0] = places
    found: dict[str, ModuleType] = {name: importlib.import_module(name) for name in NAMES}
    yield SimpleNamespace(**found)
    for place in places:
        sys.path.remove(place)
    for name in NAMES:
        sys.modules.pop(name, None)


def _all_pictures(bench: Any) -> list[Any]:
    """Return a picture for every combination of facts; scans under many names, whose hashes choose their question."""
    facts: list[tuple[str, dict[str, int | str]]] = []
    for platelets, red, half in itertools.product(range(7), (3, 11, 12, 25), ("", "left", "right")):
        facts.append(("smear", {"platelets": platelets, "red cells": red, **({"half": half} if half else {})}))
    for ill, age in itertools.product(("normal", "pneumonia"), ("child", "adult")):
        facts.append(("chest", {"pneumonia": ill, "age": age}))
    facts += [("scan", {"organ": organ}) for organ in ("head", "chest", "abdomen") for _ in range(40)]
    return [
        bench.pictures.Picture(
            name=f"{kind}/{n}", path=Path(f"{n}.jpg"), kind=kind, group=f"{kind}/{n}", split="test", facts=known
        )
        for n, (kind, known) in enumerate(facts)
    ]


def test_no_extended_answer_states_what_answers_another_question_on_the_same_image(bench: Any) -> None:
    found = [bench.statements.statements_of(picture) for picture in _all_pictures(bench)]
    assert [leak for statements in found for leak in bench.statements.leaks(statements)] == []
    kinds = {each.kind for statements in found for each in statements}
    assert kinds == {"yes or no", "count", "which", "describe"}
    assert all(each.extended != each.answer for statements in found for each in statements)


def test_an_extended_answer_that_tells_another_ones_answer_is_found(bench: Any) -> None:
    picture = _all_pictures(bench)[1]
    own, other, *_ = bench.statements.statements_of(picture)
    told = type(own)(**{**vars(own), "extended": "two platelets among crowded red cells"})
    assert len(bench.statements.leaks([told, other])) == 2  # "red" and "crowded"


def test_no_photograph_patient_or_scan_is_in_two_splits(bench: Any, tmp_path: Path) -> None:
    voc, chest, scans = tmp_path / "bccd" / "BCCD", tmp_path / "chest_xray_two_sites", tmp_path / "vqa_rad"
    for split in ("train", "val", "test"):
        (voc / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (voc / "Annotations").mkdir(exist_ok=True)
        (voc / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{split}1\n")
        box = "<bndbox><xmin>400</xmin><xmax>500</xmax></bndbox>"
        objects = f"<object><name>WBC</name>{box}</object><object><name>RBC</name></object>"
        (voc / "Annotations" / f"{split}1.xml").write_text(f"<annotation>{objects}</annotation>")
    for place, names in {
        "site_a/train/pneumonia": [f"person{n}_virus_{k}.jpeg" for n in range(9) for k in range(3)],
        "site_a/test/pneumonia": ["person1_virus_77.jpeg"],
        "site_b/normal": [f"{n:08d}_{k:03d}.jpg" for n in range(20) for k in range(2)],
    }.items():
        (chest / place).mkdir(parents=True)
        for name in names:
            (chest / place / name).touch()
    scans.mkdir()
    asked = [{"image_name": f"{n // 2}.jpg", "image_organ": "HEAD"} for n in range(40)]
    (scans / "vqa_rad.json").write_text(json.dumps(asked))
    found = bench.pictures.list_pictures(tmp_path)
    where: dict[str, set[str]] = {}
    for picture in found:
        where.setdefault(picture.group, set()).add(picture.split)
    assert all(len(splits) == 1 for splits in where.values())
    assert where["chest/child/person1"] == {"test"}
    assert {picture.facts.get("half") for picture in found if picture.kind == "smear"} == {"right"}
    assert {picture.split for picture in found} == {"train", "val", "test"}


def test_an_image_travels_through_the_model_as_its_number(bench: Any) -> None:
    numbers = [0, 255, 256, 70_000]
    pixels = torch.from_numpy(bench.cached_features.numbered(numbers)).long()[:, :, 0, 0]
    assert (pixels[:, 0] + 256 * pixels[:, 1] + 65536 * pixels[:, 2]).tolist() == numbers


def _small(bench: Any) -> Any:
    chosen = [p for p in _all_pictures(bench) if p.kind != "scan" or int(p.name.split("/")[1]) % 8 == 0][::3]
    splits = itertools.cycle(("train", "train", "test", "val"))
    pictures = [type(p)(**{**vars(p), "split": split}) for p, split in zip(chosen, splits, strict=False)]
    return bench.cells.Material(pictures=pictures, features=torch.rand(len(pictures) + 1, 4, 1280))


@pytest.mark.parametrize("arm", ["autoregressive", "LoGra-Med, barycenter", "autoregressive + extended as data"])
def test_a_cell_is_trained_once_and_then_read(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str
) -> None:
    monkeypatch.setattr(bench.cells, "STEPS", 2)
    material = _small(bench)
    cell = bench.cells.Cell(arm=arm, share=1.0, seed=0, rate=1e-3, alpha=0.3)
    first = bench.cells.run_cell(cell, bench.arms.ARMS[arm], material, tmp_path)
    asked = [s.id for n in material.places("test") for s in bench.statements.statements_of(material.pictures[n])]
    assert set(first["answers"]) == set(first["blank"]) == set(first["shuffled"]) == set(asked)
    assert first["steps"] == 2
    assert ("last_hamming" in first["stats"]) == ("LoGra" in arm)
    monkeypatch.setattr(bench.cells, "_train", None)  # nothing is trained again
    again = bench.cells.run_cell(cell, bench.arms.ARMS[arm], material, tmp_path)
    assert again == json.loads(json.dumps(first))


def test_accuracy_is_the_mean_over_types_and_resamples_pictures(bench: Any) -> None:
    pictures = [p for p in _all_pictures(bench) if p.kind == "chest"]
    accuracy = bench.table.Accuracy(pictures)
    asked = [s for p in pictures for s in bench.statements.statements_of(p)]
    answers = {s.id: s.answer if s.kind != "which" else "child" for s in asked}
    assert accuracy.types == ["chest, which", "chest, yes or no", "describe"]
    assert accuracy.per_type(answers) == [0.5, 1.0, 1.0]
    statistic = accuracy.statistic(answers)
    assert statistic(np.ones((1, 4)))[0] == pytest.approx(2.5 / 3)
    children = np.array([[float(p.facts["age"] == "child") for p in sorted(pictures, key=lambda p: p.group)]])
    assert statistic(children)[0] == pytest.approx(1.0)
