"""Images that come in, of a set, of a file, of a Space, and what their classes are called."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from small_models import own

import robustdeq as rd
from robustdeq.view import first_images, read_images, save_images
from robustdeq.view.examples import class_names, uploaded


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(mode="RGB", size=(8, 8)):
    channels = len(Image.new(mode, (1, 1)).getbands())
    numbers = np.random.default_rng(0).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(numbers.squeeze(2) if channels == 1 else numbers, mode)


def test_an_image_of_the_model_s_shape_comes_in_as_it_is():
    image = noise()
    x = uploaded(encoded(image), "a.png", (3, 8, 8))
    assert x.shape == (1, 3, 8, 8) and x.dtype == torch.float32
    assert np.array_equal((x[0] * 255).round().byte().permute(1, 2, 0).numpy(), np.asarray(image))


def test_a_grey_image_has_three_equal_channels_and_a_coloured_one_its_luminance():
    grey = noise("L")
    x = uploaded(encoded(grey), "a.png", (3, 8, 8))
    assert torch.equal(x[:, :1].expand_as(x), x)
    image = noise()
    x = uploaded(encoded(image), "a.png", (1, 8, 8))
    r, g, b = np.asarray(image, dtype=float).transpose(2, 0, 1)
    assert np.abs(x[0, 0].numpy() * 255 - (0.299 * r + 0.587 * g + 0.114 * b)).max() <= 1  # ITU-R 601


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 4, 8), (1, 8, 4)])
def test_the_largest_part_in_the_middle_is_kept(shape):
    height, width = shape[1:]
    wide = Image.new("L", (10 * width + 200, 10 * height), 255)
    wide.paste(100, (100, 0, 100 + 10 * width, 10 * height))
    x = uploaded(encoded(wide), "a.png", shape) - 100 / 255
    assert x.shape == (1, *shape) and not x[..., 1:-1].any()
    assert x.min() >= 0 and x.max() < 0.1  # a pixel at the edge sees half a pixel beyond it


def test_transparency_is_white_and_the_camera_s_side_is_up():
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert torch.equal(uploaded(encoded(clear), "a.png", (1, 8, 8)), torch.ones(1, 1, 8, 8))
    image, exif = noise(), Image.Exif()
    exif[0x0112] = 6  # taken on its side
    turned = uploaded(encoded(image, exif=exif), "a.png", (3, 8, 8))
    image.getexif()[0x0112] = 6
    upright = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal((turned[0] * 255).round().byte().permute(1, 2, 0).numpy(), upright)


@pytest.mark.parametrize(
    "data, message",
    [(b"", "empty"), (b"not a picture", "broken image"), (b"<svg/>", "broken image"),
     (encoded(noise())[:60], "broken image"), (encoded(Image.new("I;16", (8, 8))), "8 bits")],
)  # fmt: skip
def test_what_is_no_image_is_one_line_that_names_the_file(data, message):
    with pytest.raises(ValueError, match=message) as error:
        uploaded(data, "a\n\x1b[31m<b>.png", (3, 8, 8))
    line = str(error.value)
    assert len(line.splitlines()) == 1 and "<b>.png" in line and "\x1b" not in line


def test_a_model_of_two_channels_takes_no_uploads():
    with pytest.raises(ValueError, match="2 channels; allowed for uploads: 1 or 3"):
        uploaded(encoded(noise()), "a.png", (2, 8, 8))


def test_images_beside_a_space_are_read_as_they_were(tmp_path, digits):
    save_images(tmp_path / "images.safetensors", digits)
    back = read_images(tmp_path / "images.safetensors")
    assert back.digest() == digits.digest() and torch.equal(back.images(), digits.images())
    assert (back.classes, back.source, back.white) == (digits.classes, digits.source, digits.white)
    (tmp_path / "images.safetensors").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"cannot be read .* --space"):
        read_images(tmp_path / "images.safetensors")


def test_the_first_test_images_are_taken_in_the_model_s_shape(tmp_path):
    assert first_images("digits", (1, 8, 8), 5).digest() == rd.data.digits().test.take(slice(5)).digest()
    assert len(first_images("digits", (1, 8, 8), 10_000)) == 360
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                noise("L", (9, 12)).save(folder / f"{number}.png")
    for shape in ((1, 8, 8), (3, 8, 8)):
        images = first_images(str(tmp_path), shape, 4)
        assert images.pixels.shape == (4, *shape) and images.classes == ("cat", "dog")
    with pytest.raises(ValueError, match=r"allowed: \(3, 8, 8\), as the model takes them, or no --data"):
        first_images("digits", (3, 8, 8), 4)


def test_classes_are_called_as_the_model_says_or_the_images_or_by_numbers(digits):
    ten, four = own(10, side=8), own(4, side=8)
    assert class_names(four, digits) == ("0", "1", "2", "3")  # ten names are not theirs
    assert class_names(ten, digits) == digits.classes
    assert class_names(ten, None) == tuple(map(str, range(10)))
    ten.classes = tuple("abcdefghij")
    assert class_names(ten, digits) == tuple("abcdefghij")
