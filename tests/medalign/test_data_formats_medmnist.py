"""The MedMNIST reader: splits and labels of an npz; pickles, volumes and multi-label sets are refused."""

import numpy as np
import pytest
from drawn_images import pixels

from medalign.data import formats
from medalign.data.formats import medmnist
from medalign.errors import CorpusError


def _write(path, *, channels=1, **replaced):
    arrays = {}
    for start, (split, count) in enumerate((("train", 6), ("val", 2), ("test", 3))):
        arrays[f"{split}_images"] = np.stack(
            [pixels(100 * start + n, size=(28, 28), channels=channels) for n in range(count)]
        )
        arrays[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    np.savez_compressed(path, **{**arrays, **replaced})
    return str(path)


def _list(source, **options):
    return list(medmnist.list_items(source, formats.complete("medmnist", options)))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_listed_with_its_split_and_class(tmp_path, channels):
    source = _write(tmp_path / "set.npz", channels=channels)
    items = _list(source, classes="normal,pneumonia")
    assert [(item.split, item.label) for item in items[:2]] == [("train", "normal"), ("train", "pneumonia")]
    assert len(items) == 11
    assert len({item.group for item in items}) == 11
    last = next(item for item in items if item.key == "test/2")
    assert np.array_equal(medmnist.read_item(last, {}).image, pixels(202, size=(28, 28), channels=channels))
    assert {item.label for item in _list(source)} == {"0", "1"}


def test_files_that_are_no_single_label_image_sets_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="not found"):
        _list(str(tmp_path / "missing.npz"))
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(CorpusError, match="not an npz file"):
        _list(str(tmp_path / "text.npz"))
    with pytest.raises(CorpusError, match="is not one class an image"):
        _list(_write(tmp_path / "multi.npz", train_labels=np.zeros((6, 14), dtype=np.uint8)))
    with pytest.raises(CorpusError, match="is not 6 grey or RGB images"):
        _list(_write(tmp_path / "volume.npz", train_images=np.zeros((6, 28, 28, 28), dtype=np.uint8)))
    with pytest.raises(CorpusError, match="has 2 classes; classes='one' must name each"):
        _list(_write(tmp_path / "names.npz"), classes="one")


def test_a_pickle_inside_is_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    traps = np.empty(6, dtype=object)
    traps[:] = [Trap() for _ in range(6)]
    source = _write(tmp_path / "trap.npz", train_images=traps, train_labels=traps)
    with pytest.raises(CorpusError, match="Python objects"):
        _list(source)
    assert not (tmp_path / "sprung").exists()
