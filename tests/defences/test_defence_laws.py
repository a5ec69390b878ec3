"""Every defence and readout keeps the laws, one of a user's own too; and one that breaks a law is found out."""

import pytest
import torch
from small_models import SOLVERS, images_for, nano, own

from robustdeq import EntropyReduction
from robustdeq.checks import check_images
from robustdeq.defences import Defended, EarlyState, Ensemble
from robustdeq.testing import DefenceLaws

SHORT = EntropyReduction(eps=0.05, step_size=0.02, updates=2, every=2)
MODELS = {name: lambda name=name: own(solver=name, steps=4) for name in SOLVERS} | {"nano": lambda: nano(steps=3)}


class EveryModel(DefenceLaws):
    @pytest.fixture(autouse=True, params=MODELS)
    def choose(self, request):
        self.model = MODELS[request.param]()

    def case(self):
        return self.defended(self.model), images_for(self.model)


class TestRegulatedClassifier(EveryModel):
    defended = SHORT


class TestEarlyState(EveryModel):
    def defended(self, model):
        return EarlyState(model, 2)


class TestEnsemble(EveryModel):
    defended = Ensemble


class Blurred(Defended):
    """A user's own: the mean of an image and of what two thirds of its contrast leave."""

    def forward(self, x):
        check_images(x)
        return self.model(self.changed(x))

    def changed(self, x):
        return (x + 2 * x.mean(dim=(1, 2, 3), keepdim=True)) / 3


class TestADefenceOfAUsersOwn(DefenceLaws):
    def case(self):
        return Blurred(own()), images_for(own())


class Noisy(Blurred):
    def changed(self, x):
        return (x + 0.1 * torch.rand_like(x)).clamp(0, 1)


class OnlyWithoutGradient(Blurred):
    """Other logits where a gradient is asked for."""

    def forward(self, x):
        return super().forward(x) if torch.is_grad_enabled() else self.model(x)


class OtherEndToEnd(Blurred):
    def end_to_end(self, x, sign):
        return self.model(x)


class Hidden(Blurred):
    def forward(self, x):
        return super().forward(x).detach() + 0 * x.mean()


class Sociable(Blurred):
    def changed(self, x):
        return (x + x.mean(dim=0)) / 2


class Meddling(Blurred):
    def forward(self, x):
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        return super().forward(x)


class InPlace(Blurred):
    def changed(self, x):
        x.data.mul_(0.9)
        return x


class Careless(Blurred):
    def forward(self, x):
        return self.model(x.float().clamp(0, 1))


class Secretive(Blurred):
    settings = property(lambda self: {"size": torch.Size})


@pytest.mark.parametrize(
    ("defended", "law"),
    [
        (Noisy, "test_the_deployed_value_has_the_same_bits_with_and_without_a_gradient"),
        (OnlyWithoutGradient, "test_the_deployed_value_has_the_same_bits_with_and_without_a_gradient"),
        (OtherEndToEnd, "test_the_deployed_value_has_the_same_bits_with_and_without_a_gradient"),
        (Hidden, "test_it_has_a_gradient_in_eval_mode"),
        (Sociable, "test_an_image_is_treated_alike_in_any_batch"),
        (Meddling, "test_it_leaves_the_model_and_the_images_as_they_were"),
        (InPlace, "test_it_leaves_the_model_and_the_images_as_they_were"),
        (Careless, "test_images_that_are_none_are_refused"),
        (Secretive, "test_its_settings_are_json_and_attacks_can_see_it"),
    ],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_a_defence_that_breaks_a_law_is_found_out(defended, law):
    laws = DefenceLaws()
    laws.case = lambda: (defended(own()), images_for(own()))
    with pytest.raises((AssertionError, TypeError)):
        getattr(laws, law)()
