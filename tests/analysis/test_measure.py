"""All of one model together: kept batch by batch, the same whatever the batches, and told in few numbers."""

import json
from dataclasses import replace

import pytest
import torch
from small_models import images_for, own

import robustdeq as rd
from robustdeq.analysis import deviation, spectral_radius, states_along, variant
from robustdeq.analysis.measure import KINDS, Measure, Measured, measured
from robustdeq.analysis.summary import entropy_detector, samples_frame, summary, table
from robustdeq.analysis.sweep import Setting, settings_around, sweep
from robustdeq.attacks import PGD, Frozen
from robustdeq.defences import EarlyState
from robustdeq.evaluation.images import Pair
from robustdeq.files import write_json, write_tensors
from robustdeq.testing.problems import assert_same

THREAT = rd.Linf(0.2)
DEFENCE = rd.EntropyReduction(eps=0.2, step_size=0.05, updates=2)


@pytest.fixture(scope="module")
def model():
    return own(4, sharpness=8.0, steps=3, dtype=torch.float64)


@pytest.fixture(scope="module")
def points(model):
    x = images_for(model, 14)
    y = model(x).argmax(1)
    y[::5] = (y[::5] + 1) % 4
    return Pair(x, y)


@pytest.fixture(scope="module")
def seen(model, points, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    return measured(Measure(THREAT, 6, DEFENCE, seed=5), model, points, folder, batch_size=8), folder


def test_it_is_what_the_functions_say_on_the_images_of_pgd(model, points, seen):
    (found, _), x, numbers = seen, points.x, torch.arange(14)
    x_adv = PGD(THREAT, 0.05, 6, seed=5, keep="highest")(model, x, points.labels, indices=numbers)
    expected = {
        "states/clean": states_along(model, x), "states/attacked": states_along(model, x_adv),
        "states/regulated attacked": states_along(DEFENCE(model), x_adv),
        "deviations/attacked": deviation(model, x, x_adv),
        "deviations/regulated attacked": deviation(DEFENCE(model), x, x_adv, reference=model),
        "radii/attacked": spectral_radius(model, x_adv, seed=5, indices=numbers),
    }  # fmt: skip
    for name, part in expected.items():
        kind, inputs = name.split("/")
        for field, values in vars(part).items():
            torch.testing.assert_close(getattr(getattr(found, kind)[inputs], field), values, msg=name)
    assert torch.equal(found.right("clean"), model(x).argmax(1) == points.labels)
    assert torch.equal(found.right("attacked", 2), model.trajectory(x_adv).logits(2).argmax(1) == points.labels)


def test_what_is_made_is_not_made_again_and_the_batches_do_not_matter(model, points, seen, tmp_path):
    found, folder = seen
    measure, before = Measure(THREAT, 6, DEFENCE, seed=5), model.tally.evaluations
    again = measured(measure, model, points, folder, batch_size=8)
    assert_same(again.tensors().keys(), found.tensors().keys())
    assert all(torch.equal(again.tensors()[key].nan_to_num(), v.nan_to_num()) for key, v in found.tensors().items())
    assert model.tally.evaluations == before
    (folder / "000008.safetensors").unlink()  # as if it had been killed in the second batch
    measured(measure, model, points, folder, batch_size=8)
    assert model.tally.evaluations > before
    other = measured(measure, model, points, tmp_path, batch_size=14)
    (tmp_path / "000000.safetensors").unlink()
    write_tensors(tmp_path / "000000.safetensors", {"labels": torch.zeros(3), "states/clean/entropi": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"holds no measured batch of this version; remove it"):
        measured(measure, model, points, tmp_path, batch_size=14)
    for key, values in found.tensors().items():
        torch.testing.assert_close(other.tensors()[key], values, rtol=1e-6, atol=1e-9, equal_nan=True, msg=key)


def test_tensors_and_back(seen):
    found, _ = seen
    again = Measured.of(found.tensors())
    for kind in KINDS:
        assert getattr(again, kind).keys() == getattr(found, kind).keys()
        assert len(found.frame(kind)) == sum(len(part.frame()) for part in getattr(found, kind).values())
    kinds = {"clean", "attacked", "evading", "regulated clean", "regulated attacked"}
    assert set(found.frame("states")["inputs"]) == kinds
    assert len(samples_frame(found)) == 2 * 14


def test_the_summary_is_of_these_numbers(seen):
    found, _ = seen
    told = summary(found)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    clean, attacked = found.states["clean"], found.states["attacked"]
    assert told["accuracy"]["attacked"][1]["count"] == (attacked.prediction[1] == found.labels).sum()
    assert told["states"]["clean"]["entropy"][0] == clean.entropy[0].quantile(0.5)
    assert told["deviation"]["attacked"]["total"][2] == found.deviations["attacked"].total[2].quantile(0.5)
    fallen = found.right("clean") & ~found.right("attacked")
    roc = entropy_detector(found, "attacked")
    assert fallen.any() and told["detector"]["attacked"]["auc"] == roc.auc
    order = attacked.entropy[-1][fallen][:, None] - clean.entropy[-1]
    assert roc.auc == pytest.approx(float((order > 0).double().mean() + 0.5 * (order == 0).double().mean()))
    assert told["radius"]["clean"]["below_one"]["count"] == (found.radii["clean"].radius < 1).sum()
    lines = table({"a|b": found}).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [r"| a\|b", r"| a\|b, regulated"]
    assert {line.replace(r"\|", "").count("|") for line in lines} == {11}


def test_a_sample_that_is_not_finite_has_no_say(model, points):
    x = points.x.clone()
    x[2] = float("nan")
    whole = Measure(THREAT, 2)(model, x, points.labels, torch.arange(14))
    json.dumps(summary(whole), allow_nan=False)
    assert whole.states["clean"].entropy[:, 2].isnan().all() and not whole.right("clean")[2]


def test_one_option_is_moved_at_a_time():
    settings = settings_around(0.2, 8)
    center = vars(settings[0])
    assert center == {"every": 2, "updates": 10, "step_size": 0.05, "steps": 8}
    for setting in settings[1:]:
        moved = {name for name, value in vars(setting).items() if value != center[name]}
        assert len(moved) == 1 or (moved == {"steps", "updates"} and setting.updates == 0)
    assert {setting.steps for setting in settings_around(0.2, 8, 13)} == {4, 8}
    assert all(setting.every <= setting.steps for n in (1, 2, 3) for setting in settings_around(0.2, n))


def test_a_sweep_counts_what_the_deployed_model_says_and_what_it_costs(model, points, tmp_path):
    settings = [Setting(2, 0, 0.05, 3), Setting(1, 2, 0.1, 4), Setting(2, 2, 0.1, 3), Setting(3, 2, 0.1, 3)]
    options = {"settings": settings, "attack_steps": 3, "batch_size": 9, "seed": 4, "out": tmp_path}
    found = sweep(model, points, THREAT, **options)
    x, y, numbers = points.x, points.labels, torch.arange(14)
    attack = PGD(THREAT, 0.05, 3, seed=4)
    for setting, row in zip(settings, found.rows):
        bare = variant(model, steps=setting.steps)
        deployed = rd.EntropyReduction(0.2, setting.step_size, setting.updates, setting.every)(bare)
        right = lambda images: deployed(images).argmax(1) == y  # noqa: B023, E731
        assert torch.equal(row.clean, right(x))
        far, static = replace(attack, keep="highest"), right(x)
        views = [(far, bare), (far, EarlyState(bare, setting.every))][: 1 + (setting.every < setting.steps)]
        for made, view in views if setting.updates else [(attack, bare)]:
            static &= right(made(view, x, y, indices=numbers))
        assert torch.equal(row.static, static)
        assert torch.equal(row.frozen, right(x) & right(attack(Frozen(deployed), x, y, indices=numbers)))
        blocks = (setting.steps - 1) // setting.every
        assert row.evaluations == setting.steps and row.units == setting.steps + blocks * setting.updates
    (tmp_path / f"{settings[1].name}.json").unlink()
    again = sweep(model, points, THREAT, **options)
    assert [row.to_dict() for row in again.rows] == [row.to_dict() for row in found.rows]
    before = model.tally.evaluations
    sweep(model, points, THREAT, **options)
    assert model.tally.evaluations - before == 3 * (1 + 9)  # of three steps, by which the model is known again
    write_json(tmp_path / f"{settings[0].name}.json", {"every": 2})
    with pytest.raises(ValueError, match=r"is no row of a sweep of this version; remove it"):
        sweep(model, points, THREAT, **options)
    frame = found.frame()
    assert list(frame["robust"]) == [int((row.static & row.frozen).sum()) for row in found.rows]
    assert len(found.table().splitlines()) == 2 + len(settings)


def test_a_sweep_s_folder_is_of_one_model_and_of_one_attack(model, points, tmp_path):
    """Rows of another model, ball or attack were read back as if they were these."""
    options = {"settings": [Setting(2, 0, 0.05, 3)], "attack_steps": 1, "out": tmp_path}
    (row,) = sweep(model, points, THREAT, **options).rows
    curved = own(4, sharpness=8.0, steps=3, dtype=torch.float64)
    curved.cell.finish = lambda prepared, u, constants=None: torch.sin(prepared + u)  # what no weight tells
    others = {
        "weights": (own(4, sharpness=2.0, steps=3, dtype=torch.float64), THREAT, options),
        "logits": (curved, THREAT, options), "eps": (model, rd.Linf(0.1), options),
        "options.attack_steps": (model, THREAT, {**options, "attack_steps": 2}),
    }  # fmt: skip
    for name, (of, threat, given) in others.items():
        with pytest.raises(ValueError, match=rf"plan.json belongs to another {name}.*; give another folder"):
            sweep(of, points, threat, **given)
    assert sweep(model, points, THREAT, **options).rows[0].to_dict() == row.to_dict()
