"""What is counted of a call: the bytes that it holds at most. So is how they grow, and that they do not creep up."""

import gc
from dataclasses import replace

import pytest
import torch

import robustdeq as rd
from robustdeq.attacks import EndToEnd
from robustdeq.bench import WORKS
from robustdeq.counting import Memory, Operations, graph_bytes, peak_bytes
from robustdeq.defences import entropy_reduction
from robustdeq.recipes import recipe
from robustdeq.training.step import TrainStep

KIB = 2**10


def test_what_is_held_at_most_is_counted_in_bytes():
    """256 float32 are a KiB. A view and a change in place hold nothing new; what was there before does not count."""
    before = torch.ones(256)

    def call():
        a = before + 1  # 1
        b = a * 2  # 2
        a.view(16, 16).t().add_(1)
        del a  # 1
        return torch.cat([b, b])  # 3

    with Memory() as memory:
        kept = call()
    assert (memory.peak, memory.held) == (3 * KIB, 2 * KIB) and kept.nbytes == 2 * KIB


def test_what_a_backward_pass_keeps_is_counted():
    x = torch.ones(256, requires_grad=True)
    chain = lambda: x.exp().exp().exp()  # noqa: E731 - each keeps its result
    with Memory() as memory:
        out = chain()
    assert memory.held == 3 * KIB
    del out
    assert memory.held == 0
    with torch.no_grad():
        assert peak_bytes(chain) == 2 * KIB


def _trained(steps, **options):
    """KiB an image of one forward and backward pass in train mode."""
    model = rd.create_model("mdeq-nano", steps=steps, seed=0, **options).train()
    x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def update():
        model(x).logsumexp(1).sum().backward()
        model.zero_grad()

    update()
    gc.collect()
    return peak_bytes(update) / len(x) / KIB


@pytest.mark.parametrize(
    "options",
    [
        {"gradient": "phantom", "solver": "picard"}, {"gradient": "phantom", "solver": "broyden"},
        {"gradient": "implicit", "solver": "picard"}, {"gradient": "unrolled", "solver": "reversible"},
    ],
    ids=lambda options: "-".join(options.values()),
)  # fmt: skip
def test_the_memory_of_training_does_not_grow_with_the_steps(options):
    """Broyden's own columns do, up to its memory: two of the size of the state a step."""
    grown = _trained(12, **options) - _trained(4, **options)
    columns = 8 * 2 * 1536 / KIB if options["solver"] == "broyden" else 0
    assert grown <= columns + 0.1


def test_with_every_step_s_graph_kept_it_does_grow():
    assert _trained(12, gradient="unrolled") > 2 * _trained(4, gradient="unrolled")


def _held(work, model, count):
    x = torch.rand(count, *model.image_shape, generator=torch.Generator().manual_seed(0))
    call = WORKS[work](model, x, torch.arange(count) % 10)
    call()
    gc.collect()
    return peak_bytes(call) / count / KIB


AT_MOST = {
    "one f": 7.0, "solve": 11.6, "forward": 15.5, "attack step, unrolled": 144.2, "attack step, phantom": 111.6,
    "entropy reduction": 42.5, "update on clean images": 156.7, "update, PGD-AT-10": 157, "update, TRADES-10": 312,
}  # fmt: skip
"""KiB an image, of mdeq-nano at its 8 steps and a batch of 64, weights included."""


@pytest.mark.parametrize("work", AT_MOST)
def test_the_peak_of_a_work_has_not_grown(work):
    found = _held(work, rd.create_model("mdeq-nano", seed=0).eval(), 64)
    assert 0.8 * AT_MOST[work] < found <= 1.02 * AT_MOST[work], f"{work}: {found:.1f} KiB"


def test_entropy_reduction_of_a_large_model_needs_little_more_than_plain_inference():
    model = rd.create_model("mdeq-large", seed=0).eval()
    assert _held("entropy reduction", model, 2) <= 1.3 * _held("forward", model, 2)


@pytest.fixture
def nothing_kept(monkeypatch):
    monkeypatch.setattr(entropy_reduction, "KEPT", 0)


def test_what_a_graph_keeps_is_counted():
    x = torch.ones(256, requires_grad=True)
    (out, kept) = graph_bytes(lambda: x.exp().exp() + 1)
    assert kept == 2 * KIB
    assert torch.autograd.grad(out.sum(), x)[0].unique().tolist() == [
        pytest.approx(2.718281828**2 * 2.718281828**1.718281828)
    ]


def test_graphs_of_updates_are_kept_where_they_fit_and_the_gradient_has_the_same_bits(monkeypatch):
    model = rd.create_model("mdeq-nano", seed=0).eval()
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    view = EndToEnd(rd.EntropyReduction()(model))

    def found(kept):
        monkeypatch.setattr(entropy_reduction, "KEPT", kept)
        model.tally.updates, at = 0, x.clone().requires_grad_()
        slope = torch.autograd.grad(view(at).logsumexp(1).sum(), at)[0]
        return slope, model.tally.updates

    (again, twice), (kept, once) = found(0), found(2**30)
    assert torch.equal(again, kept)
    # The first one's graph is kept, to see how large it is. One that is not is made again for the gradient of the
    # entropy, and again for that of the loss.
    assert once == 30 * len(x) and twice == once + 2 * 29 * len(x)


def test_the_end_to_end_gradient_keeps_less_than_three_images_of_each_update_made_again(nothing_kept):
    model = rd.create_model("mdeq-nano", seed=0).eval()
    x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def peak(updates):
        view = EndToEnd(rd.EntropyReduction(updates=updates)(model))

        def call():
            at = x.clone().requires_grad_()
            torch.autograd.grad(view(at).logsumexp(1).sum(), at)

        call()
        gc.collect()
        return peak_bytes(call) / len(x)

    image, blocks = 4 * 64, 3
    assert peak(12) - peak(6) <= 3 * blocks * 6 * image < peak(6) / 10


def _operations(row, count=8):
    """Of a forward, and of the whole training, for an image."""
    model = rd.create_model(row.model, seed=0, **row.model_options)
    x, y, total = torch.rand(count, 3, 32, 32), torch.arange(count), 0.0
    with torch.no_grad(), Operations() as forward:
        model.eval()(x)
    for phase in row.training.phases:
        config = replace(row.training, phases=(phase,), batch_size=count)
        step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=1e-9), config, 100)
        with Operations() as update:
            step(x, y, 0, 0)
        total += phase.epochs * update.total
    return forward.total / count, total / count, sum(weight.numel() for weight in model.parameters())


def test_further_rows_of_cifar10_small_cost_what_the_baseline_does():
    rows = recipe("cifar10-small").rows
    baseline, explicit, phantom = (
        _operations(rows[row]) for row in ("baseline", "explicit network", "phantom gradient")
    )
    assert explicit == pytest.approx(baseline, rel=0.03)
    assert phantom == pytest.approx(baseline, rel=0.03)
