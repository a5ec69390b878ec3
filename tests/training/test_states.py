"""Which z^[t] the loss looks at: uniform over 1..N, or always N (P23 sec. 3.3)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from robustdeq.seeds import generator
from robustdeq.training.states import STATE_SAMPLERS, FinalState, RandomState


@pytest.mark.parametrize("steps", [2, 3, 8])
def test_random_state_is_uniform_over_all_steps(steps):
    rng = generator(0, steps)
    draws = torch.tensor([RandomState().draw(steps, rng) for _ in range(400 * steps)])
    counts = torch.bincount(draws, minlength=steps + 1)
    assert counts[0] == 0 and len(counts) == steps + 1
    assert chisquare(counts[1:]).pvalue > 0.01


def test_random_state_does_not_depend_on_the_state_before():
    """Pairs of draws are uniform over the square; the expected count of a cell is 100."""
    rng = generator(1)
    draws = torch.tensor([RandomState().draw(4, rng) for _ in range(3200)]).view(-1, 2) - 1
    assert chisquare(torch.bincount(4 * draws[:, 0] + draws[:, 1], minlength=16)).pvalue > 0.01


@given(steps=st.integers(1, 50), seed=st.integers(0, 2**40))
@settings(max_examples=50, deadline=None)
def test_a_draw_is_a_whole_number_of_its_seed_alone(steps, seed):
    draws = [RandomState().draw(steps, generator(seed)) for _ in range(2)]
    assert draws[0] == draws[1] and 1 <= draws[0] <= steps
    assert isinstance(draws[0], int)


def test_final_state_is_n_and_draws_nothing():
    rng = generator(0)
    before = rng.get_state()
    assert [FinalState().draw(steps, rng) for steps in (1, 5, 8)] == [1, 5, 8]
    assert torch.equal(rng.get_state(), before)


@pytest.mark.parametrize("per", ["batch", "sample"])
@pytest.mark.parametrize(
    ("options", "steps", "low", "high"),
    [({"low": 4, "high": 16}, 8, 4, 16), ({"low": 3}, 5, 3, 5), ({"high": 2}, 5, 1, 2), ({"low": 4}, 2, 2, 2)],
)
def test_random_state_is_uniform_from_low_to_high_whatever_n_is(options, steps, low, high, per):
    rng, sampler = generator(0, steps), RandomState(per=per, **options)
    draws = torch.cat([torch.as_tensor(sampler.draw(steps, rng, 8)).flatten() for _ in range(100 * (high - low + 1))])
    counts = torch.bincount(draws, minlength=high + 1)
    assert counts[:low].sum() == 0 and len(counts) == high + 1
    assert low == high or chisquare(counts[low:]).pvalue > 0.01


def test_a_low_above_the_high_is_refused():
    with pytest.raises(ValueError, match=r"RandomState: high=3; allowed: a whole number >= 4"):
        RandomState(low=4, high=3)


def test_samplers_are_chosen_by_name():
    assert STATE_SAMPLERS.resolve("random") == RandomState()
    assert STATE_SAMPLERS.resolve("final") == FinalState()
    with pytest.raises(ValueError, match="did you mean 'random'"):
        STATE_SAMPLERS.resolve("randon")


def test_a_state_for_every_sample_is_uniform_and_belongs_to_its_place():
    sampler = RandomState(per="sample")
    rng = generator(2)
    draws = torch.cat([sampler.draw(8, rng, 32) for _ in range(100)])
    counts = torch.bincount(draws, minlength=9)
    assert counts[0] == 0 and len(counts) == 9 and chisquare(counts[1:]).pvalue > 0.01
    assert sampler.draw(8, generator(3), 32).shape == (32,)
    with pytest.raises(ValueError, match="did you mean 'sample'"):
        RandomState(per="samples")
