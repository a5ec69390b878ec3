"""A small DEQ with sharp edges, and one that was trained on digits for a moment."""

from dataclasses import replace

import pytest
from small_models import fitted, images_for, own

import robustdeq as rd


@pytest.fixture(scope="session")
def sharp():
    return own(4, sharpness=8.0, steps=4)


@pytest.fixture(scope="session")
def image(sharp):
    """(1, 1, 4, 4), and the model's own label."""
    x = images_for(sharp, 1)
    return x, int(sharp(x).argmax(1))


@pytest.fixture(scope="session")
def digits():
    """Eight test digits, an ``ImageSet`` whose classes have names that are no markup."""
    names = ("zero", "<b>one</b>", "${two}", "{{three}}", *"456789")
    return replace(rd.data.digits().test.take(slice(8)), classes=names)


@pytest.fixture(scope="session")
def trained(digits):
    """A smooth DEQ for digits, right on the first three of ``digits``, with the names of their classes."""
    model = own(10, side=8, sharpness=1.0, steps=4)
    fitted(model, model.parameters(), lr=1e-2, updates=80)
    model.classes = digits.classes
    assert (model(digits.images()).argmax(1) == digits.labels)[:3].all()
    return model
