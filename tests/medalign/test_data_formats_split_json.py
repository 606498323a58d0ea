"""The published few-shot splits: a JSON of paths, labels and class names becomes a corpus with those splits."""

import json

import pytest
from drawn_images import encoded, pixels

from medalign import prepare
from medalign.data import formats, manifest
from medalign.data.formats import split_json
from medalign.errors import CorpusError

SPLIT = {
    "train": [["cyst/a.png", 1, "cyst"], ["normal/b.png", 0, "normal"]],
    "val": [["cyst/c.png", 1, "cyst"]],
    "test": [["normal/d.png", 0, "normal"]],
}


def write(folder, split):
    for number, (path, _, _) in enumerate(row for rows in SPLIT.values() for row in rows):
        at = folder / "images" / path
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(encoded(pixels(number)))
    at = folder / "split_zhou_Set.json"
    at.write_text(json.dumps(split))
    return str(at)


def listed(source, **options):
    return list(split_json.list_items(source, formats.complete("split-json", options)))


def test_rows_have_the_published_split_and_class(tmp_path):
    found = listed(write(tmp_path, SPLIT), images="images")
    assert [(item.split, item.label) for item in found] == [
        ("train", "cyst"),
        ("train", "normal"),
        ("val", "cyst"),
        ("test", "normal"),
    ]
    assert all(item.size == len(split_json.read_item(item, {}).image) for item in found)


def test_a_corpus_keeps_the_published_splits(tmp_path, ray_local):
    out = str(tmp_path / "corpus")
    prepare(write(tmp_path / "set", SPLIT), format="split-json", out=out, options={"images": "images"})
    found = manifest.read(out)
    assert found.classes == ("cyst", "normal")
    assert {name: split.rows for name, split in found.splits.items()} == {"train": 2, "val": 1, "test": 1}


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ({"train": []}, "must be {"),
        ({"train": [["a.png", 0]], "test": []}, r"train\[0\]: must be \[path, label, class\]"),
        ({"train": [["../a.png", 0, "x"]], "test": []}, "without '..'"),
        ({"train": [["cyst/a.png", "x", "cyst"]], "test": []}, "the label must be a number"),
        ({"train": [["cyst/z.png", 0, "cyst"]], "test": []}, "no image cyst/z.png; set --option images"),
        ({**SPLIT, "test": [["normal/d.png", 1, "normal"]]}, "one name each"),
    ],
)
def test_what_is_no_such_split_is_refused_in_one_line(tmp_path, split, expected):
    with pytest.raises(CorpusError, match=expected) as caught:
        listed(write(tmp_path, split), images="images")
    assert "\n" not in str(caught.value)
