"""Poisoned rows: exactly those become holes, whoever reads them; they are written down, and there is a budget."""

import io
import json
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml
from drawn_images import bomb, encoded, pixels
from PIL import Image
from striped_corpus import write_corpus

from medalign import train
from medalign.data.batches import BatchStream
from medalign.data.decode import MAX_PIXELS, open_image
from medalign.data.order import Order
from medalign.data.quarantine import Holes
from medalign.data.reader import RowSource
from medalign.data.settings import Data
from medalign.errors import QuarantineError

ROWS = 300
PHOTOGRAPH = pixels(3, size=(40, 40), channels=3)


def flat(width: int, height: int, mode: str = "L") -> bytes:
    """Return a real PNG of one colour: a few kilobytes, however many pixels."""
    stream = io.BytesIO()
    Image.new(mode, (width, height)).save(stream, "PNG")
    return stream.getvalue()


def animated() -> bytes:
    frames = [Image.fromarray(pixels(n, size=(40, 40), channels=3)) for n in range(3)]
    stream = io.BytesIO()
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:])
    return stream.getvalue()


def turned() -> bytes:
    image = Image.fromarray(PHOTOGRAPH)
    exif = image.getexif()
    exif[0x0112] = 6  # stored lying on its side
    return encoded(image.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)


POISON = {
    11: (encoded(PHOTOGRAPH, "JPEG")[:300], "not a whole image (OSError)"),
    57: (b"", "empty"),
    123: (bomb(), "more than 16777216 pixels"),
    190: (b"GIF89a not a picture of this corpus", "not a PNG or a JPEG"),
    211: (flat(5000, 5000), "5000 x 5000 pixels, more than 16777216"),
    289: (encoded(PHOTOGRAPH, "PNG")[:-200], "not a whole image (OSError)"),
}
UNUSUAL = {
    33: encoded(Image.fromarray(PHOTOGRAPH).convert("CMYK"), "JPEG"),
    88: encoded(Image.fromarray(pixels(4, size=(40, 40)).astype(np.uint16) << 8), "PNG"),
    140: animated(),
    251: turned(),
    266: encoded(Image.fromarray(PHOTOGRAPH).convert("P"), "PNG"),
}


def poison(split: str, i: int, row: dict) -> None:
    row["image"] = POISON[i][0] if i in POISON else UNUSUAL.get(i, row["image"])


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    place = tmp_path_factory.mktemp("corpora")
    clean = write_corpus(place / "clean", {"train": ROWS})
    return clean, write_corpus(place / "poisoned", {"train": ROWS}, poison)


def stream_of(corpus: str) -> BatchStream:
    source = RowSource.open(corpus, ("train",))
    order = Order(seed=2, row_groups=source.sizes, micro_batch=10, global_batch=ROWS, shuffle_rows=ROWS)
    return BatchStream(order, source, Data(corpus=corpus, image_size=16), 1)


def written(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines()]


def test_exactly_the_poisoned_rows_become_holes_and_no_other_row_changes(
    corpora: tuple[str, str], tmp_path: Path
) -> None:
    clean, poisoned = (stream_of(corpus) for corpus in corpora)
    holes = Holes(str(tmp_path), rows=ROWS, max_share=0.02)
    delivered = 0
    for batch, whole in zip(
        poisoned.plain(0, start=0, stop=1, holes=holes), clean.plain(0, start=0, stop=1), strict=True
    ):
        assert batch.ids.tolist() == whole.ids.tolist()
        assert batch.valid.tolist() == [row not in POISON for row in batch.ids.tolist()]
        delivered += int(batch.valid.sum())
        for place, row in enumerate(batch.ids.tolist()):
            if row not in POISON and row not in UNUSUAL:
                assert (batch.images[place] == whole.images[place]).all()
    assert delivered == ROWS - len(POISON)
    found = written(tmp_path)
    assert {hole["row"]: (hole["id"], hole["reason"]) for hole in found} == {
        row: (f"train-{row}", reason) for row, (_, reason) in POISON.items()
    }
    assert all(hole["step"] == 0 for hole in found)


def test_unusual_images_are_read_as_preparation_would_have_made_them() -> None:
    upright = np.asarray(open_image(turned()))
    assert np.array_equal(upright, PHOTOGRAPH)
    assert np.array_equal(np.asarray(open_image(animated())), pixels(0, size=(40, 40), channels=3))
    deep = np.asarray(open_image(UNUSUAL[88]))
    assert deep.min() == 0
    assert deep.max() == 255
    assert np.abs(np.asarray(open_image(UNUSUAL[33])).astype(int) - PHOTOGRAPH).mean() < 12


def test_bombs_cost_no_memory() -> None:
    draw = [bomb(), bomb(65_000, 65_000), flat(4096, 4096), flat(2048, 2048, "RGBA"), flat(5000, 5000, "RGB")]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for data in draw:
        try:
            assert open_image(data).size in {(4096, 4096), (2048, 2048)}
        except ValueError:
            refused += 1
    assert refused == 3
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 200
    assert MAX_PIXELS == 4096 * 4096


def test_a_run_with_more_bad_rows_than_its_budget_stops_and_names_the_first_ten(tmp_path: Path) -> None:
    def tear_many(split: str, i: int, row: dict) -> None:
        row["image"] = row["image"] if i % 4 else b"torn"

    corpus = write_corpus(tmp_path / "torn", {"train": ROWS}, tear_many)
    holes = Holes(str(tmp_path / "run"), rows=ROWS, max_share=0.05)
    with pytest.raises(QuarantineError) as caught:
        for _ in stream_of(corpus).plain(0, start=0, stop=1, holes=holes):
            pass
    found = written(tmp_path / "run")
    assert 15 < len(found) <= 15 + 10  # at most a micro-batch beyond the budget
    message = str(caught.value)
    assert f"{len(found)} of 300 rows are bad, more than data.max_bad_share=0.05 allows: " in message
    named = [f"{hole['id']} (not a PNG or a JPEG)" for hole in found]
    assert ", ".join(named[:10]) + f" and {len(found) - 10} more; all are in {tmp_path}/run/quarantine.jsonl" in message
    assert named[10] not in message


def test_a_budget_of_exactly_the_bad_share_is_not_exceeded(corpora: tuple[str, str], tmp_path: Path) -> None:
    holes = Holes(str(tmp_path), rows=ROWS, max_share=len(POISON) / ROWS)
    assert len(list(stream_of(corpora[1]).plain(0, start=0, stop=1, holes=holes))) == ROWS // 10
    with pytest.raises(QuarantineError):
        list(stream_of(corpora[1]).plain(0, start=0, stop=1, holes=Holes(str(tmp_path / "b"), rows=ROWS, max_share=0)))


def test_a_run_that_goes_on_knows_its_holes_and_counts_none_twice(corpora: tuple[str, str], tmp_path: Path) -> None:
    stream = stream_of(corpora[1])
    for _ in range(2):
        holes = Holes(str(tmp_path), rows=ROWS, max_share=0.02)
        list(stream.plain(0, start=0, stop=2, holes=holes))
    assert sorted(hole.row for hole in holes.known) == sorted(POISON)
    assert len(written(tmp_path)) == len(POISON)


def test_ranks_that_meet_bad_rows_at_once_lose_none(tmp_path: Path) -> None:
    def see(rank: int) -> None:
        holes = Holes(str(tmp_path), rows=1000, max_share=1.0)
        for number in range(10):
            rows = np.array([rank * 100 + number, 999])  # one of its own, one that all meet
            arrays = {"row": rows, "id": rows.astype(str), "reason": np.array(["empty", "empty"])}
            holes.see({**arrays, "valid": np.array([False, False])}, step=number)

    ranks = [threading.Thread(target=see, args=(rank,)) for rank in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    rows = [hole["row"] for hole in written(tmp_path)]
    assert sorted(rows) == sorted([*(r * 100 + n for r in range(4) for n in range(10)), 999])


def test_training_over_a_poisoned_corpus_leaves_its_quarantine_in_the_run(
    corpora: tuple[str, str], tmp_path: Path
) -> None:
    model = {"type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    recipe = {
        "run": {"uri": str(tmp_path / "run")},
        "data": {"corpus": corpora[1], "image_size": 16, "max_bad_share": 0.02},
        "model": model,
        "objective": {"type": "info_nce"},
        "train": {"workers": 0, "micro_batch": 30, "global_batch": 150, "steps": 2},
        "tracking": {"tensorboard": False},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    assert train(str(tmp_path / "r.yaml")).step == 2
    assert sorted(hole["row"] for hole in written(tmp_path / "run")) == sorted(POISON)
    with pytest.raises(QuarantineError, match="more than data.max_bad_share=0.01 allows: train-"):
        train(str(tmp_path / "r.yaml"), [f"run.uri={tmp_path / 'strict'}", "data.max_bad_share=0.01"])
