"""One item, one row: scaled boxes, checked captions, hashed names; and a reason, never an exception, for a bad one."""

import numpy as np
import pytest
from drawn_images import PHI, encoded, pixels

from medalign.data import formats, images, rows
from medalign.data.items import Box, Content, Item, hashed
from medalign.errors import StorageError


def recipe(format="image-folder", *, max_side=64, encoding="auto", salt="") -> rows.Recipe:
    return rows.Recipe(
        format=format,
        options=formats.complete(format, {}),
        max_side=max_side,
        max_pixels=100_000,
        encoding=encoding,
        salt=salt,
    )


@pytest.fixture
def item(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(pixels(0, size=(80, 120))))
    return Item(key="a.png", path=str(tmp_path / "a.png"), group=PHI, label="cyst", caption="A cyst.")


def test_a_row_holds_the_scaled_picture_and_hashed_names(item):
    row, reason = rows.make(item, recipe(max_side=60, salt="s"))
    assert reason == ""
    assert (row["width"], row["height"], row["label"], row["caption"]) == (60, 40, "cyst", "A cyst.")
    assert row["group"] == hashed("group", PHI, salt="s") != hashed("group", PHI, salt="t")
    expected = pixels(0, size=(80, 120)).reshape(40, 2, 60, 2).mean(axis=(1, 3))
    assert np.abs(np.asarray(images.decode(row["image"])) - expected).max() <= 1
    assert row["pixels"] == images.pixel_hash(images.decode(row["image"]))


def test_the_pixel_hash_is_that_of_what_is_stored_also_for_jpeg(item):
    row, _ = rows.make(item, recipe(encoding="jpeg"))
    assert row["image"].startswith(b"\xff\xd8")
    assert row["pixels"] == images.pixel_hash(images.decode(row["image"]))


def test_boxes_are_scaled_with_the_picture(item, monkeypatch):
    box = Box(label="cell", left=12, top=20, right=60, bottom=80)
    monkeypatch.setattr(
        formats.reader("image-folder"), "read_item", lambda *_: Content(image=pixels(0, size=(80, 120)), boxes=(box,))
    )
    row, _ = rows.make(item, recipe(max_side=60))
    assert row["boxes"] == [{"label": "cell", "left": 6, "top": 10, "right": 30, "bottom": 40}]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"path": ""}, "no image"),
        ({"path": "/nowhere/x.png"}, "file not found"),
        ({"caption": "x" * 65_537}, "a caption longer than 65536 characters"),
        ({"caption": "half \ud800 a pair"}, "a caption that is not valid text"),
    ],
)
def test_a_bad_item_gives_a_reason(item, change, reason):
    assert rows.make(Item.loads(Item(**{**vars(item), **change}).dumps()), recipe()) == ({}, reason)


def test_odd_but_valid_captions_are_kept_as_they_are(item):
    for caption in ("صورة", "a\u200bb", "\u202eabc", 'x"<script>'):
        row, reason = rows.make(Item(**{**vars(item), "caption": caption}), recipe())
        assert (row["caption"], reason) == (caption, "")


def test_a_decoders_surprise_costs_the_row_and_its_text_is_not_repeated(item, monkeypatch):
    def surprise(*_):
        raise ZeroDivisionError(PHI)

    monkeypatch.setattr(formats.reader("image-folder"), "read_item", surprise)
    assert rows.make(item, recipe()) == ({}, "damaged (ZeroDivisionError)")


def test_a_source_that_cannot_be_reached_stops_the_run_without_naming_the_file(item, monkeypatch):
    def refuse(*_):
        raise StorageError(f"/data/{PHI}.png: cannot be reached (denied).")

    monkeypatch.setattr(formats.reader("image-folder"), "read_item", refuse)
    with pytest.raises(StorageError, match="a file of the source cannot be read") as caught:
        rows.make(item, recipe())
    assert PHI not in str(caught.value)
