"""Overlap of corpora: copies are found through resizing, cropping and greying; others are left alone."""

import io
from pathlib import Path

import numpy as np
import pytest
from annotated_corpus import write_annotated
from PIL import Image, ImageFilter
from striped_corpus import write_corpus

from medalign.data import images, perceptual
from medalign.data.overlap import KINDS, find_overlap, place_of
from medalign.errors import CorpusError

SHARED = 6


def scene(seed: int, *, size: int = 96) -> Image.Image:
    """Return a smooth colour picture, different for each seed, of a common layout: as X-rays of one view are alike."""
    draw, common = np.random.default_rng([3, seed]), np.random.default_rng(0)
    layers = []
    for channel in range(3):
        base = Image.fromarray(common.integers(0, 256, (6, 6), dtype=np.uint8)).resize((size, size), Image.BICUBIC)
        own = Image.fromarray(draw.integers(0, 256, (12, 12), dtype=np.uint8)).resize((size, size), Image.BICUBIC)
        layers.append(Image.blend(base, own, 0.5).point(lambda v, c=channel: v * (1 - 0.15 * c)))
    return Image.merge("RGB", layers).filter(ImageFilter.GaussianBlur(1))


def altered(image: Image.Image, seed: int) -> Image.Image:
    """Return a crop of 85 to 95 % of the area, smaller, grey, through JPEG."""
    draw = np.random.default_rng([4, seed])
    share = draw.uniform(0.85, 0.95) ** 0.5
    width, height = int(image.width * share), int(image.height * share)
    left, top = (int(draw.integers(0, n + 1)) for n in (image.width - width, image.height - height))
    small = image.crop((left, top, left + width, top + height)).convert("L").resize((70, 72), Image.BILINEAR)
    sink = io.BytesIO()
    small.save(sink, "JPEG", quality=80)
    return Image.open(io.BytesIO(sink.getvalue()))


def replaced(pictures: dict[tuple[str, int], Image.Image]):
    """Return a change for `write_corpus` that puts pictures into rows."""

    def change(split: str, number: int, row: dict) -> None:
        image = pictures[split, number]
        row["image"] = images.encode(image, "png")
        row["width"], row["height"] = image.size
        row["pixels"] = images.pixel_hash(image)

    return change


def test_altered_copies_are_found_and_no_other_picture(tmp_path: Path) -> None:
    first = {("train", n): scene(n) for n in range(20)}
    second = {("test", n): altered(scene(n), n) if n < SHARED else scene(100 + n).convert("L") for n in range(20)}
    one = write_corpus(tmp_path / "one", {"train": 20}, replaced(first))
    two = write_corpus(tmp_path / "two", {"test": 20}, replaced(second))
    found = find_overlap([(one, None), (two, "test")])
    assert {pair.kind for pair in found.pairs} == {KINDS[2]}
    assert all(pair.first.rpartition("-")[2] == pair.second.rpartition("-")[2] for pair in found.pairs)
    assert len(found.pairs) == SHARED
    assert len(found.seen(place_of(two, "test"))) == SHARED
    assert find_overlap([(one, None), (two, "test")], near=False).pairs == ()


def test_identical_pictures_are_told_from_identical_files(tmp_path: Path) -> None:
    same = scene(0)
    one = write_corpus(tmp_path / "one", {"train": 3}, replaced({("train", n): scene(n) for n in range(3)}))

    def slower(split: str, number: int, row: dict) -> None:
        replaced({("test", n): same if n == 0 else scene(50 + n) for n in range(3)})(split, number, row)
        if number == 0:  # the same pixels, other bytes
            sink = io.BytesIO()
            same.save(sink, "PNG", compress_level=0)
            row["image"] = sink.getvalue()

    two = write_corpus(tmp_path / "two", {"test": 3}, slower)
    found = find_overlap([(one, None), (two, None)])
    assert [pair.kind for pair in found.pairs] == [KINDS[1]]
    again = find_overlap([(one, "train"), (str(tmp_path / "one") + "/", "train")])
    assert [pair.kind for pair in again.pairs] == [KINDS[0]] * 3


def test_splits_of_one_corpus_are_compared_and_shared_groups_counted(tmp_path: Path) -> None:
    corpus = write_annotated(tmp_path / "shapes", {"train": 8, "test": 8})
    found = find_overlap([(corpus, None)])
    assert found.pictures == {place_of(corpus, "test"): 8, place_of(corpus, "train"): 8}
    assert found.shared_groups == {}
    with pytest.raises(CorpusError, match="1 place to compare"):
        find_overlap([(corpus, "test")])
    assert find_overlap([(corpus, None)], within=False).pairs == ()


def test_a_crop_agrees_with_its_whole_and_another_picture_does_not() -> None:
    for number in range(5):
        whole, crop = (perceptual.thumbnail(each) for each in (scene(number), altered(scene(number), number)))
        assert perceptual.agreement(whole, crop) > 0.98
        assert perceptual.agreement(crop, whole) > 0.98
        assert perceptual.agreement(whole, perceptual.thumbnail(scene(number + 50))) < 0.95
    flat = np.full((64, 64), 9, dtype=np.uint8)
    assert perceptual.agreement(flat, flat) < 0


def test_the_command_prints_what_is_shared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from medalign.cli.app import main

    one = write_corpus(tmp_path / "one", {"train": 3}, replaced({("train", n): scene(n) for n in range(3)}))
    two = write_corpus(tmp_path / "two", {"test": 3}, replaced({("test", n): scene(n + 2) for n in range(3)}))
    with pytest.raises(SystemExit) as ended:
        main(["data", "overlap", one, f"{two}:test", "--out", f"{tmp_path}/pairs.json"])
    assert ended.value.code == 0
    assert "1 pairs of pictures are one" in capsys.readouterr().out
    assert '"identical file"' in (tmp_path / "pairs.json").read_text()
