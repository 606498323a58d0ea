"""The image-folder reader: class folders, split folders, CSV tables, groups by pattern."""

import pytest
from drawn_images import encoded, pixels, write_folder

from medalign.data import formats
from medalign.data.formats import image_folder
from medalign.errors import CorpusError


def _list(source, **options):
    return {item.key: item for item in image_folder.list_items(str(source), formats.complete("image-folder", options))}


def test_class_folders_give_labels_and_each_file_is_its_own_group(tmp_path):
    write_folder(tmp_path / "set", per_class=3)
    (tmp_path / "set" / "notes.txt").write_text("no picture")
    (tmp_path / "set" / "cyst" / ".hidden.png").write_bytes(encoded(pixels(0)))
    items = _list(tmp_path / "set")
    assert len(items) == 6
    item = items["cyst/cyst_p1_001.jpg"]
    assert (item.label, item.split, item.group) == ("cyst", None, item.key)
    assert item.size == len(image_folder.read_item(item, {}).image)


def test_split_folders_are_splits_only_if_all_first_folders_are(tmp_path):
    for split in ("train", "valid", "test"):
        write_folder(tmp_path / "set" / split, per_class=1)
    assert {(item.split, item.label) for item in _list(tmp_path / "set").values()} == {
        (split, label) for split in ("train", "val", "test") for label in ("cyst", "normal")
    }
    write_folder(tmp_path / "set" / "more", per_class=1)
    assert {(item.split, item.label) for item in _list(tmp_path / "set").values()} == {
        (None, label) for label in ("train", "valid", "test", "more")
    }


def test_the_first_capture_group_of_the_pattern_is_the_group(tmp_path):
    write_folder(tmp_path / "set", per_class=8, patients=4)
    groups = {item.group for item in _list(tmp_path / "set", group_pattern=r"([a-z]+_p\d+)_").values()}
    assert groups == {f"{label}_p{n}" for label in ("cyst", "normal") for n in range(4)}
    with pytest.raises(CorpusError, match="does not match every path") as caught:
        _list(tmp_path / "set", group_pattern=r"(cyst_p\d+)")
    assert "normal_p" not in str(caught.value)  # a file's name may identify somebody
    with pytest.raises(CorpusError, match="no capture group"):
        _list(tmp_path / "set", group_pattern=r"p\d+")
    with pytest.raises(CorpusError, match="not a regular expression"):
        _list(tmp_path / "set", group_pattern="(")


def test_a_csv_gives_labels_captions_groups_and_splits(tmp_path):
    write_folder(tmp_path / "set", per_class=2)
    table = tmp_path / "set" / "table.csv"
    table.write_text(
        "path,label,caption,group,split,site\n"
        'cyst/cyst_p0_000.png,cyst,"A cyst, left.",ann,train,1\n'
        "normal/normal_p0_000.png,normal,,bob,validation,2\n"
        ",normal,words only,bob,validation,2\n"
    )
    items = _list(table)
    first = items["cyst/cyst_p0_000.png"]
    assert (first.label, first.caption, first.group, first.split) == ("cyst", "A cyst, left.", "ann", "train")
    assert items["normal/normal_p0_000.png"].caption is None
    assert items["row 4"].path == ""
    assert {item.group for item in _list(table, split_by="site").values()} == {"1", "2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\nx.png,a\n", "no column 'path'; its columns are: file, label"),
        ("path,label\n../x.png,a\n", r"table.csv:2: paths must be relative"),
        ("path,label\n/etc/x.png,a\n", r"table.csv:2: paths must be relative"),
        ("path,split\nx.png,dev\n", r"table.csv:2: split 'dev' is not one of"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(CorpusError, match=message):
        _list(tmp_path / "table.csv")


def test_options_are_checked_against_the_format():
    with pytest.raises(CorpusError, match="no option 'group_patern'; it has: group_pattern, split_by"):
        formats.complete("image-folder", {"group_patern": "x"})
    with pytest.raises(CorpusError, match="option crops of format voc is a bool, got 'yes'"):
        formats.complete("voc", {"crops": "yes"})
    with pytest.raises(CorpusError, match="unknown format 'png'; the formats are: image-folder, "):
        formats.reader("png")
