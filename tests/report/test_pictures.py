"""A picture on the page is the image: every pixel of a small one, the mean of a large one."""

import base64
import io

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from robustdeq.data.pictures import data_uri, magnified
from robustdeq.report.samples import BUDGET, _Pictures


def _pixels(uri):
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


@given(st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_a_small_image_keeps_every_pixel(channels, height, width, seed):
    image = torch.randint(0, 256, (channels, height, width), generator=torch.Generator().manual_seed(seed)) / 255
    pixels = _pixels(data_uri(image, 16)).reshape(height, width, channels)
    assert (pixels == (image * 255).round().byte().permute(1, 2, 0).numpy()).all()


def test_a_large_image_becomes_smaller_and_stays_itself():
    image = torch.zeros(3, 100, 40)
    image[0] = 1
    pixels = _pixels(data_uri(image, 50))
    assert pixels.shape == (50, 20, 3) and (pixels == [255, 0, 0]).all()


@given(st.floats(1e-4, 1.0), st.integers(0, 99))
def test_a_magnified_change_can_be_read_back(size, seed):
    change = size * (2 * torch.rand(1, 3, 3, generator=torch.Generator().manual_seed(seed)) - 1)
    picture, factor = magnified(change)
    assert torch.allclose((picture - 0.5) / factor, change, atol=1e-6 + size * 1e-4)
    assert float((picture - 0.5).abs().max()) > 0.499


def test_no_change_is_grey():
    picture, factor = magnified(torch.zeros(1, 2, 2))
    assert (picture == 0.5).all() and factor == 1


def _noise(count, side):
    pictures, generator = _Pictures(), torch.Generator().manual_seed(0)
    for number in range(count):
        pictures.add(torch.rand(3, side, side, generator=generator), number % 100)
    return pictures


def test_a_hundred_noisy_samples_stay_within_the_budget():
    """Noise is what PNG compresses worst; four pictures of each of 100 samples."""
    pictures, missing = _noise(400, 64), []
    assert pictures.add(pictures.images[7], 99) == 7
    uris = pictures.encoded(missing)
    assert sum(map(len, uris)) <= BUDGET and all(uris) and not missing
    assert 32 <= max(_pixels(uris[0]).shape) < 64


def test_what_does_not_fit_is_left_out_from_the_last_samples_on():
    pictures, missing = _noise(1000, 32), []
    uris = pictures.encoded(missing)
    assert sum(map(len, uris)) <= BUDGET and "pictures of the last samples are left out" in missing[0]
    kept = [row for row, uri in zip(pictures.rows, uris) if uri]
    left = [row for row, uri in zip(pictures.rows, uris) if not uri]
    assert max(kept) <= min(left) and len(kept) > 700
