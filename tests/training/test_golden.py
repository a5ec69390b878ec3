"""Five updates of every objective with every state sampler: the losses do not change unnoticed."""

import json

import pytest
from golden import ATTACKS, FILE, STATES, UPDATES, losses

GOLDEN = json.loads(FILE.read_text())


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("states", STATES)
def test_losses_are_those_written_down(attack, states):
    assert losses(attack, states) == pytest.approx(GOLDEN[attack][states], rel=1e-6)


def test_every_objective_and_sampler_has_losses_of_its_own():
    found = [tuple(values) for samplers in GOLDEN.values() for values in samplers.values()]
    assert len(set(found)) == len(found) == len(ATTACKS) * len(STATES)
    assert all(len(values) == UPDATES for values in found)
