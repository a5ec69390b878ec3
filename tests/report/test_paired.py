"""McNemar's exact test against its closed form; pairs and lone breakers against the records themselves."""

from math import comb

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import robustdeq as rd
from robustdeq.report.paired import mcnemar, paired


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_twice_the_smaller_tail_of_a_fair_coin(first, second):
    total = first + second
    tail = sum(comb(total, k) for k in range(min(first, second) + 1)) / 2**total
    assert mcnemar(first, second) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(first, second) == pytest.approx(mcnemar(second, first))


BY_HAND = [(0, 0, 1), (5, 0, 1 / 16), (0, 7, 1 / 64), (4, 4, 1), (1, 9, 22 / 1024)]


@pytest.mark.parametrize(("first", "second", "p"), BY_HAND)
def test_mcnemar_by_hand(first, second, p):
    assert mcnemar(first, second) == pytest.approx(p)


def test_an_evaluation_against_itself_differs_nowhere(bare):
    tests = paired(bare, bare)
    assert [test.column for test in tests] == ["clean", "PGD", "joint", "All"]
    assert all((test.first, test.second, test.p, test.difference) == (0, 0, 1, 0) for test in tests)


def test_a_pair_counts_the_samples_that_one_alone_gets_right(bare, defended):
    clean, worst = paired(bare, defended)
    one, other = (evaluation.standing("All").tolist() for evaluation in (bare, defended))
    assert (clean.column, worst.column, worst.points) == ("clean", "All", 12)
    assert worst.first == sum(a and not b for a, b in zip(one, other))
    assert worst.second == sum(b and not a for a, b in zip(one, other))
    assert worst.first - worst.second == bare.shares()["All"].count - defended.shares()["All"].count


def test_what_stands_is_what_the_shares_count(bare, defended):
    for evaluation in (bare, defended):
        for column, share in evaluation.shares().items():
            stands = evaluation.standing(column)
            assert (int(stands.sum()), len(stands)) == (share.count, share.total)


def test_a_lone_breaker_is_one_of_several_that_saw_the_sample(bare, defended):
    for evaluation in (bare, defended):
        outcomes = {name: evaluation.record.attacks[name].outcomes.tolist() for name in evaluation.columns}
        for sample in range(len(evaluation.clean)):
            seen = {name: of[sample] for name, of in outcomes.items() if sample < len(of) and of[sample] >= 0}
            broke = [name for name, outcome in seen.items() if outcome == 0]
            assert evaluation.alone().get(sample) == (broke[0] if len(broke) == 1 < len(seen) else None)


def test_columns_of_other_attacks_say_so(bare, defended, digits):
    assert all(test.alike for test in paired(bare, bare))
    assert [(test.column, test.alike) for test in paired(bare, defended)] == [("clean", True), ("All", False)]
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    few = {"suite": "quick", "checks": 0, "threat": rd.Linf(0.1)}
    weak, strong = (rd.evaluate(linear, digits.take(slice(4)), steps=steps, **few) for steps in (1, 3))
    assert [test.alike for test in paired(weak, strong)] == [True, False, False]
    points, images = digits.take(slice(4)), torch.rand(2, 4, 1, 8, 8)
    given = {"suite": [], "checks": 0, "threat": rd.Linf(1.0)}
    one, other = (rd.evaluate(linear, points, transfers={"transfer/t": x}, **given) for x in images)
    assert [test.alike for test in paired(one, other)] == [True, False, False]
    assert [test.alike for test in paired(one, one)] == [True, True, True]


def test_other_images_are_not_compared(bare, digits):
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    other = rd.evaluate(linear, digits.take(slice(4)), suite=[], checks=0)
    with pytest.raises(ValueError, match="other images"):
        paired(bare, other)
