"""Preparation end to end on a local Ray: same bytes twice, exact quarantine, groups kept whole, nothing half done."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from drawn_dicom import VALUES
from drawn_dicom import write as write_dicom
from drawn_images import PHI, bomb, encoded, pixels, write_folder
from PIL import Image

from medalign.data import images, manifest, shards
from medalign.data.items import hashed
from medalign.data.prepare import prepare
from medalign.data.validate import validate
from medalign.errors import CorpusError, QuarantineError

pytestmark = pytest.mark.usefixtures("ray_local")
PATTERN = {"group_pattern": r"([a-z]+_p\d+)_"}


def digests(folder) -> dict[str, str]:
    """Return the hash of every file below a folder."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def table(uri, corpus, split):
    """Return the rows of a split, in order."""
    return [row for shard in corpus.splits[split].shards for row in shards.read(str(uri), shard).to_pylist()]


def test_two_preparations_are_equal_byte_for_byte_wherever_the_source_lies(tmp_path):
    for place in ("one", "two"):
        write_folder(tmp_path / place / "set")
    first = prepare(
        str(tmp_path / "one/set"), format="image-folder", out=str(tmp_path / "a/c"), shard_rows=5, options=PATTERN
    )
    seen = []
    prepare(
        str(tmp_path / "two/set"),
        format="image-folder",
        out=str(tmp_path / "b/c"),
        shard_rows=5,
        options=PATTERN,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == sorted(seen)
    assert seen[-1] == (24, 24)
    assert len(seen) == len(list((tmp_path / "b/c").rglob("part-*.parquet")))
    assert digests(tmp_path / "a/c") == digests(tmp_path / "b/c")
    assert len(first.splits["train"].shards) > 2
    assert sum(split.rows for split in first.splits.values()) == 24
    assert validate(str(tmp_path / "a/c")).is_valid


def test_a_second_call_returns_at_once_and_another_corpus_is_not_overwritten_unasked(tmp_path):
    source, out = str(write_folder(tmp_path / "set", per_class=4)), str(tmp_path / "c")
    first = prepare(source, format="image-folder", out=out)
    before = {path: path.stat().st_mtime_ns for path in Path(out).rglob("*")}
    started = time.perf_counter()
    assert prepare(source, format="image-folder", out=out) == first
    assert time.perf_counter() - started < 1
    assert {path: path.stat().st_mtime_ns for path in Path(out).rglob("*")} == before
    with pytest.raises(CorpusError, match="another corpus is here.*overwrite=True"):
        prepare(source, format="image-folder", out=out, max_side=16)
    smaller = prepare(source, format="image-folder", out=out, max_side=16, overwrite=True)
    assert {row["height"] for row in table(out, smaller, "train")} == {16}
    (tmp_path / "set" / "cyst" / "new.png").write_bytes(encoded(pixels(77)))
    with pytest.raises(CorpusError, match="another corpus is here"):
        prepare(source, format="image-folder", out=out, max_side=16)


def test_files_of_the_user_are_never_cleared(tmp_path):
    source = str(write_folder(tmp_path / "set", per_class=3))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "part-00000.parquet").write_bytes(b"mine")
    with pytest.raises(CorpusError, match="holds files that are not a corpus"):
        prepare(source, format="image-folder", out=str(tmp_path / "mine"), overwrite=True)
    assert (tmp_path / "mine" / "part-00000.parquet").read_bytes() == b"mine"


def test_groups_are_whole_and_every_class_is_in_every_split(tmp_path):
    source = str(write_folder(tmp_path / "set", per_class=20, patients=5))
    corpus = prepare(source, format="image-folder", out=str(tmp_path / "c"), options=PATTERN)
    groups = {split: {row["group"] for row in table(tmp_path / "c", corpus, split)} for split in corpus.splits}
    assert set(groups) == {"train", "val", "test"}
    assert not groups["train"] & groups["val"] | groups["train"] & groups["test"] | groups["val"] & groups["test"]
    assert {split: corpus.splits[split].groups for split in groups} == {
        s: len(members) for s, members in groups.items()
    }
    assert all(set(split.classes) == {"cyst", "normal"} for split in corpus.splits.values())


def test_rows_lie_in_the_order_of_their_ids_so_row_groups_are_mixed(tmp_path):
    source = str(write_folder(tmp_path / "set", per_class=40))
    corpus = prepare(source, format="image-folder", out=str(tmp_path / "c"), row_group_rows=16, fractions={})
    rows = table(tmp_path / "c", corpus, "train")
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert corpus.splits["train"].shards[0].row_groups == (16,) * 5
    cysts = [sum(row["label"] == "cyst" for row in rows[start : start + 16]) for start in range(0, 80, 16)]
    assert all(2 < count < 14 for count in cysts)
    files = {
        hashed("item", f"{label}/{path.name}", salt=""): path
        for label in ("cyst", "normal")
        for path in (tmp_path / "set" / label).iterdir()
    }
    for row in rows[::7]:
        original = images.open_image(files[row["id"]].read_bytes())
        assert np.array_equal(np.asarray(images.decode(row["image"])), np.asarray(original))


def poison(folder: Path) -> dict[str, str]:
    """Plant bad files among good ones; return the reason that each must be quarantined with."""
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.fromarray(pixels(seed)) for seed in (901, 902)]
    good = {
        "cmyk.jpg": encoded(Image.fromarray(pixels(903, channels=3)).convert("CMYK"), "JPEG"),
        "deep.png": encoded(pixels(904).astype(np.uint16) * 200),
        "moving.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "turned.png": encoded(pixels(905), exif=exif),
    }
    bad = {
        f"{PHI}_corrupt.jpg": (encoded(pixels(906, size=(99, 99)), "JPEG")[:900], "damaged image (OSError)"),
        "empty.png": (b"", "empty file"),
        "bomb.png": (bomb(), "more than 64000000 pixels"),
        "text.png": (b"words", f"not an image of the formats {', '.join(images.FORMATS)}"),
    }
    for name, data in {**good, **{name: data for name, (data, _) in bad.items()}}.items():
        (folder / name).write_bytes(data)
    return {hashed("item", f"cyst/{name}", salt="pepper"): reason for name, (_, reason) in bad.items()}


def test_exactly_the_poisoned_rows_are_quarantined_and_all_others_delivered(tmp_path):
    source = write_folder(tmp_path / "set", per_class=30)
    planted = poison(source / "cyst")
    out = tmp_path / "c"
    corpus = prepare(
        str(source),
        format="image-folder",
        out=str(out),
        salt="pepper",
        shard_rows=16,
        fractions={},
        quarantine_budget=0.07,
    )
    assert {row["id"]: row["reason"] for row in corpus.quarantined} == planted
    assert corpus.splits["train"].rows == 64  # 60 drawn, and the 4 that only look odd
    assert len(table(out, corpus, "train")) == 64
    assert validate(str(out)).is_valid
    rows = {row["id"]: row for row in table(out, corpus, "train")}
    turned = rows[hashed("item", "cyst/turned.png", salt="pepper")]
    assert (turned["width"], turned["height"]) == (24, 20)
    assert all(PHI.encode() not in path.read_bytes() for path in out.rglob("*") if path.is_file())


def test_beyond_the_budget_the_run_stops_names_ids_and_leaves_nothing(tmp_path):
    source = write_folder(tmp_path / "set", per_class=30)
    planted = poison(source / "cyst")
    with pytest.raises(
        QuarantineError, match=r"4 of 68 items so far are bad, more than quarantine_budget=0.01"
    ) as caught:
        prepare(str(source), format="image-folder", out=str(tmp_path / "c"), salt="pepper", fractions={})
    assert all(f"{key} ({reason})" in str(caught.value) for key, reason in planted.items())
    assert "CANARY" not in str(caught.value)
    assert digests(tmp_path / "c") == {}
    with pytest.raises(CorpusError, match="no corpus here"):
        manifest.read(str(tmp_path / "c"))


def test_no_name_of_a_dicom_header_or_path_is_in_the_corpus(tmp_path):
    folder = tmp_path / "set" / PHI
    folder.mkdir(parents=True)
    for number in range(6):
        stack = np.stack([pixels(10 * number + frame, size=(16, 16)) for frame in range(3)])
        tags = {"StudyDescription": f"seen by {PHI}", "InstitutionName": PHI, "PatientID": f"{PHI}{number}"}
        write_dicom(folder / f"{PHI}_{number}.dcm", stack, **tags)
    write_dicom(folder / f"{PHI}_bad.dcm", VALUES, PixelData=b"\0\0")
    corpus = prepare(
        str(tmp_path / "set"),
        format="dicom",
        out=str(tmp_path / "c"),
        quarantine_budget=0.2,
        options={"label_by": "modality"},
    )
    assert sum(split.rows for split in corpus.splits.values()) == 18
    assert sum(split.groups for split in corpus.splits.values()) == 6
    assert [row["reason"] for row in corpus.quarantined] == ["damaged or missing pixels (ValueError)"]
    assert {row["modality"] for row in table(tmp_path / "c", corpus, "train")} == {"CT"}
    for path in (tmp_path / "c").rglob("*"):
        assert path.is_dir() or b"CANARY" not in path.read_bytes()


def test_settings_and_sources_that_cannot_be_used_are_refused_before_ray_works(tmp_path):
    source, out = str(write_folder(tmp_path / "set", per_class=2)), str(tmp_path / "c")
    (tmp_path / "empty").mkdir()
    for wrong, message in (
        ({"max_side": 4}, r"max_side must be in \[8, 4096\] pixels"),
        ({"encoding": "gif"}, "encoding must be one of auto, png, jpeg"),
        ({"quarantine_budget": 1.5}, r"quarantine_budget must be in \[0, 1\]"),
        ({"shard_rows": 0}, "shard_rows must be >= 1"),
        ({"fractions": {"val": 2}}, "the fraction of val must be"),
        ({"options": {"colour": True}}, "no option 'colour'"),
    ):
        with pytest.raises(CorpusError, match=message):
            prepare(source, format="image-folder", out=out, **wrong)
    for place in ("empty", "missing"):
        with pytest.raises(CorpusError, match="no images for format image-folder"):
            prepare(str(tmp_path / place), format="image-folder", out=out)
    assert not Path(out).exists()


KILLED = """
import sys
from medalign.data.prepare import prepare
prepare(sys.argv[1], format="image-folder", out=sys.argv[2], shard_rows=16, fractions={})
"""


def test_a_killed_preparation_leaves_no_corpus_and_the_next_one_cleans_up(tmp_path):
    source, out = str(write_folder(tmp_path / "set", per_class=200)), tmp_path / "c"
    import ray

    process = subprocess.Popen(  # a driver of its own on the Ray of this module, which ends its tasks when it dies
        [sys.executable, "-c", KILLED, source, str(out)],
        env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not list(out.rglob("part-*.parquet")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    left = list(out.rglob("part-*.parquet"))
    assert left
    with pytest.raises(CorpusError, match="no corpus here"):
        manifest.read(str(out))
    time.sleep(2)  # a task that was writing as its driver died may finish its file
    (out / "train" / "part-00049.parquet.0a1b2c3d.part").write_bytes(b"half a shard")
    prepare(source, format="image-folder", out=str(out), shard_rows=256, fractions={})
    prepare(source, format="image-folder", out=str(tmp_path / "d" / "c"), shard_rows=256, fractions={})
    assert digests(out) == digests(tmp_path / "d" / "c")
    assert validate(str(out)).is_valid
