"""Auto-PGD: the reference's steps from the same start; each sample by itself, however many runs are side by side."""

from contextlib import contextmanager
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from small_models import Linear, Shifted, Watched, images, own
from torch import nn

from robustdeq import L2, Linf, data
from robustdeq.attacks import APGD, LOSSES, PGD, predictions
from robustdeq.attacks.losses import Goal
from robustdeq.attacks.starts import numbered

MODEL = own(classes=5)
KINDS = {"deq": lambda: own(5, side=8), "convnet": lambda: convnet()}
THREAT = st.one_of(st.floats(0, 1).map(Linf), st.floats(0, 5).map(L2))
THREATS = pytest.mark.parametrize("threat", [Linf(0.03), L2(0.15)])


def convnet():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = [nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*parts, nn.Linear(72, 5)).eval()


def begun(threat, x, indices, restart=0):
    return threat.spread(x, numbered(x, 0, restart, indices))


def labelled(model, count=8, *, side=4, dtype=torch.float32):
    """Images, the labels that the model gives, and numbers of a data set."""
    x = images(count, shape=(1, side, side)).to(dtype)
    with torch.no_grad():
        return x, predictions(model(x)), 7 * torch.arange(count) + 3


def wrong(model, x, y):
    with torch.no_grad():
        return predictions(model(x)) != y


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def ranked(model, x, y):
    """The wrong classes, the likeliest first."""
    with torch.no_grad():
        return model(x).scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)[:, :-1]


def referred(model, x, y, start, threat, loss, iterations, target):
    """The reference from ``start``: points of highest loss, who stands, that loss, all iterates. Its first check
    compares the first loss with a 0, which the cross-entropy is above. The others are told the loss at the start."""
    watched, options = Watched(model), {"n_iter": iterations, "norm": threat.name, "eps": threat.eps}
    made = APGDAttack_targeted(watched, **options) if "targeted" in loss else APGDAttack(watched, loss=loss, **options)
    made.y_target, plain = target, made.check_oscillation

    def check(losses, step, span, *rest, **more):
        if step == span - 1:
            losses[-1] = LOSSES[loss](model(start), Goal(y, target)).detach()
        return plain(losses, step, span, *rest, **more)

    made.check_oscillation = plain if loss == "ce" else check
    made.init_hyperparam(x)
    return *made.attack_single_run(x, y, x_init=start)[:3], torch.stack(watched.seen)


def compared(model, threat, loss, iterations, dtype):
    """All iterates of both, (T, P, C, H, W), and both results, on samples that stand."""
    x, y, indices = labelled(model, 32, side=8, dtype=dtype)
    start = begun(threat, x, indices)
    stands = referred(model, x, y, start, threat, loss, iterations, ranked(model, x, y)[:, 0])[1]
    assert stands.sum() > 8
    x, y, indices, start = x[stands], y[stands], indices[stands], start[stands]
    best, _, _, wanted = referred(model, x, y, start, threat, loss, iterations, ranked(model, x, y)[:, 0])
    watched = Watched(model)
    found = APGD(threat, iterations, loss=loss, targets=1)(watched, x, y, indices=indices)
    return torch.stack(watched.seen[-iterations - 1 :]), wanted, found, best


@pytest.mark.parametrize("iterations", [7, 20, 100])
@pytest.mark.parametrize("loss", ["ce", "dlr", "dlr-targeted"])
@pytest.mark.parametrize("make", KINDS.values(), ids=list(KINDS))
def test_takes_the_reference_s_steps_under_linf(make, loss, iterations):
    """To the bit: signs, halves and clips are the same operations."""
    seen, wanted, found, best = compared(make(), Linf(0.03), loss, iterations, torch.float32)
    assert torch.equal(seen, wanted) and torch.equal(found, best)


@pytest.mark.parametrize("loss", ["ce", "dlr", "dlr-targeted"])
@pytest.mark.parametrize("make", KINDS.values(), ids=list(KINDS))
def test_takes_the_reference_s_steps_under_l2(make, loss):
    """In float64. In float32 lengths are rounded otherwise, which turns comparisons of nearly equal losses: up to the
    first check of the step size for all samples, to the end for most."""
    with default_dtype(torch.float64):
        for iterations in (20, 100):
            seen, wanted, found, best = compared(make().double(), L2(0.15), loss, iterations, torch.float64)
            torch.testing.assert_close(seen, wanted, rtol=0, atol=1e-6)
            torch.testing.assert_close(found, best, rtol=0, atol=1e-6)
    seen, wanted, _, _ = compared(own(5, side=8), L2(0.15), loss, 100, torch.float32)
    torch.testing.assert_close(seen[:23], wanted[:23], rtol=0, atol=1e-6)
    assert ((seen - wanted).flatten(2).abs().amax((0, 2)) < 1e-5).float().mean() > 0.5


@THREATS
@pytest.mark.parametrize(("loss", "targets"), [("ce", 1), ("dlr-targeted", 3)])
def test_of_all_runs_side_by_side_the_result_is_that_of_the_reference_s_runs(threat, loss, targets):
    """One that falls has the first image that is misclassified: the earliest step, then the first restart, then the
    first target. One that stands has that of the highest loss."""
    with default_dtype(torch.float64):
        model = own(5, side=8).double()
        x, y, indices = labelled(model, 48, side=8, dtype=torch.float64)
        runs = product([begun(threat, x, indices, restart) for restart in (0, 1)], ranked(model, x, y).T[:targets])
        seen = [referred(model, x, y, start, threat, loss, 20, target) for start, target in runs]
        best, stands, losses, iterates = map(torch.stack, zip(*seen))
        found = APGD(threat, 20, 2, loss=loss, targets=targets)(model, x, y, indices=indices)
    iterates, each = iterates.transpose(0, 1).flatten(0, 1), torch.arange(48)
    first = wrong(model, iterates.flatten(0, 1), y.repeat(len(iterates))).view(-1, 48)
    fallen = ~stands.all(0)
    assert torch.equal(wrong(model, found, y), fallen) and torch.equal(first.any(0), fallen) and 8 < fallen.sum() < 40
    torch.testing.assert_close(found[fallen], iterates[first.int().argmax(0), each][fallen], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[~fallen], best[losses.argmax(0), each][~fallen], rtol=0, atol=1e-6)


@THREATS
@pytest.mark.parametrize(("loss", "targets"), [("ce", 1), ("cw", 1), ("dlr-targeted", 3), ("ce-targeted", 2)])
def test_a_sample_depends_neither_on_its_batch_nor_on_the_stack(threat, loss, targets):
    """In float64, where rounding by another batch size turns no sign. Some fall, early and late; some stand."""
    model = own(5, dtype=torch.float64)
    x, y, indices = labelled(model, 24, dtype=torch.float64)
    attack = {n: APGD(threat, 20, 3, loss=loss, targets=targets, stack=n) for n in (1, 2, 100)}
    whole = attack[1](model, x, y, indices=indices)
    assert 0 < wrong(model, whole, y).sum() < 24
    for stack in (2, 100):
        torch.testing.assert_close(attack[stack](model, x, y, indices=indices), whole, rtol=0, atol=1e-9)
    for rows in (torch.arange(24).flip(0), torch.tensor([3, 17, 8]), *torch.arange(24).split(7), torch.tensor([5])):
        found = attack[2](model, x[rows], y[rows], indices=indices[rows])
        torch.testing.assert_close(found, whole[rows], rtol=0, atol=1e-9)


def test_the_stack_bounds_what_the_model_sees_at_once():
    """Nothing falls, and 2 restarts and 3 targets are 6 runs; all are full batches."""
    model, y = Linear(Linear.random(4).weight.data, torch.tensor([50.0, 0, 0, 0])), torch.zeros(5, dtype=torch.long)
    for stack, wanted in {1: [5] * 6, 2: [10] * 3, 4: [20, 10], 6: [30], 99: [30]}.items():
        watched = Watched(model)
        APGD(Linf(0.1), 3, 2, loss="ce-targeted", targets=3, stack=stack)(watched, images(5), y)
        assert [len(seen) for seen in watched.seen] == [5] + wanted * 4  # the image itself has the targets


@THREATS
@pytest.mark.parametrize(("loss", "restarts"), [("ce", 2), ("dlr-targeted", 1)])
def test_evaluations_are_those_of_each_sample_alone_and_a_fallen_one_costs_no_more(threat, loss, restarts):
    model = own(5)
    x, y, indices = labelled(model, 24)
    attack = APGD(threat, 12, restarts, loss=loss, targets=3)

    def cost(rows):
        model.tally.evaluations = 0
        found = attack(model, x[rows], y[rows], indices=indices[rows])
        return model.tally.evaluations, wrong(model, found, y[rows])

    alone = [cost(torch.tensor([row])) for row in range(24)]
    full = max(evaluations for evaluations, _ in alone)
    assert cost(torch.arange(24))[0] == sum(evaluations for evaluations, _ in alone)
    assert all(fallen or evaluations == full for evaluations, fallen in alone)
    assert min(evaluations for evaluations, _ in alone) < full / 4


@given(st.sampled_from(list(LOSSES)), THREAT, st.integers(1, 12), st.integers(1, 2), st.floats(0, 1), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_every_iterate_lies_inside_and_is_determined_by_its_seed(loss, threat, iterations, restarts, rho, seed):
    attack, watched = APGD(threat, iterations, restarts, seed, loss, 2, rho), Watched(MODEL)
    x, y = images(4, seed=seed).round(decimals=1), torch.arange(4)
    generator = torch.get_rng_state()
    found = attack(watched, x, y)
    assert torch.equal(x, images(4, seed=seed).round(decimals=1)) and torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(attack(MODEL, x, y), found) and not found.requires_grad
    for seen in watched.seen:  # whose rows may be any image's
        assert torch.stack([threat.contains(one.expand_as(seen), seen) for one in x]).any(0).all()
    assert threat.contains(x, found).all() and not any(watched.asking)


def test_other_seeds_samples_and_restarts_start_elsewhere_and_as_pgd_does():
    model, x, y = Watched(Linear.binary(torch.ones(16), b=50.0)), torch.full((3, 1, 4, 4), 0.5), torch.zeros(3).long()
    for seed in (0, 1):
        APGD(Linf(0.1), 1, 2, seed, stack=2)(model, x, y, indices=torch.arange(3) + 4)
    starts = torch.cat(model.seen[::2])
    assert len(starts.flatten(1).unique(dim=0)) == 12
    assert torch.equal(starts[:3], PGD(Linf(0.1), steps=0, keep="last")(model, x, y, indices=torch.arange(3) + 4))


class Bowl(nn.Module):
    """Class 0 everywhere, by a margin 10 + |x - peak|^2."""

    def forward(self, x):
        self.asked.append(x.requires_grad)
        margin = 10 + (x - self.peak).flatten(1).pow(2).sum(1)
        return torch.stack([margin, torch.zeros_like(margin)], 1)


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.4)])
def test_steps_halve_where_the_optimum_is_inside_and_it_is_found(threat):
    """The step is 2 eps at first, far too long; nine checks halve it at most eight times before the last steps."""
    x, y = torch.full((4, 1, 4, 4), 0.5, dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    peak = x + 0.08 * (2 * images(4, dtype=torch.float64) - 1)
    bowl = Bowl()
    bowl.asked, bowl.peak, watched = [], peak, Watched(bowl)
    found = APGD(threat, loss="cw")(watched, x, y)
    assert threat.distance(peak, found).max() < 0.02 * threat.eps and bowl.asked == [True] * 100 + [False]
    moves = torch.stack([threat.distance(a, b) for a, b in pairwise(watched.seen)])
    assert (moves[:20].amax(0) > 0.25 * threat.eps).all() and (moves[-5:].amax(0) < 0.02 * threat.eps).all()


@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.4)])
def test_leaves_no_more_standing_than_pgd_with_as_many_gradients(threat):
    """Of sixty digits that a DEQ gets right, over four losses and two seeds; for one of these, one at most."""
    digits, model = data.digits(), own(10, side=8, sharpness=1.0, steps=4)
    x, y = digits.train.images(slice(400)), digits.train.labels[:400]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    x, y = digits.test.images(slice(100)), digits.test.labels[:100]
    right = (~wrong(model, x, y)).nonzero().flatten()[:60]
    x, y = x[right], y[right]
    fell = []
    for loss, seed in product(("ce", "dlr", "pm", "cw"), (0, 1)):
        pair = APGD(threat, 20, loss=loss, seed=seed), PGD(threat, threat.eps / 4, 20, loss=loss, seed=seed)
        fell.append([wrong(model, attack(model, x, y), y).sum() for attack in pair])
    mine, other = torch.tensor(fell).unbind(1)
    assert (other > 8).all() and (mine >= other - 1).all() and mine.sum() >= other.sum()


class Cursed(nn.Module):
    """``MODEL``, but images with a white first pixel (nearly) have NaN logits, or else NaN gradients."""

    def forward(self, x):
        bad = (x.detach()[:, 0, 0, 0] > 0.8)[:, None]
        if self.logits:
            return torch.where(bad, torch.nan, MODEL(x))
        if x.requires_grad:
            x.register_hook(lambda g: torch.where(bad[:, :, None, None], torch.nan, g))
        return MODEL(x + 0)


@pytest.mark.parametrize("loss", LOSSES)
@THREATS
@pytest.mark.parametrize("logits", [True, False])
def test_nan_logits_are_misclassified_nan_gradients_hold_and_neither_spoils_another(loss, threat, logits):
    x, indices = 0.7 * images(4), torch.arange(4)
    x[1, 0, 0, 0] = 0.99
    y, others = predictions(MODEL(x)), torch.tensor([0, 2, 3])
    attack, model = APGD(threat, 5, loss=loss, targets=2), Cursed()
    model.logits = logits
    found = attack(model, x, y, indices=indices)
    assert threat.contains(x, found).all() and (predictions(model(found))[1] == -1) == logits
    if not logits:
        assert torch.equal(found[1], begun(threat, x, indices)[1])
    fine = attack(MODEL, x[others], y[others], indices=indices[others])
    torch.testing.assert_close(found[others], fine, rtol=0, atol=1e-6)


def test_a_view_with_other_logits_is_judged_by_the_deployed_model():
    model = Linear.binary(torch.ones(16), b=-7.0)
    x, y = 0.5 + 0.1 * images(6), torch.zeros(6, dtype=torch.long)
    assert wrong(model, APGD(Linf(0.2), 5)(Shifted(model, 0.0, 20.0), x, y), y).all()
    assert torch.equal(APGD(Linf(0.001), 5)(Shifted(model, torch.nan, 0.0), x, y), x)  # no loss is above another


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, lambda: default_dtype(torch.float64)])
def test_the_numbers_do_not_depend_on_what_is_set_around_it(loss, around):
    x, y, indices = labelled(MODEL, 3)
    attack = APGD(L2(0.1), 5, 2, loss=loss, stack=2)
    wanted = attack(MODEL, x, y, indices=indices)
    with around():
        assert torch.equal(attack(MODEL, x.clone(), y, indices=indices), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert attack.threat.contains(x, attack(MODEL, x, y, indices=indices)).all()


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="APGD: loss='dlr-targeted' on 3 classes; allowed: at least 4"):
        APGD(Linf(0.01), loss="dlr-targeted")(own(), images(3), torch.arange(3))
    with pytest.raises(ValueError, match="APGD: stack=0; allowed: a whole number >= 1"):
        APGD(Linf(0.1), stack=0)
