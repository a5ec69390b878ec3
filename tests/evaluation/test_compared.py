"""A certificate beside attacks of its size: what is counted, and the red flag of a bound that is wrong."""

import json

import pytest
import torch
from small_models import Linear, images, own

import robustdeq as rd
from robustdeq.cli import main
from robustdeq.evaluation import Compared, certify, compare

RADII = (0.0, 0.05, 0.1)


class Bounded(Linear):
    """A linear classifier that states its slopes, times ``factor``."""

    factor = 1.0

    def slopes(self):
        weight = self.weight.detach().double()
        return self.factor * torch.cdist(weight, weight)


def case(factor):
    model, x = Bounded(Linear.random(4, size=64).weight.detach()), images(30, shape=(1, 8, 8))
    model.factor, y = factor, model(x).argmax(1)
    y[3] = (y[3] + 1) % 4
    return model, x, y


@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_a_bound_that_is_wrong_raises_a_red_flag_and_one_that_holds_does_not(factor, tmp_path):
    model, x, y = case(factor)
    certificate = certify(model, x, y, out=tmp_path)
    compared = compare(certificate, model, x[:20], y[:20], radii=RADII, out=tmp_path, steps=10)
    (flag,) = compared.flags
    assert flag.fired is (factor < 1) and flag.fired is ("RED FLAG certified" in compared.table())
    for radius in RADII:
        certified, stands = certificate.certified(radius)[:20], compared.standing(radius)
        assert compared.broken(radius) == (certified & ~stands).nonzero().flatten().tolist()
        if factor == 1:
            assert (certified <= stands).all() and int(certified.sum()) <= int(stands.sum())
            if radius:  # a linear model falls where its margin says so
                assert (stands <= certificate.certified(0.9 * radius)[:20]).all()
    again = Compared.read(tmp_path)
    assert again.to_dict() == compared.to_dict() and again.radii == compared.radii
    json.dumps(again.to_dict(), allow_nan=False)


def test_samples_that_an_attack_never_saw_are_not_counted_as_standing():
    model, x, y = case(1.0)
    certificate = certify(model, x, y)
    options = {"suite": "standard", "points": 5, "attacks": ["apgd-ce"]}
    compared = compare(certificate, model, x[:20], y[:20], radii=(0.1,), **options)
    assert compared.points == 5 and len(compared.standing(0.1)) == len(compared.standing(0)) == 5
    assert "first 5" in compared.table()


def test_no_sample_that_smoothing_certifies_falls_to_any_attack_of_a_suite():
    model = own(side=8, sharpness=8.0, steps=3)
    x = images(16, shape=(1, 8, 8))
    smoothed = rd.Smoothing(0.25, draws=60, seed=0)(model)
    y = model(x).argmax(1)
    certificate = certify(smoothed, x, y, n=2000)
    compared = compare(certificate, smoothed, x, y, radii=(0.1, 0.3), steps=5)
    assert not compared.flags[0].fired and certificate.certified(0.1).any()
    assert {"static", "frozen"} <= set(compared.attacked[0.1].columns.values())


def test_a_certificate_of_another_model_or_labels_is_refused():
    model, x, y = case(1.0)
    certificate = certify(model, x, y)
    other = Bounded(Linear.random(4, size=64, seed=1).weight.detach())
    for wrong, labels in ((other, y), (model, (y + 1) % 4)):
        with pytest.raises(ValueError, match="compare: the evaluation is of another model, or of other images, than"):
            compare(certificate, wrong, x, labels, radii=(0.1,), steps=1)
    for others in (x.flip(0), x.flip(0)[:4]):
        with pytest.raises(ValueError, match="than the certificate; allowed: the certified model, on the first of"):
            compare(certificate, model, others, y[: len(others)], radii=(0.1,), steps=1)
    assert compare(certificate, model, x, y, radii=()).table() == certificate.table()


def test_a_certificate_is_not_read_beside_attacks_on_another_model(tmp_path):
    """It was made anew in the folder of another one, and the attacks on that stood beside it."""
    model, x, y = case(1.0)
    compare(certify(model, x, y, out=tmp_path), model, x, y, radii=(0.1,), steps=1, out=tmp_path)
    assert Compared.read(tmp_path).points == len(x)
    (tmp_path / "certificate.json").unlink()
    certify(Bounded(Linear.random(4, size=64, seed=1).weight.detach()), x, y, out=tmp_path)
    with pytest.raises(ValueError, match=r"attacked-0\.1 is of another model, or of other images, than"):
        Compared.read(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    for name in ("mondeq-nano", "mdeq-nano"):
        rd.save_model(rd.create_model(name, seed=0, steps=3), place / name)
    return place


@pytest.mark.parametrize("method", ["lipschitz", "smoothing"])
def test_the_command_prints_what_the_functions_find_and_goes_on(method, folder, tmp_path, capsys):
    name = "mondeq-nano" if method == "lipschitz" else "mdeq-nano"
    words = ["certify", folder / name, "--out", tmp_path, "--subset", "6", "--attacked", "3", "--steps", "2"]
    words = [*map(str, words), *(["--n", "200", "--draws", "4", "--sigma", "0.5"] if method == "smoothing" else [])]
    assert main(words) == 0
    first = capsys.readouterr().out
    compared = Compared.read(tmp_path)
    assert first.strip() == (tmp_path / "table.md").read_text().strip() == compared.table()
    assert compared.certificate.method["name"] == method and compared.points == 3 and len(compared.attacked) == 6
    assert main([*words, "--method", method]) == 0 and capsys.readouterr().out == first
    assert main([*words, "--seed", "1"]) == 2 and "belongs to another" in capsys.readouterr().err


def test_the_attacks_beside_a_certificate_take_the_options_of_their_suite(folder, tmp_path):
    words = ["certify", str(folder / "mondeq-nano"), "--out", str(tmp_path), "--subset", "2", "--attacked", "2"]
    assert main([*words, "--suite", "standard", "--steps", "2", "--set", 'attacks=["square"]', "queries=7"]) == 0
    for evaluation in Compared.read(tmp_path).attacked.values():
        assert evaluation.record.attacks["square"].options["queries"] == 7
        assert not any(name.startswith("apgd") for name in evaluation.columns)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--method", "lipschitz"], "a DEQClassifier, which knows no bound"),
        (["--method", "linf"], "allowed: smoothing, lipschitz"),
        (["--eps", "0.1"], "unknown option '--eps'"),
        (["--sigma", "0"], "--sigma=0; allowed: a number in (0, 10]"),
        (["--n", "9"], "allowed: n >= 10"),
        (["--alpha", "1"], "--alpha=1"),
        (["--suite", "quik"], "did you mean 'quick'"),
        (["--set", "query=3"], "did you mean 'queries'"),
        (["--set", "queries=3"], "suite quick: unknown option 'queries'"),
    ],
)
def test_a_mistake_is_one_line(words, told, folder, tmp_path, capsys):
    assert main(["certify", str(folder / "mdeq-nano"), "--out", str(tmp_path / "out"), "--subset", "2", *words]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_options_of_noise_are_refused_where_a_bound_certifies(folder, tmp_path, capsys):
    """The radii said nothing of the sigma that was asked for."""
    words = ["certify", str(folder / "mondeq-nano"), "--out", str(tmp_path / "out"), "--sigma", "0.5", "--n", "500"]
    assert main(words) == 2 and not (tmp_path / "out").exists()
    told = capsys.readouterr().err
    assert "by the bound of a MonDEQ with --sigma, --n, which has no effect there; allowed: --method smoothing" in told
    model = rd.load_model(folder / "mondeq-nano")
    with pytest.raises(ValueError, match=r"n=500, alpha=0\.01 of a MonDEQ, which is certified without noise"):
        certify(model, torch.rand(1, 1, 8, 8), torch.tensor([0]), n=500, alpha=0.01)
