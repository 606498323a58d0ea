"""Images: every mode becomes 8-bit grey or RGB; damaged, huge and foreign files are refused with a reason."""

import io

import numpy as np
import pytest
from drawn_images import PHI, bomb, encoded, pixels
from PIL import Image

from medalign.data import images
from medalign.data.images import ImageReject


def test_a_grey_image_comes_back_pixel_for_pixel():
    grey = pixels(1)
    opened = images.open_image(encoded(grey))
    assert opened.mode == "L"
    assert np.array_equal(np.asarray(opened), grey)
    assert np.array_equal(np.asarray(images.decode(images.encode(opened))), grey)


def test_rgb_with_equal_channels_becomes_grey_and_colour_stays_colour():
    grey, colour = pixels(2), pixels(2, channels=3)
    assert images.open_image(encoded(np.stack([grey] * 3, axis=-1))).mode == "L"
    opened = images.open_image(encoded(colour))
    assert opened.mode == "RGB"
    assert np.array_equal(np.asarray(opened), colour)


def test_16_bit_and_float_images_are_mapped_from_their_own_range():
    values = np.array([[100, 356], [612, 1120]], dtype=np.uint16)  # 0, 256, 512, 1020 above the least
    expected = np.array([[0, 64], [128, 255]], dtype=np.uint8)
    assert np.array_equal(np.asarray(images.open_image(encoded(values))), expected)
    floats = Image.fromarray(values.astype(np.float32), mode=None)
    assert np.array_equal(np.asarray(images.open_image(encoded(floats, "TIFF"))), expected)
    assert np.array_equal(np.asarray(images.from_array(values.astype(np.int32))), expected)


def test_pixels_that_are_not_finite_are_refused():
    with pytest.raises(ImageReject, match="not finite"):
        images.open_image(encoded(Image.fromarray(np.array([[0, np.nan]], dtype=np.float32)), "TIFF"))


def test_cmyk_palette_alpha_and_bilevel_images_become_grey_or_rgb():
    colour = Image.fromarray(pixels(3, channels=3))
    cmyk = images.open_image(encoded(colour.convert("CMYK"), "TIFF"))
    assert cmyk.mode == "RGB"
    assert np.abs(np.asarray(cmyk).astype(int) - np.asarray(colour)).max() <= 1
    palette = images.open_image(encoded(colour.quantize(8), "PNG"))
    assert palette.mode == "RGB"
    assert np.array_equal(np.asarray(palette), np.asarray(colour.quantize(8).convert("RGB")))
    half = colour.copy()
    half.putalpha(128)
    over_black = np.asarray(images.open_image(encoded(half))).astype(float)
    assert np.abs(over_black - np.asarray(colour) * (128 / 255)).max() <= 1
    bilevel = images.open_image(encoded(Image.fromarray(pixels(3) > 127)))
    assert bilevel.mode == "L"
    assert set(np.unique(bilevel)) == {0, 255}


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.fromarray(pixels(seed)) for seed in (4, 5, 6)]
    opened = images.open_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert np.abs(np.asarray(opened).astype(int) - pixels(4)).max() <= 1
    stack = images.open_image(encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
    assert np.array_equal(np.asarray(stack), pixels(4))


def test_exif_orientation_is_applied_and_no_metadata_is_kept():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    exif[0x010E] = PHI
    data = encoded(pixels(7), exif=exif)
    assert PHI.encode() in data
    opened = images.open_image(data)
    assert np.array_equal(np.asarray(opened), np.rot90(pixels(7), -1))
    for encoding in ("png", "jpeg"):
        assert PHI.encode() not in images.encode(opened, encoding)


def test_a_bomb_is_refused_from_its_header(recwarn):
    with pytest.raises(ImageReject, match="more than"):
        images.open_image(bomb())
    with pytest.raises(ImageReject, match="9000 x 9000 pixels"):
        images.open_image(bomb(9000, 9000))
    with pytest.raises(ImageReject, match="24 x 20 pixels|20 x 24 pixels"):
        images.open_image(encoded(pixels(1)), max_pixels=479)
    assert not recwarn


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"\x89PNG\r\n\x1a\n", "not an image|damaged"),
        (b"SIMPLE  =                    T", "not an image"),  # FITS: not on the list
        (encoded(pixels(1), "JPEG")[:200], "not an image|damaged"),
        (encoded(pixels(1, size=(200, 200)))[:-200], "damaged"),
        (encoded(pixels(1), "ICO"), "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    ],
)
def test_damaged_empty_and_foreign_files_are_refused_with_a_reason(data, reason):
    with pytest.raises(ImageReject, match=reason):
        images.open_image(data)


def test_scaling_down_averages_areas_and_never_scales_up():
    grey = pixels(8, size=(64, 32))
    blocks = grey.reshape(16, 4, 8, 4).astype(float).mean(axis=(1, 3))
    small = images.fit(Image.fromarray(grey), 16)
    assert small.size == (8, 16)
    assert np.abs(np.asarray(small) - blocks).max() <= 1  # Pillow rounds after each axis
    assert images.fit(Image.fromarray(grey), 64).size == (32, 64)


def test_grey_and_small_images_are_stored_lossless_and_large_colour_as_jpeg():
    large = Image.fromarray(pixels(9, size=(200, 200), channels=3))
    assert images.encode(large).startswith(b"\xff\xd8")
    assert images.encode(large.convert("L")).startswith(b"\x89PNG")
    assert images.encode(large.resize((64, 64))).startswith(b"\x89PNG")
    assert images.encode(large, "png").startswith(b"\x89PNG")
    error = np.abs(np.asarray(images.decode(images.encode(large))).astype(int) - np.asarray(large))
    assert error.mean() < 2


def test_the_pixel_hash_is_of_the_picture_and_not_of_its_file():
    image = Image.fromarray(pixels(10))
    again = Image.open(io.BytesIO(encoded(image, "TIFF")))
    assert images.pixel_hash(image) == images.pixel_hash(again)
    other = pixels(10).copy()
    other[0, 0] ^= 1
    assert images.pixel_hash(image) != images.pixel_hash(Image.fromarray(other))
    assert images.pixel_hash(image) != images.pixel_hash(Image.fromarray(pixels(10).T.copy()))
