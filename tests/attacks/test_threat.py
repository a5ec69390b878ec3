"""Threat models: the ball, the box, the projection to both, the steepest step."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import images

from robustdeq import L2, Linf
from robustdeq.attacks import THREATS

EPS = {Linf: st.floats(0, 1), L2: st.floats(0, 6)}
NORM = {Linf: torch.inf, L2: 2}
both = pytest.mark.parametrize("kind", [Linf, L2])


def norm(kind, shift):
    """In float64, by another function than the one under test."""
    return torch.linalg.vector_norm(shift.double().flatten(1), ord=NORM[kind], dim=1)


def around(x, spread, seed=1):
    return x + spread * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


@both
@given(data=st.data(), spread=st.floats(0, 100), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_projection_is_inside_and_stays(kind, data, spread, seed):
    threat = kind(data.draw(EPS[kind]))
    x = images(4, seed=seed).round(decimals=1)
    inside = threat.project(x, around(x, spread, seed))
    assert inside.min() >= 0 and inside.max() <= 1
    assert (norm(kind, inside - x) <= threat.eps + 1e-6).all()
    assert threat.contains(x, inside).all()
    torch.testing.assert_close(threat.project(x, inside), inside, rtol=0, atol=1e-6)


@both
@given(data=st.data(), share=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_a_point_inside_is_its_own_projection(kind, data, share):
    threat = kind(data.draw(EPS[kind]))
    x, other = images(4), images(4, seed=1)
    length = norm(kind, other - x).float().clamp_min(1e-9).view(-1, 1, 1, 1)
    inside = x + (other - x) * (share * threat.eps / length).clamp_max(1)
    torch.testing.assert_close(threat.project(x, inside), inside, rtol=0, atol=1e-6)


def test_linf_projection_is_the_nearest_point():
    """Pixel by pixel the nearest number of two intervals."""
    x, far = images(4), around(images(4), 1.0)
    wanted = far.clamp(min=(x - 0.1).clamp_min(0), max=(x + 0.1).clamp_max(1))
    assert torch.equal(Linf(0.1).project(x, far), wanted)


def test_l2_projection_keeps_the_direction_inside_the_box():
    x = torch.full((3, 1, 4, 4), 0.5)
    shift = Linf(0.1).project(x, around(x, 1.0)) - x
    projected = L2(0.05).project(x, x + shift) - x
    torch.testing.assert_close(projected, shift * (0.05 / shift.flatten(1).norm(dim=1).view(-1, 1, 1, 1)))


@both
def test_contains_says_which_sample_is_outside(kind):
    x = torch.full((5, 1, 4, 4), 0.95)
    x_adv = x.clone()
    x_adv[1, 0, 0, 0] -= 0.2  # outside the ball
    x_adv[2, 0, 0, 0] += 0.06  # outside the box
    x_adv[3, 0, 0, 0] = torch.nan
    x_adv[4, 0, 0, 0] -= 0.09
    assert kind(0.1).contains(x, x_adv).tolist() == [True, False, False, False, True]


@both
def test_distance_is_the_norm(kind):
    x, other = images(4), images(4, seed=1)
    torch.testing.assert_close(kind(0.1).distance(x, other).double(), norm(kind, other - x))


@both
@given(scale=st.floats(1e-30, 1e30), size=st.floats(1e-4, 1))
@settings(max_examples=40, deadline=None)
def test_a_step_has_its_length_for_any_slope(kind, scale, size):
    """Also where the square of a slope underflows or overflows: a masked gradient must not stop an attack."""
    x = torch.full((2, 1, 4, 4), 0.5)
    slope = around(torch.zeros_like(x), 1.0) * scale
    moved = kind(1).ascend(x, slope, size) - x
    torch.testing.assert_close(norm(kind, moved), torch.full((2,), size, dtype=torch.float64), rtol=1e-3, atol=1e-6)
    assert ((moved * slope.sign()) >= 0).all()


@both
def test_a_step_without_a_slope_stays(kind):
    x = images(3)
    assert torch.equal(kind(0.1).ascend(x, torch.zeros_like(x), 0.05), x)


@both
@given(eps=st.floats(0, 1), seed=st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_random_points_are_inside_and_use_the_ball(kind, eps, seed):
    x = torch.full((8, 1, 8, 8), 0.5)
    start = kind(eps).spread(x, images(8, seed=seed, shape=(1, 8, 8)))
    assert kind(eps).contains(x, start).all()
    assert norm(kind, start - x).mean() >= 0.8 * min(eps, 0.5) - 1e-6


def test_linf_random_points_are_uniform():
    """Mean 0, variance eps^2 / 3, and the corners of the interval are reached."""
    x = torch.full((100, 1, 16, 16), 0.5)
    shift = Linf(0.1).spread(x, images(100, shape=(1, 16, 16))) - x
    assert shift.mean().abs() < 0.1 * 4 / math.sqrt(3 * shift.numel())
    assert shift.var() == pytest.approx(0.01 / 3, rel=0.03)
    assert shift.min() < -0.0999 and shift.max() > 0.0999


@both
def test_no_images_at_all(kind):
    none, threat = images(0), kind(0.1)
    for result in (threat.project(none, none), threat.ascend(none, none, 0.1), threat.spread(none, none)):
        assert result.shape == none.shape
    assert threat.contains(none, none).shape == (0,)


@both
@pytest.mark.parametrize("eps", [-1e-9, -8 / 255, float("nan"), float("inf"), "8/0", "-8/255", "8", None, True])
def test_bad_eps_is_refused(kind, eps):
    with pytest.raises(ValueError, match=rf"{kind.__name__}: eps=.*; allowed: a number"):
        kind(eps)


@both
def test_images_of_two_shapes_are_not_compared(kind):
    """One of them would be spread over the other."""
    x = images(3)
    for other in (x[:1], x[0], x[..., :1], x.numpy(), None):
        for pair in ((x, other), (other, x)):
            with pytest.raises(ValueError, match=rf"{kind.__name__}: images are .*; allowed: two tensors of one shape"):
                kind(0.1).contains(*pair)


@both
def test_eps_is_a_number_or_a_fraction(kind):
    assert kind("8/255") == kind(8 / 255) and isinstance(kind("8/255").eps, float)


def test_eps_of_8_bit_pixels_is_refused():
    with pytest.raises(ValueError, match=r"Linf: eps=8; allowed: a number in \[0, 1\]"):
        Linf(8)


def test_eps_of_8_bit_pixels_is_questioned_where_it_might_be_meant():
    with pytest.warns(UserWarning, match=r"L2: eps=8 .*; did you mean 8/255\?") as seen:
        assert L2(8).eps == 8
    assert len(seen) == 1 and seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        L2(7.9)


def test_threats_are_chosen_by_name():
    assert THREATS.resolve({"name": "L2", "eps": 0.5}) == L2(0.5)
    with pytest.raises(ValueError, match="did you mean 'Linf'"):
        THREATS.resolve({"name": "linf", "eps": 0.5})
