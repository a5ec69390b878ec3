"""Strange models, damaged files and names with signs in them: the right number, or one line."""

import json
import subprocess
import sys

import pytest
import torch
from small_models import own
from torch import nn

import robustdeq as rd
from robustdeq.attacks import PGD
from robustdeq.cli import main
from robustdeq.defences import Defended
from robustdeq.evaluation import Entry, Evaluation
from robustdeq.evaluation.recordfile import _seal

THREAT = rd.Linf(0.1)
REDUCED = {"eps": 0.2, "step_size": 0.1, "updates": 1, "every": 2}


def entries(**options):
    return [Entry("pgd", "PGD", PGD(THREAT, 0.03, 2, **options))]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)).eval()


@pytest.fixture(scope="module")
def points(digits):
    return digits.images(slice(20)), digits.labels[:20]


def test_a_memory_format_changes_neither_digest_nor_outcome(points):
    plain = rd.evaluate(net(), *points, suite=entries(), checks=4)
    other = rd.evaluate(net().to(memory_format=torch.channels_last), *points, suite=entries(), checks=4)
    assert plain.record.identity == other.record.identity and plain.shares() == other.shares()


@pytest.mark.parametrize("suite", ["quick", "standard"])
def test_a_default_dtype_of_the_user_s_changes_nothing(suite, points):
    options = {"suite": suite, "threat": THREAT, "checks": 4, "steps": 2}
    options |= {} if suite == "quick" else {"iterations": 2, "queries": 5, "attacks": ["apgd-ce", "square"]}
    model, before = net(), torch.get_default_dtype()
    plain = rd.evaluate(model, *points, **options)
    torch.set_default_dtype(torch.float64)
    try:
        double = rd.evaluate(model, *points, **options)
    finally:
        torch.set_default_dtype(before)
    assert {name: share.count for name, share in plain.shares().items()} == {
        name: share.count for name, share in double.shares().items()
    }


@pytest.mark.parametrize("out", [lambda y: (y,), lambda y: {"logits": y}, lambda y: y[:, 0], lambda y: y[:, :1],
                                 lambda y: y.long(), lambda y: None])  # fmt: skip
def test_outputs_that_are_no_logits_are_refused_before_a_file_is_written(out, points, tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x):
            return out(self.net(x))

    with pytest.raises(ValueError, match=r"evaluate: Odd gives .*; allowed: .* logits \(1, K >= 2\)"):
        rd.evaluate(Odd(), *points, suite="quick", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [{"suite": 5}, {"suite": None}, {"suite": [5]}, {"suite": []}, {"threat": 5}, {"threat": "Linf"}, {"batch_size": 0},
     {"batch_size": "5"}, {"seed": "a"}, {"seed": 2**70}, {"seed": -1}, {"checks": 1.5}, {"out": 5}, {"images": "no"},
     {"resume": "no"}, {"transfers": 5}, {"transfers": {"a/b": 5}}, {"step_size": "x"}, {"samples": 5},
     {"suite": "quick", "steps": True}, {"suite": "paper", "states": 4}, {"suite": "paper", "states": ["x"]},
     {"suite": "standard", "attacks": 5}, {"suite": "standard", "points": "abc"}, {"opaque": "no"}, {"beside": 5}],
    ids=str,
)  # fmt: skip
def test_a_wrong_argument_is_one_line(options, points, tmp_path):
    if options == {"suite": []}:
        assert "All" not in rd.evaluate(net(), *points, suite=[], checks=0).shares()
        return
    model, usual = rd.create_model("mdeq-nano", seed=0), {"suite": entries(), "out": tmp_path / "out"}
    with pytest.raises(ValueError) as error:
        rd.evaluate(model, *points, **{**usual, **options})
    assert len(str(error.value).splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_defence_below_another_belongs_to_what_was_judged(points, tmp_path):
    """Of another inner defence no record is gone on with, neither that of attacks nor a certificate."""
    model = own(10, side=8, steps=4)

    def smoothed(updates):
        return rd.Smoothing(0.1, draws=2, seed=0)(rd.EntropyReduction(0.2, 0.1, updates)(model))

    attacked = {"suite": [Entry("pgd", "frozen", PGD(THREAT, 0.03, 1))], "checks": 0, "out": tmp_path / "attacked"}
    proven = {"n0": 2, "n": 10, "alpha": 0.1, "out": tmp_path / "proven"}
    x, y = points[0][:4], points[1][:4]
    for judge, options in ((rd.evaluate, attacked), (rd.certify, proven)):
        settings = judge(smoothed(1), x, y, **options).record.identity.defence.settings
        assert settings["around"] == {"name": "RegulatedClassifier", "settings": {**REDUCED, "updates": 1}}
        with pytest.raises(ValueError, match=r"belongs to another defence\.settings\.around\.settings\.updates"):
            judge(smoothed(2), x, y, **options)
    alone = rd.evaluate(rd.EntropyReduction(**REDUCED)(model), x, y, suite=[], checks=0)
    assert alone.record.identity.defence.settings == REDUCED


def test_a_record_tells_on_which_device_it_was_made(points):
    """It named the machine's GPU, whether the model was there or not."""
    record = rd.evaluate(net(), *points, suite=[], checks=0).record
    assert [of["device"] for of in record.environments.values()] == ["cpu"]


def test_a_defence_of_one_s_own_is_known_by_its_numbers_where_it_has_no_method(points, tmp_path):
    """One that blackens every image was given the accuracy of one that changes nothing."""

    class Dimmed(Defended):
        def __init__(self, share):
            super().__init__(net())
            self.share, self.name = share, "dimmed"

        def forward(self, x):
            return self.model(self.share * x)

    options = {"suite": entries(), "checks": 0, "out": tmp_path}
    record = rd.evaluate(Dimmed(1.0), *points, **options).record
    assert record.identity.defence.settings == {"share": 1.0, "name": "dimmed"}
    with pytest.raises(ValueError, match=r"belongs to another defence\.settings\.share"):
        rd.evaluate(Dimmed(0.0), *points, **options)


@pytest.mark.parametrize("model", [None, 5, "model", net, nn.Linear])
def test_what_is_no_model_is_one_line(model, points):
    with pytest.raises(ValueError, match=r"allowed: a torch\.nn\.Module"):
        rd.evaluate(model, *points)


def test_a_command_that_an_attack_refuses_writes_nothing(tmp_path, capfd):
    folder = rd.save_model(rd.create_model("mdeq-nano", seed=0, steps=3, solver="reversible"), tmp_path / "model")
    words = ["attack", str(folder), "--gradient", "simultaneous", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "allowed: anderson, broyden, picard" in capfd.readouterr().err and not (tmp_path / "out").exists()


def test_damaged_images_and_records_are_refused(points, tmp_path):
    model = net()
    rd.evaluate(model, *points, suite=entries(), checks=0, images=True, out=tmp_path)
    (images,) = (tmp_path / "images").iterdir()
    data = bytearray(images.read_bytes())
    data[-1] ^= 1
    images.write_bytes(data)
    with pytest.raises(ValueError, match=r"is damaged.*remove it, and evaluate again"):
        Evaluation.read(tmp_path).images["pgd"][:]
    file = tmp_path / "evaluation.json"
    text = file.read_text()
    assert '"outcomes": [' in text
    at = text.index("1", text.index('"outcomes": ['))
    file.write_text(text[:at] + "0" + text[at + 1 :])
    for look in (lambda: Evaluation.read(tmp_path), lambda: rd.evaluate(model, *points, suite=entries(), out=tmp_path)):
        with pytest.raises(ValueError, match="damaged: its digest is of another record"):
            look()


@pytest.mark.parametrize(
    "path, value, message",
    [
        (("columns", "other"), "PGD", r"names attacks that it does not hold, \['other'\]"),
        (("attacks", "pgd", "points"), 2**70, "is unfinished: pgd"),
        (("identity", "points"), 2**70, "is unfinished: clean"),
    ],
)
def test_a_record_that_somebody_wrote_with_a_program_is_refused_at_once(path, value, message, points, tmp_path):
    """Its digest is right, and what it says cannot be."""
    rd.evaluate(net(), *points, suite=entries(), checks=0, out=tmp_path)
    record = json.loads((tmp_path / "evaluation.json").read_text())
    del record["sha256"]
    place = record
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (tmp_path / "evaluation.json").write_text(json.dumps({"sha256": _seal(record), **record}))
    with pytest.raises(ValueError, match=message):
        Evaluation.read(tmp_path)


@pytest.mark.parametrize("options", [{}, {"version": 5, "attacks": 5}, {"version": "standard", "attacks": [None]}])
def test_options_of_autoattack_that_a_program_wrote_still_give_a_table(options, points, tmp_path):
    rd.evaluate(net(), *points, suite=entries(), checks=0, out=tmp_path)
    record = json.loads((tmp_path / "evaluation.json").read_text())
    del record["sha256"]
    record["attacks"]["pgd"] |= {"attack": "AutoAttack", "options": options}
    (tmp_path / "evaluation.json").write_text(json.dumps({"sha256": _seal(record), **record}))
    assert "| PGD |" in Evaluation.read(tmp_path).table()


def test_names_of_others_are_no_markup_in_a_table(points):
    names = [Entry("a|b\n\x1b[31m", "<b>c</b>|", PGD(THREAT, 0.03, 1))]
    names.append(Entry("[x](y)", "`d`", lambda model, x, y, indices: x + 1))
    table = rd.evaluate(net(), *points, suite=names, threat=THREAT, checks=0, samples="<script>|").table()
    assert "\x1b" not in table and "<" not in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert all(line.replace("\\|", "").count("|") == 5 for line in rows)


def test_no_memory_is_one_line(tmp_path):
    folder = rd.save_model(rd.create_model("mdeq-nano", seed=0, steps=300), tmp_path / "model")
    code = (
        "import sys, resource; from robustdeq.cli import main; import torch, scipy.stats, sklearn.datasets\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "torch.set_num_threads(1)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    words = ["evaluate", str(folder), "--batch-size", "360", "--set", "steps=2", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120)
    lines = [line for line in done.stderr.splitlines() if line.startswith("robustdeq")]
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert len(lines) == 1 and lines[0].startswith("robustdeq: out of memory; a smaller batch")


def test_a_traceback_is_shown_where_it_is_asked_for(capfd):
    assert main(["train", "digts", "--out", "x"]) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert main(["train", "digts", "--out", "x", "--traceback"]) == 2
    assert "Traceback" in capfd.readouterr().err
