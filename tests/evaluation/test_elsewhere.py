"""Images that were made against other models: against surrogates, and on both sides of a defence."""

import json

import pytest
import torch
from small_models import Linear, images_for, own
from torch import nn

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.cli import main
from robustdeq.evaluation import Entry, Evaluation

THREAT = rd.Linf(0.1)


def other(classes=4, seed=1, **options):
    """A smooth DEQ like ``own``'s, with weights of its own."""
    model = own(classes, sharpness=8.0, **options)
    with torch.no_grad():
        noise = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
    return model


def evaluated(model, points, **options):
    return rd.evaluate(model, *points, **{"suite": "quick", "steps": 5, "threat": THREAT, "checks": 0, **options})


def test_images_are_made_against_the_surrogate_and_verified_on_the_model(model, points, tmp_path):
    x, y = points
    surrogate = other()
    found = evaluated(model, points, surrogates=[surrogate], out=tmp_path, images=True, batch_size=10)
    right = model(x).argmax(1) == y
    for loss in ("ce", "dlr"):
        attack = PGD(THREAT, THREAT.eps / 4, 5, loss=loss, keep="highest")
        wanted = attack(surrogate, x[right], y[right], indices=torch.arange(24)[right])
        name = f"pgd-5 surrogate 1 {loss}"
        seen = found.record.attacks[name].outcomes >= 0
        kept = found.images[name][:]
        torch.testing.assert_close(kept[seen], wanted[seen[right]], atol=1e-6, rtol=0)
        assert torch.equal(model(kept).argmax(1)[seen] == y[seen], found.robust[name][seen])
        assert found.columns[name] == "surrogate" and not found.record.attacks[name].exact
    shares = found.shares()
    assert list(shares) == ["clean", "PGD", "joint", "surrogate", "All"]
    assert shares["PGD"].count < shares["surrogate"].count < shares["clean"].count
    assert "| surrogate | " in found.table()


@pytest.mark.parametrize("suite", ["paper", "standard", "adaptive"])
def test_every_suite_takes_surrogates(suite, model, points):
    few = {"iterations": 2, "queries": 3, "attacks": ["apgd-ce"], "steps": 2}
    x, y = points
    wrapped = nn.Sequential(nn.Identity(), Linear.random(4))
    found = evaluated(model, (x[:4], y[:4]), suite=suite, surrogates=[other(), wrapped], **few)
    assert [name for name, column in found.columns.items() if column == "surrogate"] == [
        f"pgd-2 surrogate {number} {loss}" for number in (1, 2) for loss in ("ce", "dlr")
    ]
    defended = rd.EntropyReduction(eps=0.1, updates=1)(model)
    assert "surrogate" in evaluated(defended, (x[:4], y[:4]), surrogates=[defended_of(other())]).shares()


def defended_of(model):
    return rd.EntropyReduction(eps=0.1, step_size=0.03, updates=2)(model)


def test_the_surrogate_is_recorded_and_another_one_is_another_attack(model, points, tmp_path):
    name, forwards = "pgd-5 surrogate 1 ce", []

    def again(surrogate):
        hook = surrogate.register_forward_hook(lambda *_: forwards.append(1))
        forwards.clear()
        found = evaluated(model, points, surrogates=[surrogate], out=tmp_path)
        hook.remove()
        return found.record.attacks[name].settings["surrogate"], len(forwards)

    first, many = again(other())
    assert set(first) == {"model", "weights", "solver", "steps"} and len(first["weights"]) == 64
    assert again(other()) == (first, 1) and many > 5  # a look at its classes
    second, many = again(other(seed=2))
    assert second["weights"] != first["weights"] and many > 5
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert record["attacks"][name]["settings"]["surrogate"] == second
    third, many = again(defended_of(other(seed=2)))  # below its defence it is the same
    assert third["defence"]["settings"]["updates"] == 2 and many > 5
    fourth, many = again(rd.EntropyReduction(eps=0.2, step_size=0.05, updates=1)(other(seed=2)))
    assert fourth != third and many > 5


def test_what_an_attack_does_in_a_surrogate_is_among_its_costs(model, points):
    """PGD of 5 steps takes 6 solves of 5 steps and 5 backward passes; that of the model is one forward more."""
    surrogate = other(steps=5)
    found = evaluated(model, (points[0][:1], model(points[0][:1]).argmax(1)), surrogates=[surrogate])
    batch = found.record.attacks["pgd-5 surrogate 1 ce"].batches[0]
    assert batch.evaluations == 6 * 5 + model.steps and batch.backward == 5 * 5


@pytest.mark.parametrize(
    "surrogate, message",
    [
        (lambda model: model, "has the model's weights; allowed: others"),
        (lambda model: defended_of(model), "has the model's weights"),
        (lambda model: other(5), r"5 classes beside a model with 4; allowed: as many"),
        (lambda model: other(side=5), "allowed"),
        (lambda model: nn.Sequential(nn.Flatten(), nn.Linear(9, 4)), "evaluate: the surrogate, a Sequential"),
        (lambda model: nn.Flatten(0), "Flatten gives"),
    ],
)
def test_a_surrogate_that_does_not_fit_is_refused_before_the_first_attack(surrogate, message, model, points, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        evaluated(model, points, surrogates=[surrogate(model)], out=tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_classes_of_other_names_are_refused(points):
    model, surrogate = own(4, sharpness=8.0, steps=3), other()
    surrogate.classes = ("a", "b", "c", "d")
    images = rd.data.ImageSet((255 * points[0]).to(torch.uint8), points[1], ("a", "b", "d", "c"), "noise")
    with pytest.raises(ValueError, match="class 2 is 'c' to the model and 'd' in the images"):
        rd.evaluate(model, images, suite="quick", threat=THREAT, surrogates=[surrogate])


def test_each_side_of_a_defence_is_tried_on_the_images_of_the_other(model, points, tmp_path):
    """Of whatever attack saw every point; and once only, however often they are handed on."""
    y = points[1]
    defended = defended_of(model)
    bare = evaluated(model, points, out=tmp_path / "bare", images=True, batch_size=7)
    found = evaluated(defended, points, out=tmp_path / "defended", images=True, beside=bare)
    handed = {f"beside {name}": images[:] for name, images in bare.images.items()}
    assert list(found.columns)[: len(handed)] == list(handed) and {found.columns[name] for name in handed} == {"static"}
    stands = found.clean.clone()
    for name, images in handed.items():
        seen, right = found.record.attacks[name].outcomes >= 0, defended(images).argmax(1) == y
        assert torch.equal(found.robust[name][seen], right[seen])
        stands &= right | ~found.clean
    whole = torch.stack([found.robust[name] for name in handed]).all(0)
    assert torch.equal(whole, stands) and stands.sum() < found.clean.sum()
    assert "| All, without the defence |" in found.table(bare)

    back = evaluated(model, points, out=tmp_path / "back", beside=Evaluation.read(tmp_path / "defended"))
    own = {f"beside {name}": column for name, column in found.columns.items() if not name.startswith("beside")}
    columns = {name: "white-box" if column == "static" else "transfer" for name, column in own.items()}
    assert {name: column for name, column in back.columns.items() if name.startswith("beside")} == columns
    assert set(columns.values()) == {"white-box", "transfer"} and back.shares()["transfer"].count < 24
    assert "| All, with the defence |" in back.table(found)


def test_images_of_a_surrogate_are_never_called_ones_against_the_bare_model(model, points, tmp_path):
    bare = evaluated(model, points, out=tmp_path / "bare", images=True, surrogates=[other()])
    far = {f"beside {name}" for name, column in bare.columns.items() if column == "surrogate"}
    found = evaluated(defended_of(model), points, beside=bare)
    columns = {name: column for name, column in found.columns.items() if name.startswith("beside")}
    assert far and columns == {name: "transfer" if name in far else "static" for name in columns}


def test_stronger_images_against_this_very_model_are_no_sign_of_masking(points, tmp_path):
    """Made for the static column of the defended one with more steps, and tried on the bare one after one step."""
    model = own(4, sharpness=8.0, steps=3)
    x = images_for(model, 60)
    few = x, model(x).argmax(1)
    options = {"threat": rd.Linf(0.06), "checks": 0, "suite": "quick"}
    behind = rd.evaluate(defended_of(model), *few, steps=20, out=tmp_path, images=True, **options)
    found = rd.evaluate(model, *few, steps=1, step_size=0.01, beside=behind, **options)
    assert found.shares()["white-box"].count < found.shares()["PGD"].count - 7
    assert "surrogate" not in {flag.name for flag in found.flags if flag.fired}


def test_images_of_fewer_points_are_not_handed_on_and_no_images_are_none(model, points, tmp_path):
    entries = [Entry("all", "A", PGD(THREAT)), Entry("few", "A", PGD(THREAT), points=5)]
    options = {"suite": entries, "threat": THREAT, "checks": 0}
    bare = rd.evaluate(model, *points, out=tmp_path, images=True, **options)
    defended = defended_of(model)
    found = evaluated(defended, points, beside=bare)
    assert "beside all" in found.columns and "beside few" not in found.columns
    assert found.shares()["All"].total == 24
    assert "beside few" in rd.evaluate(defended, *points, suite="quick", points=5, threat=THREAT, beside=bare).columns
    unkept = rd.evaluate(model, *points, **options)
    assert not any(name.startswith("beside") for name in evaluated(defended, points, beside=unkept).columns)


def test_on_the_command_line(tmp_path, capfd):
    folders = {}
    for seed in (0, 1, 2):
        model = rd.create_model("mdeq-nano", seed=seed, steps=2)
        folders[seed] = str(rd.save_model(model, tmp_path / f"model {seed}"))
    few = ["--subset", "6", "--checks", "0", "--set", "steps=2", "--out"]
    words = ["evaluate", folders[0], "--surrogate", folders[1], f"--surrogate={folders[2]}"]
    for _ in range(2):
        assert main([*words, *few, str(tmp_path / "out")]) == 0
        assert "| surrogate |" in capfd.readouterr().out
    found = Evaluation.read(tmp_path / "out")
    weights = {found.record.attacks[f"pgd-2 surrogate {n} ce"].settings["surrogate"]["weights"] for n in (1, 2)}
    assert len(weights) == 2
    assert main(["evaluate", folders[0], "--surrogate", folders[0], *few, str(tmp_path / "same")]) == 2
    assert "has the model's weights" in capfd.readouterr().err and not (tmp_path / "same").exists()

    bare, defended = str(tmp_path / "bare"), str(tmp_path / "defended")
    assert main(["evaluate", folders[0], "--images", *few, bare]) == 0
    assert main(["evaluate", folders[0], "--defend", "--beside", bare, "--images", *few, defended]) == 0
    assert "beside pgd-2 unrolled" in Evaluation.read(defended).columns
    assert main(["evaluate", folders[0], "--beside", defended, *few, str(tmp_path / "back")]) == 0
    assert "| All, with the defence |" in capfd.readouterr().out
    assert main(["evaluate", folders[0], "--beside", bare, *few, str(tmp_path / "none")]) == 2
    assert "allowed: both, or a defended one's" in capfd.readouterr().err
