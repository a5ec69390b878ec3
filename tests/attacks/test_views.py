"""Views of a DEQ: which value each has and which gradient, proved from the definitions of P22 and P23."""

import json

import pytest
import torch
from small_models import SOLVERS, Linear, Shifted, Watched, images, images_for, nano, own, whole_map

from robustdeq import EntropyReduction, Linf, create_model
from robustdeq.attacks import PGD, EndToEnd, IntermediateState, ThroughGradient, predictions
from robustdeq.defences import EarlyState, Ensemble
from robustdeq.gradients import GRADIENTS, Implicit, Phantom, SimultaneousAdjoint

MODELS = {"own": own, "nano": nano}
every_solver = pytest.mark.parametrize("solver", SOLVERS)
every_model = pytest.mark.parametrize("kind", MODELS)


def slope(view, x):
    """d (sum of some logits) / d x."""
    x = x.clone().requires_grad_()
    logits = view(x)
    return torch.autograd.grad((logits * torch.linspace(-1, 1, logits.shape[1])).sum(), x)[0]


def states(model, x):
    """z^[1], ..., z^[N], by a loop of our own over whole cells."""
    state, found = model.solver.init(model.zeros(x)), []
    for _ in range(model.steps):
        state = model.solver.step(whole_map(model, x), state)
        found.append(state.z)
    return found


def relaxed(model, x, z, unroll, damping):
    """h_K from h_0 = f(z), z without its graph."""
    f = whole_map(model, x)
    h = f(z.detach())
    for _ in range(unroll):
        h = (1 - damping) * h + damping * f(h)
    return h


@every_solver
@every_model
def test_unrolled_is_the_gradient_of_an_unrolled_model(kind, solver):
    """Whatever gradient the deployed model has of its own."""
    x = images_for(MODELS[kind]())
    wanted = slope(MODELS[kind](solver=solver, steps=4, gradient="unrolled"), x)
    for gradient in ("phantom", "unrolled"):
        view = ThroughGradient(MODELS[kind](solver=solver, steps=4, gradient=gradient), "unrolled")
        assert torch.equal(slope(view, x), wanted)


@pytest.mark.parametrize("solver", ["picard", "broyden", "anderson"])
def test_unrolled_is_autograd_through_a_loop_of_our_own(solver):
    model = own(solver=solver, dtype=torch.float64)
    x = images_for(model)
    wanted = slope(lambda at: model.readout(states(model, at)[-1]), x)
    torch.testing.assert_close(slope(ThroughGradient(model, "unrolled"), x), wanted)


@pytest.mark.parametrize("gradient", GRADIENTS)
@every_model
def test_every_gradient_has_the_deployed_bits(kind, gradient):
    model = MODELS[kind](solver="broyden", steps=4)
    x = images_for(model)
    with torch.no_grad():
        deployed = model(x)
    view = ThroughGradient(model, gradient)
    assert view.faithful
    assert torch.equal(view(x.clone().requires_grad_()), deployed)
    with torch.no_grad():
        assert torch.equal(view(x), deployed)


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        (Phantom(3, 0.25), {"name": "phantom", "unroll": 3, "damping": 0.25}),
        (Implicit("picard", steps=4), {"name": "implicit", "solver": "picard", "steps": 4}),
        (SimultaneousAdjoint(), "simultaneous"),
    ],
)
def test_a_gradient_by_name_is_that_object(rule, named):
    model = own(solver="broyden")
    x, wanted = images_for(model), ThroughGradient(model, named)
    assert ThroughGradient(model, rule).settings == wanted.settings
    assert torch.equal(slope(ThroughGradient(model, rule), x), slope(wanted, x))


@every_solver
def test_phantom_is_the_gradient_of_h_k_at_the_deployed_state(solver):
    """The readout is differentiated at z^[N], the rest at h_0, ..., h_K."""
    model = own(solver=solver, dtype=torch.float64)
    x = images_for(model)

    def phantom(at):
        z = states(model, at)[-1].detach()
        h = relaxed(model, at, z, unroll=3, damping=0.25)
        return model.readout(z + h - h.detach())

    view = ThroughGradient(model, {"name": "phantom", "unroll": 3, "damping": 0.25})
    torch.testing.assert_close(slope(view, x), slope(phantom, x))


@every_solver
@every_model
@pytest.mark.parametrize(("state", "unroll", "damping"), [(1, 1, 1.0), (3, 2, 0.5), (4, 5, 0.5)])
def test_intermediate_state_is_its_definition(kind, solver, state, unroll, damping):
    model = MODELS[kind](solver=solver, steps=4, dtype=torch.float64)
    x = images_for(model)

    def defined(at):
        return model.readout(relaxed(model, at, states(model, at)[state - 1], unroll, damping))

    view = IntermediateState(model, state=state, unroll=unroll, damping=damping)
    assert not view.faithful
    torch.testing.assert_close(view(x), defined(x))
    torch.testing.assert_close(slope(view, x), slope(defined, x), rtol=1e-6, atol=1e-10)
    with torch.no_grad():
        assert torch.equal(view(x), view(x.clone()))


@pytest.mark.parametrize(
    ("code", "state", "unroll", "damping"),
    [("Munroll-7-5", 8, 5, 0.5), ("Funroll-0-1", 1, 1, 1.0), ("Munroll-3-9", 4, 9, 0.5), ("Funroll-7-12", 8, 12, 1.0)],
)
def test_the_authors_codes_are_read(code, state, unroll, damping):
    model = own(steps=8)
    x = images_for(model)
    wanted = IntermediateState(model, state=state, unroll=unroll, damping=damping)
    view = IntermediateState.parse(model, code)
    assert torch.equal(view(x), wanted(x)) and torch.equal(slope(view, x), slope(wanted, x))
    assert (view.state, view.phantom.unroll, view.phantom.damping) == (state, unroll, damping)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("Xunroll-7-5", "code 'Xunroll-7-5'; allowed: Munroll-STATE-UNROLL"),
        ("Munroll-7", "allowed: Munroll-STATE-UNROLL"),
        ("munroll-7-5", "allowed: Munroll-STATE-UNROLL"),
        ("Munroll-7-5 ", "allowed: Munroll-STATE-UNROLL"),
        ("Munroll--1-5", "allowed: Munroll-STATE-UNROLL"),
        ("", "allowed: Munroll-STATE-UNROLL"),
        (None, "allowed: Munroll-STATE-UNROLL"),
        ("Munroll-8-5", r"state=9; allowed: 1..8"),
        ("Munroll-7-0", "unroll=0; allowed: a whole number >= 1"),
    ],
)
def test_bad_codes_are_named(code, why):
    with pytest.raises(ValueError, match=why):
        IntermediateState.parse(own(steps=8), code)


@pytest.mark.parametrize("state", [0, -1, 6, 2.0, True, "2"])
def test_states_that_the_model_does_not_have_are_refused(state):
    with pytest.raises(ValueError, match=r"IntermediateState: state="):
        IntermediateState(own(steps=5), state=state)


@pytest.mark.parametrize("damping", [0, 1.5, -0.5, float("nan")])
def test_bad_damping_is_refused(damping):
    with pytest.raises(ValueError, match=r"damping=.*; allowed: a number in \(0, 1\]"):
        IntermediateState(own(), state=1, damping=damping)


VIEWS = {
    "ThroughGradient": lambda model: ThroughGradient(model, "phantom"),
    "IntermediateState": lambda model: IntermediateState(model, state=1),
    "EarlyState": lambda model: EarlyState(model, 1),
    "Ensemble": Ensemble,
}


def test_options_tell_views_of_a_class_apart():
    """A record that knows them cannot take the images of one view for those of another."""
    model, defended = own(steps=5), EntropyReduction()(own(steps=5))
    views = [
        *(ThroughGradient(model, gradient) for gradient in ("unrolled", "phantom", {"name": "phantom", "unroll": 2})),
        *(IntermediateState(model, *options) for options in ((1, 5, 0.5), (2, 5, 0.5), (1, 4, 0.5), (1, 5, 1.0))),
        *(EndToEnd(defended, temperature) for temperature in (1.0, 0.5)),
    ]
    told = [json.dumps([type(view).__name__, view.settings]) for view in views]
    assert len(set(told)) == len(views)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("kind", ["PreActResNet", "RegulatedClassifier", "ThroughGradient"])
def test_models_that_are_no_deq_are_refused(name, kind):
    wrong = {
        "PreActResNet": lambda: create_model("resnet18", seed=0),
        "RegulatedClassifier": lambda: EntropyReduction()(own()),
        "ThroughGradient": lambda: ThroughGradient(own(), "phantom"),
    }[kind]()
    with pytest.raises(ValueError, match=rf"{name}: .*{kind}.*; allowed: .*DEQClassifier"):
        VIEWS[name](wrong)


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match="did you mean 'unroll'"):
        IntermediateState(own(), unrol=3)
    with pytest.raises(ValueError, match="did you mean 'broyden'"):
        ThroughGradient(own(), {"name": "implicit", "solver": "broydn"})
    with pytest.raises(ValueError, match="did you mean 'phantom'"):
        ThroughGradient(own(), "fantom")


@pytest.mark.parametrize("name", VIEWS)
def test_bad_images_are_named(name):
    view = VIEWS[name](nano())
    with pytest.raises(ValueError, match=r"allowed: \[0, 1\]"):
        view(torch.full((2, 1, 8, 8), 1.5))
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 9\); allowed: \(batch, 1, 8, 8\)"):
        view(torch.zeros(2, 1, 8, 9))


@pytest.mark.parametrize(("shift", "predicted"), [((4.0, 0.0), 0), ((0.0, 20.0), 1)])
def test_the_deployed_model_alone_says_what_is_misclassified(shift, predicted):
    """Whether the view calls every image right or wrong, the attack goes on until the model errs, and no longer."""
    model = Linear.binary(torch.ones(16), b=-7.0)  # class 0 where the mean pixel is above 7/16
    x = torch.full((2, 1, 4, 4), 0.5)
    x[1] = 0.99
    y = torch.zeros(2, dtype=torch.long)
    watched = Watched(model)
    view = Shifted(watched, *shift)
    with torch.no_grad():
        assert (predictions(view(x)) == predicted).all()
    watched.seen.clear()
    found = PGD(Linf(0.2), 0.04, 10, start="clean")(view, x, y)
    torch.testing.assert_close(found[0], x[0] - 0.08)  # two steps suffice
    torch.testing.assert_close(found[1], x[1] - 0.2)  # and here five do not
    assert sum(len(seen) for seen in watched.seen) == 2 * (3 + 11)  # each image as seen and as deployed


def test_an_intermediate_view_s_success_is_the_model_s():
    """Every image found through another state is judged by z^[N]."""
    model = own(classes=4, steps=6)
    x = images(40)
    with torch.no_grad():
        y = predictions(model(x))
    attack = PGD(Linf(0.1), 0.02, 10)
    view = IntermediateState(model, state=1, unroll=1, damping=1.0)
    through, plain = attack(view, x, y), attack(model, x, y)
    with torch.no_grad():
        deceived = predictions(view(through)) != y
        broken = predictions(model(through)) != y
        exact = predictions(model(plain)) != y
    assert 0 < broken.sum() <= exact.sum()
    assert (deceived & ~broken).any()  # the view was deceived; that did not stop the attack or count
