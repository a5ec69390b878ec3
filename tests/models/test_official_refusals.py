"""Files and state dicts that are no checkpoint of the papers: one line each, and nothing allocated before."""

import contextlib
import io
import pickle
import random

import numpy as np
import pytest
import torch

from robustdeq.models import create_model, load_official, to_official

MODEL = create_model("mdeq-nano", seed=0, stem_stride=1)
STATE = {key: value.clone() for key, value in to_official(MODEL).items()}
FLOATING = [key for key, value in STATE.items() if value.is_floating_point()]


def refused(source, match="allowed|papers|does not fit", **options):
    with pytest.raises(ValueError, match=match) as seen:
        load_official(source, **{"image_size": (8, 8), **options})
    assert len(str(seen.value).splitlines()) <= 2


@pytest.mark.parametrize("source", [None, 5, True, [], np.zeros(3), torch.zeros(3), MODEL, io.BytesIO(b"x")], ids=type)
def test_a_source_is_a_path_or_a_dict(source):
    refused(source, "load_official: source is a .*; allowed: a path, or a state dict")


@pytest.mark.parametrize(
    "content",
    [
        {}, {"state_dict": None}, {"state_dict": {}}, {"state_dict": {"state_dict": STATE}}, {"model": STATE},
        {5: torch.zeros(1)}, {None: torch.zeros(1)}, {"fullstage.branches.": torch.zeros(1)},
        {"fullstage.branches.x.blocks": torch.zeros(1)},
        {"fullstage.branches.9.blocks.0.gn2.weight": torch.zeros(8)},
        {**STATE, **{f"fullstage.branches.{scale}.x": torch.zeros(1) for scale in range(400)}},
    ],
    ids=lambda content: str(list(content))[:40],
)  # fmt: skip
def test_dicts_that_are_no_checkpoint(content):
    refused(content)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_files(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(STATE, path)
    whole, noise = path.read_bytes(), random.Random(0)
    cuts = [whole[:size] for size in (0, 1, 100, len(whole) // 2, len(whole) - 1)]
    for content in [*cuts, b"PK\x03\x04", b"\x80\x04", b"{}", bytes(1000), pickle.dumps(STATE), b"hello"]:
        path.write_bytes(content)
        refused(path, "model.pt cannot be read as weights")
    for _ in range(10):
        damaged = bytearray(whole)
        for _ in range(50):
            damaged[noise.randrange(len(damaged))] ^= noise.randrange(1, 256)
        path.write_bytes(bytes(damaged))
        with contextlib.suppress(ValueError):
            load_official(path, image_size=(8, 8))


WRONG = {
    "int8": lambda t: t.to(torch.int8),
    "int64": lambda t: t.long(),
    "bool": lambda t: t > 0,
    "complex": lambda t: t + 0j,
    "scalar": lambda t: t.flatten()[0],
    "empty": lambda t: t.flatten()[:0],
    "more": lambda t: torch.cat([t, t]),
    "sparse": lambda t: t.to_sparse(),
    "meta": lambda t: t.to("meta"),
    "numpy": lambda t: t.numpy(),
    "none": lambda t: None,
    "one number repeated": lambda t: torch.zeros(1).expand(2**30, *t.shape[1:]),
    "one repeated, without a shape": lambda t: torch.zeros(1).expand(2**40),
    "quantised": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("change", WRONG.values(), ids=list(WRONG))
def test_tensors_of_another_kind_or_size(change):
    refused({key: change(value) if value.dim() else value for key, value in STATE.items()})
    some = random.Random(0).sample(FLOATING, 12)
    for key in ["downsample.0.weight", "classifier.weight", "final_layer.0.weight", *some]:
        refused({**STATE, key: change(STATE[key])})


@pytest.mark.parametrize("prefix", ["classifier.", "final_layer.", "downsample.", "incre_modules.0.", "fullstage.bran"])
@pytest.mark.parametrize("size", [0, 2**20, 2**34])
def test_sizes_are_bounded_by_what_the_file_holds(prefix, size):
    """Of vectors alone, whose products no memory would hold; and of one number that is repeated."""
    vectors = {key: value for key, value in STATE.items() if key.startswith(prefix) and value.dim() == 1}
    if size < 2**30:
        refused({**STATE, **{key: torch.zeros(size) for key in vectors}})
    repeated = {key: torch.zeros(1).expand(size, *STATE[key].shape[1:]) for key in STATE if key.startswith(prefix)}
    refused({**STATE, **{key: value for key, value in repeated.items() if STATE[key].dim()}})


@pytest.mark.parametrize("size", [None, 5, "32", (8,), (8, 8, 8), (8.0, 8.0), (0, 0), (9, 9), (True, 8), (2**70, 8)])
def test_wrong_image_sizes(size):
    refused(STATE, "image_size|image_shape|size of the state", image_size=size)
