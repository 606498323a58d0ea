"""The VOC reader: boxes, official lists, and crops whose window is the same for every class."""

import numpy as np
import pytest
from drawn_images import encoded, pixels
from PIL import Image

from medalign.data import formats
from medalign.data.formats import voc
from medalign.data.images import ImageReject
from medalign.data.items import Box
from medalign.errors import CorpusError

PHOTO = (120, 160)  # height, width


def _xml(objects, *, size=(PHOTO[1], PHOTO[0])):
    boxes = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for name, x1, y1, x2, y2 in objects
    )
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{boxes}</annotation>"


@pytest.fixture
def voc_folder(tmp_path):
    """Return a VOC folder of three photographs: one with three objects, one with one, one with none."""
    root = tmp_path / "set" / "VOC"
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    objects = {
        "a": [("big", 11, 21, 90, 100), ("small", 71, 51, 80, 60), ("small", 1, 1, 10, 10)],
        "b": [("mid", 121, 81, 160, 120)],
        "c": [],
    }
    for number, (stem, found) in enumerate(objects.items()):
        (root / "Annotations" / f"{stem}.xml").write_text(_xml(found))
        (root / "JPEGImages" / f"{stem}.png").write_bytes(encoded(pixels(number, size=PHOTO, channels=3)))
    for split, names in {"train": "a\nc\n", "val": "b\n", "trainval": "a\nb\nc\n"}.items():
        (root / "ImageSets/Main" / f"{split}.txt").write_text(names)
    return root


def _list(source, **options):
    return {item.key: item for item in voc.list_items(str(source), formats.complete("voc", options))}


def test_photographs_come_with_boxes_and_official_splits(voc_folder):
    items = _list(voc_folder.parent)
    assert {key: item.split for key, item in items.items()} == {"a": "train", "b": "val", "c": "train"}
    content = voc.read_item(items["a"], {})
    assert content.boxes[0] == Box(label="big", left=10, top=20, right=90, bottom=100)  # VOC counts from 1, inclusive
    assert np.array_equal(content.image, pixels(0, size=PHOTO, channels=3))
    assert voc.read_item(items["c"], {}).boxes == ()


def test_a_crop_is_the_same_window_for_every_class_centred_on_the_object(voc_folder):
    items = _list(voc_folder, crops=True, window=32)
    assert {key: item.label for key, item in items.items()} == {
        "a#0": "big",
        "a#1": "small",
        "a#2": "small",
        "b#0": "mid",
    }
    assert items["a#0"].group == items["a#1"].group == "a"
    photo = pixels(0, size=PHOTO, channels=3)
    assert np.array_equal(voc.read_item(items["a#0"], {}).image, photo[44:76, 34:66])  # centre (50, 60)
    assert np.array_equal(voc.read_item(items["a#1"], {}).image, photo[39:71, 59:91])  # centre (75, 55)
    assert np.array_equal(voc.read_item(items["a#2"], {}).image, photo[:32, :32])  # moved inside at the corner
    assert np.array_equal(voc.read_item(items["b#0"], {}).image, pixels(1, size=PHOTO, channels=3)[84:116, 124:156])


def test_the_default_window_follows_the_typical_class_not_the_largest(voc_folder):
    # Median sides: big 80, mid 40, small 10; 1.25 x 40 = 50, to a multiple of 16.
    assert {item.where["window"] for item in _list(voc_folder, crops=True).values()} == {64}


@pytest.mark.parametrize("side", [16, 63, 120])
def test_the_window_always_lies_inside_the_photograph(side):
    draw = np.random.default_rng(side)
    for _ in range(200):
        left, top = draw.integers(0, 150), draw.integers(0, 110)
        box = Box(label="x", left=left, top=top, right=min(160, left + 30), bottom=min(120, top + 30))
        x1, y1, x2, y2 = voc.crop_around(box, side, (160, 120))
        assert (x2 - x1, y2 - y1) == (side, side)
        assert x1 >= 0
        assert y1 >= 0
        assert x2 <= 160
        assert y2 <= 120
    with pytest.raises(ImageReject, match="smaller than the window"):
        voc.crop_around(box, 121, (160, 120))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + _xml([]), "document type"),
        ("<annotation>", "damaged annotation"),
        (_xml([("", 1, 1, 5, 5)]), "without a name"),
        (_xml([("x", 50, 50, 40, 60)]), "empty or reaches outside"),
        (_xml([("x", 50, 50, 900, 60)]), "empty or reaches outside"),
        (_xml([("x", 5, 5, 9, 9)], size=(PHOTO[0], PHOTO[1])), "another size"),
    ],
)
def test_a_bad_annotation_rejects_its_photograph_only(voc_folder, text, reason):
    (voc_folder / "Annotations/a.xml").write_text(text)
    for crops in (False, True):
        items = _list(voc_folder, crops=crops, window=16)
        bad = next(item for key, item in items.items() if key.startswith("a"))
        with pytest.raises(ImageReject, match=reason):
            voc.read_item(bad, {})
        good = next(item for key, item in items.items() if key.startswith("b"))
        assert isinstance(voc.read_item(good, {}).image, np.ndarray)


def test_a_photograph_in_two_lists_and_a_folder_without_annotations_are_refused(voc_folder, tmp_path):
    (voc_folder / "ImageSets/Main/test.txt").write_text("a\n")
    with pytest.raises(CorpusError, match="in the lists train and test"):
        _list(voc_folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="0 folders named Annotations"):
        _list(tmp_path / "empty")


def test_a_missing_photograph_has_no_path(voc_folder):
    (voc_folder / "JPEGImages/a.png").unlink()
    assert _list(voc_folder)["a"].path == ""
    assert Image.open(voc_folder / "JPEGImages/b.png").size == (160, 120)
