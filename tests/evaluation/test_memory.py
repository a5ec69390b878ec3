"""What an evaluation holds at a time does not grow with the set: images are uint8, and floats a batch at a time."""

import weakref

import pytest
import torch
from small_models import own
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import robustdeq as rd
from robustdeq.data import ImageSet
from robustdeq.evaluation import Entry

BATCH = 16


class Ledger(TorchDispatchMode):
    """The largest floating-point tensor made inside, in numbers, and the most bytes that were alive at once."""

    def __init__(self, images):
        """images: what is there before is not counted."""
        super().__init__()
        self.largest = self.alive = self.peak = 0
        self.known = {images.pixels.untyped_storage()._cdata}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor)
        return out

    def _note(self, tensor):
        if tensor.is_floating_point():
            self.largest = max(self.largest, tensor.numel())
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key, size):
        self.known.discard(key)
        self.alive -= size


def _set(count):
    pixels = torch.randint(0, 256, (count, 1, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count) % 3, ("a", "b", "c"), "noise")


@pytest.mark.parametrize("kept", [False, True])
def test_the_peak_does_not_grow_with_the_set(kept, tmp_path):
    model = own(side=32, steps=2)

    def measured(count):
        images = _set(count)
        entries = [Entry("shift", "A", lambda model, x, y, indices: (x + 0.1).clamp(0, 1))]
        with Ledger(images) as ledger:
            out = tmp_path / str(count) if kept else None
            options = {"threat": rd.Linf(0.1), "batch_size": BATCH, "out": out, "images": kept}
            found = rd.evaluate(model, images, suite=entries, checks=0, **options)
            if kept:
                again = {"transfers": {"T/shift": found.images["shift"]}}
                rd.evaluate(model, images, suite=[], checks=0, **{**options, "out": None, "images": False}, **again)
        return ledger

    few, many = measured(2 * BATCH), measured(20 * BATCH)
    assert few.largest == many.largest == BATCH * 32 * 32
    assert many.peak <= few.peak + 64 * 20 * BATCH  # an image has 4,096 bytes as floats


def test_the_checks_hold_no_more_than_a_batch():
    model = own(side=32, steps=2)
    images = _set(3 * BATCH)
    with Ledger(images) as ledger:
        rd.evaluate(model, images, suite=[], checks=3 * BATCH, batch_size=BATCH)
    assert ledger.largest <= 4 * BATCH * 32 * 32
