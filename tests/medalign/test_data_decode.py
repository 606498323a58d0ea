"""Views: boxes and mirrors that tell the truth about the pixels, one key one view, and what broken bytes may raise."""

import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from drawn_images import bomb, encoded, pixels
from PIL import Image

from medalign.data.decode import Decoder, augment, decode_image, open_image
from medalign.data.settings import SmallViews, Views
from medalign_core.ops.location import location_grid
from medalign_core.types import DrawKey

GEOMETRY = Views(jitter=0.0, grey=0.0, blur=0.0)


def coordinates(width: int = 200, height: int = 160) -> Image.Image:
    """Return an image whose red is its column and whose green is its row, each 0..1 as 0..255."""
    across = np.tile((np.arange(width) + 0.5) / width * 255, (height, 1))
    down = np.tile((np.arange(height) + 0.5)[:, None] / height * 255, (1, width))
    return Image.fromarray(np.stack([across, down, 0 * down], axis=-1).round().astype(np.uint8))


def test_the_location_grid_predicts_the_coordinates_that_a_view_shows() -> None:
    image, size, cells = coordinates(), 64, 4
    mirrored = 0
    for number in range(40):
        view = augment(image, size, GEOMETRY, key=(7, number))
        mirrored += view.flipped
        grid = location_grid(torch.tensor([view.box]), torch.tensor([view.flipped]), rows=cells, columns=cells)
        part = size // cells
        shown = view.pixels.reshape(3, cells, part, cells, part).mean((2, 4)) / 255
        expected = grid[0].reshape(cells, cells, 2).numpy()
        np.testing.assert_allclose(shown[0], expected[..., 1], atol=0.012)  # red: the column
        np.testing.assert_allclose(shown[1], expected[..., 0], atol=0.012)  # green: the row
        top, left, height, width = view.box
        assert 0 <= top <= top + height <= 1 + 1e-6
        assert 0 <= left <= left + width <= 1 + 1e-6
    assert 10 < mirrored < 30


def test_crops_keep_to_the_area_and_the_ratio_they_are_given() -> None:
    image = Image.new("RGB", (300, 300))
    narrow = Views(scale=(0.3, 0.5), ratio=(0.8, 1.25), jitter=0.0, grey=0.0, blur=0.0)
    boxes = np.array([augment(image, 16, narrow, key=("crop", n)).box for n in range(200)])
    area, ratio = boxes[:, 2] * boxes[:, 3], boxes[:, 3] / boxes[:, 2]
    assert 0.29 < area.min() < 0.33
    assert 0.47 < area.max() < 0.51
    assert 0.79 < ratio.min() < 0.84
    assert 1.19 < ratio.max() < 1.27


def test_an_image_that_no_crop_fits_is_shown_whole() -> None:
    view = augment(Image.new("RGB", (1000, 4)), 16, Views(scale=(0.9, 1.0), ratio=(0.9, 1.1)), key=("strip",))
    assert view.box == (0.0, 0.0, 1.0, 1.0)


def test_one_key_gives_one_view_and_another_key_another() -> None:
    image = Image.fromarray(pixels(3, size=(60, 50), channels=3))
    first, again = (augment(image, 32, Views(), key=(1, "view", 0, 5, 0)) for _ in range(2))
    assert np.array_equal(first.pixels, again.pixels)
    assert (first.box, first.flipped) == (again.box, again.flipped)
    assert first.box != augment(image, 32, Views(), key=(1, "view", 0, 5, 1)).box


def test_the_draws_of_a_view_are_what_they_always_were() -> None:
    # Changing these changes what every resumed run sees.
    image = Image.fromarray(pixels(3, size=(60, 50), channels=3))
    views = [augment(image, 32, Views(), key=(1, "view", 0, row, 0)) for row in range(3)]
    found = [(*np.round(np.multiply(v.box, (60, 50, 60, 50))).astype(int).tolist(), v.flipped) for v in views]
    assert found == GOLDEN_VIEWS
    np.testing.assert_allclose([v.pixels.mean() for v in views], GOLDEN_MEANS, atol=0.5)  # Pillow may round otherwise


def test_each_kind_of_augmentation_does_what_it_says() -> None:
    image = Image.fromarray(pixels(3, size=(60, 50), channels=3))
    whole = {"scale": (1.0, 1.0), "ratio": (5 / 6, 5 / 6), "flip": 0.0, "jitter": 0.0, "grey": 0.0, "blur": 0.0}
    plain = augment(image, 32, Views(**whole), key=(0,)).pixels
    mirrored = augment(image, 32, Views(**(whole | {"flip": 1.0})), key=(0,))
    assert mirrored.flipped
    assert np.array_equal(mirrored.pixels[..., ::-1], plain)
    for grey in ({"grey": 1.0}, {"force_grey": True}):
        shown = augment(image, 32, Views(**(whole | grey)), key=(0,)).pixels
        assert np.array_equal(shown[0], shown[1])
        assert np.array_equal(shown[1], shown[2])
    assert not np.array_equal(plain[0], plain[1])
    blurred = augment(image, 32, Views(**(whole | {"blur": 1.0, "blur_radius": (20.0, 20.0)})), key=(0,)).pixels
    assert np.abs(np.diff(blurred.astype(int))).mean() < 0.8 * np.abs(np.diff(plain.astype(int))).mean()
    only = {"jitter": 1.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    assert np.abs(augment(image, 32, Views(**(whole | only)), key=(0,)).pixels.astype(int) - plain).max() <= 1
    for name in ("brightness", "contrast", "saturation", "hue"):
        strength = 0.5 if name == "hue" else 0.8
        shown = augment(image, 32, Views(**(whole | only | {name: strength})), key=(0,)).pixels
        assert np.abs(shown.astype(int) - plain).mean() > 2, name


def test_the_test_transform_cuts_the_centre_and_draws_nothing() -> None:
    data = encoded(coordinates(200, 160))
    shown = decode_image(data, 64)
    assert shown.shape == (3, 64, 64)
    assert np.array_equal(shown, decode_image(data, 64))
    expected = (20 + (np.arange(64) + 0.5) / 64 * 160) / 200  # the middle 160 of 200 columns
    np.testing.assert_allclose(shown[0].mean(0) / 255, expected, atol=0.01)
    np.testing.assert_allclose(shown[1].mean(1) / 255, (np.arange(64) + 0.5) / 64, atol=0.01)


def broken() -> list[bytes]:
    draw = np.random.default_rng(0)
    found = [b"", b"\x89PNG\r\n\x1a\n", bomb(), encoded(pixels(1), "BMP")]
    for kind in ("PNG", "JPEG"):
        whole = encoded(pixels(1, size=(40, 40), channels=3), kind)
        found += [whole[: draw.integers(1, len(whole) - 20)] for _ in range(30)]
        for _ in range(200):
            data = bytearray(whole)
            for _ in range(4):
                data[draw.integers(0, 80)] = draw.integers(0, 256)
            found.append(bytes(data))
    return found


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_broken_bytes_raise_nothing_but_a_value_error() -> None:
    outcomes = []
    for data in broken():
        try:
            open_image(data)
            outcomes.append("whole")
        except ValueError:
            outcomes.append("refused")
    assert outcomes[:4] == ["refused"] * 4
    assert outcomes.count("refused") > 200


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_broken_rows_are_holes_that_shift_nobody() -> None:
    import pyarrow as pa

    whole = [encoded(pixels(n, size=(40, 40), channels=3)) for n in range(6)]
    torn = [whole[0], bomb(), whole[2], whole[3][:60], b"", whole[5]]
    decode = Decoder(seed=1, size=32, views=Views())

    def decoded(images: list[bytes | None]) -> dict[str, np.ndarray]:
        names = {"id": [f"row-{n}" for n in range(6)], "row": np.arange(6) + 40, "label": np.arange(6) - 1}
        names |= {"step": np.zeros(6, int)}
        names |= {"index": np.zeros(6, int), "epoch": np.full(6, 2)}
        return decode(pa.table({"image": pa.array(images, pa.binary()), **names}))

    clean, holed = decoded(whole), decoded(torn)
    assert clean["valid"].all()
    assert holed["valid"].tolist() == [True, False, True, False, False, True]
    for name in ("images", "boxes", "flipped"):
        assert np.array_equal(holed[name][holed["valid"]], clean[name][holed["valid"]]), name
    assert np.array_equal(holed["images"][1], clean["images"][0])  # never a blank picture beside real ones
    assert np.array_equal(holed["row"], clean["row"])
    assert holed["id"].tolist() == [f"row-{n}" for n in range(6)]
    reasons = [
        *("", "more than 16777216 pixels", ""),
        *("not a whole image (OSError)", "empty", ""),
    ]
    assert holed["reason"].tolist() == reasons
    assert not decoded([None] * 6)["valid"].any()


def test_a_sixteen_bit_or_grey_or_transparent_image_is_read_as_rgb() -> None:
    for mode in ("L", "P", "RGBA", "LA"):
        data = io.BytesIO()
        Image.fromarray(pixels(2, size=(30, 30))).convert("RGB").convert(mode).save(data, "PNG")
        assert open_image(data.getvalue()).mode == "RGB"


GOLDEN_VIEWS = [(2, 1, 49, 43, True), (3, 8, 49, 38, False), (22, 6, 35, 40, False)]
GOLDEN_MEANS = [61.4, 112.9, 61.6]


def test_small_views_come_beside_the_large_ones_which_stay_as_they_are() -> None:
    images = [pixels(seed, size=(60, 50), channels=3) for seed in range(3)]
    rows = [encoded(Image.fromarray(image)) for image in images]
    rows[1] = rows[1][:40]
    block = pa.table(
        {
            "image": pa.array(rows, pa.large_binary()),
            "id": ["a", "b", "c"],
            **{name: np.arange(3) for name in ("row", "label")},
            **{name: np.zeros(3, dtype=np.int64) for name in ("step", "index", "epoch")},
        }
    )
    plain, small = (
        Decoder(seed=1, size=32, views=Views(small=views)) for views in (None, SmallViews(count=4, size=16))
    )
    without, found = plain(block), small(block)
    assert not any(name.startswith("small_") for name in without)
    assert all(np.array_equal(found[name], value) for name, value in without.items())
    assert found["small_images"].shape == (3, 4, 3, 16, 16)
    assert np.array_equal(found["small_images"][1], found["small_images"][0])  # a hole shows the first good row
    area = found["small_boxes"][[0, 2], :, 2] * found["small_boxes"][[0, 2], :, 3]
    assert 0.06 < area.min() < area.max() < 0.43
    assert len(np.unique(found["small_boxes"][0], axis=0)) == 4
    batch = small.collate(found, key=DrawKey(1, 0, 0), weight=1.0)
    assert batch.small_images is not None
    assert np.array_equal(batch.small_images.numpy(), found["small_images"])
    assert plain.collate(without, key=DrawKey(1, 0, 0), weight=1.0).small_images is None
    assert small.row_bytes == plain.row_bytes + 4 * 3 * 16 * 16


@pytest.mark.parametrize(
    ("change", "message"),
    [({"count": 0}, "count must be >= 1"), ({"size": 8}, "size in"), ({"scale": (0.5, 0.2)}, "0 < low <= high <= 1")],
)
def test_small_views_that_make_no_sense_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SmallViews(**change)
