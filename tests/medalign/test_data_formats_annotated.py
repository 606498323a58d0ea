"""Corpora with masks, volumes, boxes and attributes: what is stored is what the source says."""

import json
from pathlib import Path

import nibabel
import numpy as np
import published_layouts
import pytest
from drawn_images import encoded, pixels
from prepared_here import run_here

from medalign.data import images, job, manifest, prepare, reader, validate
from medalign.errors import CorpusError, QuarantineError


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "run", run_here)


def rows_of(corpus: str) -> list[dict]:
    found = manifest.read(corpus)
    return [row for split in found.splits for batch in reader.read_rows(corpus, split) for row in batch.to_pylist()]


def write_pairs(root: Path, *, count: int = 6, level: int = 255, suffix: str = "") -> Path:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        mask = np.zeros((20, 24), dtype=np.uint8)
        mask[2 : 4 + number, 3:9] = level
        (root / "images" / f"case{number}.png").write_bytes(encoded(pixels(number, size=(20, 24))))
        (root / "masks" / f"case{number}{suffix}.png").write_bytes(encoded(mask))
    return root


@pytest.mark.parametrize("level", [1, 255])
def test_masks_become_class_indices_beside_their_images(tmp_path: Path, level: int) -> None:
    source = write_pairs(tmp_path / "source", level=level, suffix="_seg")
    out = str(tmp_path / "corpus")
    options = {"mask_suffix": "_seg", "classes": "background,lesion"}
    made = prepare.prepare(str(source), format="masks", out=out, options=options)
    assert (made.task, made.schema, made.mask_classes) == (
        "annotated",
        "medalign.corpus/4",
        ("background", "lesion"),
    )
    assert manifest.read(out) == made
    areas = sorted(int(images.decode_mask(row["mask"]).sum()) for row in rows_of(out))
    assert areas == [6 * (2 + number) for number in range(6)]
    assert validate.validate(out).is_valid


def test_a_mask_is_scaled_with_its_image_and_keeps_its_classes(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "source")
    out = str(tmp_path / "corpus")
    prepare.prepare(str(source), format="masks", out=out, max_side=12)
    for row in rows_of(out):
        mask = images.decode_mask(row["mask"])
        assert mask.shape == (row["height"], row["width"]) == (10, 12)
        assert set(np.unique(mask)) <= {0, 1}


def test_levels_that_are_no_class_and_masks_that_are_missing_are_quarantined(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "source", level=7)
    with pytest.raises(QuarantineError, match="value 7, which is no class's"):
        prepare.prepare(
            str(source),
            format="masks",
            out=str(tmp_path / "a"),
            options={"classes": "background,organ,lesion", "values": "0,1,2"},
        )
    (source / "masks" / "case0.png").unlink()
    with pytest.raises(QuarantineError, match="no mask"):
        prepare.prepare(str(source), format="masks", out=str(tmp_path / "b"))


def test_a_table_gives_attributes_labels_and_groups(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "source")
    lines = ["path,mask,label,group,split,site,sex"]
    for number in range(6):
        split = ("train", "val", "test")[number % 3]
        mask = f"masks/case{number}.png" if number else ""
        lines.append(f"images/case{number}.png,{mask},ill,patient{number},{split},site{number % 2},")
    (source / "table.csv").write_text("\n".join(lines))
    out = str(tmp_path / "corpus")
    options = {"attributes": "site,sex"}
    made = prepare.prepare(str(source / "table.csv"), format="masks", out=out, options=options)
    assert {name: split.rows for name, split in made.splits.items()} == {"test": 2, "train": 2, "val": 2}
    found = rows_of(out)
    assert sorted(row["attributes"][0]["value"] for row in found) == ["site0"] * 3 + ["site1"] * 3
    assert all([each["name"] for each in row["attributes"]] == ["site"] for row in found)  # an empty cell is none
    assert sum(row["mask"] is None for row in found) == 1
    with pytest.raises(CorpusError, match="no column 'scanner'"):
        prepare.prepare(
            str(source / "table.csv"), format="masks", out=str(tmp_path / "x"), options={"attributes": "scanner"}
        )


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_volumes_become_slices_with_masks_places_and_spacing(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / "source"
    draw = np.random.default_rng(0)
    for name in ("one", "two", "three"):
        levels = draw.normal(100, 20, size=(9, 8, 5)).astype(np.float32)
        labels = np.zeros((9, 8, 5), dtype=np.int16)
        labels[2:5, 1:4, 2] = 420
        affine = np.diag([0.5, 0.75, 3.0, 1.0])
        for folder, values in (("images", levels), ("masks", labels)):
            (source / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values, affine), source / folder / f"{name}{suffix}")
    out = str(tmp_path / "corpus")
    options = {"classes": "background,atrium", "values": "0,420"}
    prepare.prepare(str(source), format="nifti", out=out, options=options)
    found = rows_of(out)
    assert len(found) == 15
    assert len({row["volume"] for row in found}) == 3
    assert all(row["spacing"] == [3.0, 0.5, 0.75] for row in found)
    for row in found:
        mask = images.decode_mask(row["mask"])
        assert mask.sum() == (9 if row["slice"] == 2 else 0)
        assert images.decode(row["image"]).size == (8, 9)  # width, height: the axes that are left, in order
    groups = {row["volume"]: {r["group"] for r in found if r["volume"] == row["volume"]} for row in found}
    assert all(len(each) == 1 for each in groups.values())


def test_clipping_maps_the_window_to_the_whole_range(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    levels = np.tile(np.array([-1000, -160, 40, 240, 3000], dtype=np.float32)[:, None, None], (1, 4, 10))
    for number in range(10):
        nibabel.save(nibabel.Nifti1Image(levels + number * 0, np.eye(4)), tmp_path / "s" / f"v{number}.nii")
    out = str(tmp_path / "corpus")
    options = {"classes": "", "images": "", "window": "-160,240"}
    prepare.prepare(str(tmp_path / "s"), format="nifti", out=out, options=options)
    shown = np.asarray(images.decode(rows_of(out)[0]["image"]))
    assert shown[:, 0].tolist() == [0, 0, 128, 255, 255]


def test_coco_boxes_are_those_of_the_json(tmp_path: Path) -> None:
    for shift, (split, count) in enumerate((("train", 4), ("val", 2), ("test", 2))):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        pictures = [{"id": n, "file_name": f"{split}{n}.png", "width": 24, "height": 20} for n in range(count)]
        for each in pictures:
            (tmp_path / "pictures" / each["file_name"]).write_bytes(encoded(pixels(10 * shift + each["id"])))
        notes = [{"id": n, "image_id": n, "category_id": 3, "bbox": [2, 3, 30, 5], "iscrowd": 0} for n in range(count)]
        notes.append({"id": 99, "image_id": 0, "category_id": 3, "bbox": [0, 0, 1, 1], "iscrowd": 1})
        raw = {"images": pictures, "annotations": notes, "categories": [{"id": 3, "name": "cell"}]}
        (tmp_path / f"instances_{split}2017.json").write_text(json.dumps(raw))
    out = str(tmp_path / "corpus")
    made = prepare.prepare(str(tmp_path), format="coco", out=out, options={"images": "pictures"})
    assert {name: split.rows for name, split in made.splits.items()} == {"test": 2, "train": 4, "val": 2}
    for row in rows_of(out):
        assert row["boxes"] == [{"label": "cell", "left": 2, "top": 3, "right": 24, "bottom": 8}]


def test_a_folder_for_each_class_becomes_one_mask_in_which_a_later_class_wins(tmp_path: Path) -> None:
    source = published_layouts.jsrt(tmp_path / "jsrt")
    organs = "right lung,left lung,heart,right clavicle,left clavicle"
    out = str(tmp_path / "corpus")
    options = {"masks": organs, "classes": f"background,{organs}"}
    made = prepare.prepare(str(source), format="masks", out=out, options=options)
    assert made.mask_classes[5] == "left clavicle"
    found = sorted(rows_of(out), key=lambda row: row["pixels"])
    assert len(found) == published_layouts.COUNT
    for row in found:
        mask = images.decode_mask(row["mask"])
        assert (mask == 5).sum() == 13 * 13  # the last class is whole
        assert set(np.unique(mask)) <= set(range(6))


def test_suffixes_tell_images_from_masks_and_further_masks_are_joined(tmp_path: Path) -> None:
    source = published_layouts.buid(tmp_path / "buid")
    out = str(tmp_path / "corpus")
    options = {"images": "", "masks": "", "mask_suffix": "_mask"}
    prepare.prepare(str(source), format="masks", out=out, options=options)
    areas = sorted(int(images.decode_mask(row["mask"]).sum()) for row in rows_of(out))
    assert len(areas) == published_layouts.COUNT
    assert areas[:-1] == [169] * (published_layouts.COUNT - 1)
    assert areas[-1] > 169  # two lesions in one image
    drive = published_layouts.drive(tmp_path / "drive")
    options = {"masks": "1st_manual", "image_suffix": "_training,_test", "mask_suffix": "_manual1"}
    made = prepare.prepare(str(drive), format="masks", out=f"{out}-2", options=options, fractions={"val": 0.2})
    assert {name: split.rows for name, split in made.splits.items()} == {"test": 4, "train": 7, "val": 1}


def test_boxes_go_around_the_connected_pieces_of_a_mask(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "source", count=1)
    mask = np.zeros((20, 24), dtype=np.uint8)
    mask[2:5, 3:9] = mask[10:12, 0:4] = 255
    (source / "masks" / "case0.png").write_bytes(encoded(mask))
    out = str(tmp_path / "corpus")
    options = {"boxes": True, "classes": "background,lesion"}
    prepare.prepare(str(source), format="masks", out=out, options=options, fractions={})
    (row,) = rows_of(out)
    corners = sorted([box[name] for name in ("left", "top", "right", "bottom")] for box in row["boxes"])
    assert corners == [[0, 10, 4, 12], [3, 2, 9, 5]]
    assert {box["label"] for box in row["boxes"]} == {"lesion"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": "lesion"}, "classes must be 2 to 255 different names"),
        ({"classes": "a,b", "values": "0"}, "values must be 2 different whole numbers"),
        ({"images": "pictures"}, "no images below a folder 'pictures'"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_the_way_out(tmp_path: Path, options: dict, message: str) -> None:
    source = write_pairs(tmp_path / "source")
    with pytest.raises(CorpusError, match=message):
        prepare.prepare(str(source), format="masks", out=str(tmp_path / "corpus"), options=options)
