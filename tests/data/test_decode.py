"""Image files of every kind become upright 8-bit pixels; squares of a given size."""

import struct
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import encoded, numbered
from PIL import Image

from robustdeq.data.images import Row, decode, fit, open_image


def opened(data: bytes):
    return open_image(Row("here", data, 0))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_exact_formats_give_back_the_pixels(kind):
    image, jpeg, _ = opened(encoded(numbered(3), kind))
    assert np.array_equal(np.asarray(image), numbered(3)) and not jpeg


@pytest.mark.parametrize("mode", ["P", "CMYK", "L", "1"])
def test_every_8_bit_mode_becomes_grey_or_rgb(mode):
    image = Image.fromarray(numbered(3)).convert(mode)
    decoded, *_ = opened(encoded(image, "TIFF"))
    assert decoded.mode == ("L" if mode in ("L", "1") else "RGB")
    assert np.array_equal(np.asarray(decoded), np.asarray(image.convert(decoded.mode)))


def test_a_photograph_held_sideways_is_turned_upright():
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right to see it upright
    image, jpeg, _ = opened(encoded(pixels, "JPEG", exif=exif))
    upright = np.asarray(image)
    assert jpeg and upright.shape == (16, 8, 3)
    assert (upright[:6] > 200).all() and (upright[10:] < 50).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L"])
def test_transparent_pixels_are_shown_on_white_and_it_is_told(mode):
    pixels = Image.new(mode, (4, 4), 0)
    options = {"transparency": 0} if mode == "L" else {}
    image, _, clear = opened(encoded(pixels, "PNG", **options))
    assert clear and image.mode == ("RGB" if mode == "RGBA" else "L") and (np.asarray(image) == 255).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opaque = Image.fromarray(numbered(1)).convert("RGBA")
        image, _, clear = opened(encoded(opaque, "PNG"))
        assert not clear and np.array_equal(np.asarray(image), numbered(1))
        palette = Image.fromarray(numbered(1)).convert("P")  # of which Pillow would warn, were it not made RGBA first
        assert opened(encoded(palette, "PNG", transparency=bytes([0, 100, 200])))[0].mode == "RGB"


def sixteen_bit_rgb() -> bytes:
    """A PNG of one pixel, which Pillow opens as 8-bit RGB."""
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(7))) + chunk(b"IEND", b"")


PPM = [b"P6 1 1 65535\n" + bytes(6), b"P3 1 1 999\n1 2 3\n"]


@pytest.mark.parametrize("data", [encoded(np.zeros((6, 6), np.uint16)), sixteen_bit_rgb(), *PPM])
def test_16_bits_are_refused(data):
    with pytest.raises(ValueError, match=r"here: pixels of mode .*16.*; allowed: 8 bits"):
        opened(data)


@pytest.mark.filterwarnings("ignore:Image size")
def test_other_formats_and_bombs_are_not_decoded(monkeypatch):
    with pytest.raises(ValueError, match="here: broken image; allowed: PNG, JPEG"):
        opened(encoded(numbered(1), "EPS"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    with pytest.raises(ValueError, match=r"here: broken image .DecompressionBombError: 6x6 pixels"):
        opened(encoded(numbered(1)))


def test_rows_come_in_order_with_their_pixels():
    rows = (Row(str(i), encoded(numbered(i)), i) for i in range(150))
    assert [(row.label, int(pixels[0, 0, 0])) for row, pixels, *_ in decode(rows, None)] == [(i, i) for i in range(150)]


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


def test_fit_leaves_an_image_of_the_right_size_alone_and_crops_follow_their_place():
    assert np.array_equal(np.asarray(fit(Image.fromarray(numbered(1)), 6)), numbered(1))
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 4, 64, 0).repeat(3, 2)
    means = [np.asarray(fit(Image.fromarray(ramp), 8, (across, 0.5))).mean() for across in (0.0, 0.5, 1.0)]
    middle = np.asarray(fit(Image.fromarray(ramp), 8)).mean()
    assert means[0] < means[1] - 8 < means[2] - 16 and means[1] == pytest.approx(middle, abs=1)
