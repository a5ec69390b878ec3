"""Image files of every kind become upright 8-bit pixels; squares of a given size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import encoded, numbered
from PIL import Image

from robustdeq.data.decode import fit, open_image, pixels_of
from robustdeq.data.rows import Row


def opened(data: bytes):
    return open_image(Row("here", data, 0))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_exact_formats_give_back_the_pixels(kind):
    image, jpeg = opened(encoded(numbered(3), kind))
    assert np.array_equal(pixels_of(image), numbered(3).transpose(2, 0, 1)) and not jpeg


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "L", "1", "LA"])
def test_every_8_bit_mode_becomes_grey_or_rgb(mode):
    image = Image.fromarray(numbered(3)).convert(mode)
    stored = encoded_image(image, "TIFF")
    found, _ = opened(stored)
    assert found.mode == ("L" if mode in ("L", "1", "LA") else "RGB")
    assert np.array_equal(np.asarray(found), np.asarray(image.convert(found.mode)))


def encoded_image(image: Image.Image, kind: str, **options) -> bytes:
    import io

    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_a_photograph_held_sideways_is_turned_upright():
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right to see it upright
    image, jpeg = opened(encoded(pixels, "JPEG", exif=exif))
    upright = np.asarray(image)
    assert jpeg and upright.shape == (16, 8, 3)
    assert (upright[:6] > 200).all() and (upright[10:] < 50).all()


@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    size=st.integers(1, 24),
    place=st.none() | st.tuples(st.floats(0, 1), st.floats(0, 1)),
    value=st.integers(0, 255),
)
@settings(max_examples=60, deadline=None)
def test_fit_gives_a_square_that_lies_inside(width, height, size, place, value):
    """A flat image stays flat: nothing from outside the image is blended in."""
    image = fit(Image.new("RGB", (width, height), (value, value, value)), size, place)
    assert image.size == (size, size) and image.getextrema() == ((value, value),) * 3


def test_fit_leaves_an_image_of_the_right_size_alone():
    image = Image.fromarray(numbered(1))
    assert np.array_equal(np.asarray(fit(image, 6)), numbered(1))


def test_crops_follow_their_place():
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 4, 64, 0).repeat(3, 2)
    means = [np.asarray(fit(Image.fromarray(ramp), 8, (across, 0.5))).mean() for across in (0.0, 0.5, 1.0)]
    middle = np.asarray(fit(Image.fromarray(ramp), 8)).mean()
    assert means[0] < means[1] - 8 < means[2] - 16 and means[1] == pytest.approx(middle, abs=1)
