"""What an evaluation says at its start that it will cost: bounds that hold, of what is still to do, and nothing else
changes by it."""

import os
import pty
import re
import subprocess
import sys

import pytest
import torch
from launcher import launch_function
from sharded import THREAT
from small_models import Linear, images_for, own

import robustdeq as rd
from robustdeq.attacks import PGD, Frozen
from robustdeq.defences import Defended
from robustdeq.distributed import launched
from robustdeq.evaluation import Entry, evaluate
from robustdeq.evaluation import forecast as module
from robustdeq.progress import Lines, bar

SMALL = {"steps": 3, "batch_size": 5}
AUTO = {"iterations": 6, "queries": 20, "attacks": ["apgd-ce", "apgd-t", "square"]}
PASSES = ("evaluations", "backward", "updates")


class Listener(Lines):
    """Keeps what it is told."""

    def __init__(self, stop_at=None):
        super().__init__("test")
        self.told, self.stop_at = [], stop_at

    def __call__(self, done, total, text):
        if (text, done) == self.stop_at:
            raise KeyboardInterrupt

    def say(self, first, *more):
        self.told += [first, *more]


@pytest.fixture
def forecasts(monkeypatch):
    """Every forecast that is made, as a dict."""
    made, foresee = [], module.foreseen_costs

    def keep(*arguments):
        result = foresee(*arguments)
        made.append(dict(result))
        return result

    monkeypatch.setattr(module, "foreseen_costs", keep)
    return made


def defended(model):
    return rd.EntropyReduction(eps=0.05, step_size=0.02, updates=2)(model)


def counted(spent):
    """Of an attack's batches, or of the clean ones."""
    return [sum(getattr(batch, name) for batch in spent.values()) for name in PASSES]


@pytest.mark.parametrize("eps", [1e-6, 0.1], ids=["nothing falls", "much falls"])
@pytest.mark.parametrize("defence", [lambda model: model, defended], ids=["bare", "defended"])
@pytest.mark.parametrize("suite", ["quick", "paper", "standard", "adaptive"])
def test_no_attack_of_a_suite_costs_more_than_was_said(suite, defence, eps, forecasts):
    model = own(4, sharpness=8.0, steps=3)
    x = images_for(model, 8)
    own_options = {**({} if suite == "quick" else AUTO), **({"restarts": 2} if suite == "adaptive" else {})}
    options = {"suite": suite, "threat": rd.Linf(eps), "checks": 0, "progress": Listener(), **SMALL, **own_options}
    found = evaluate(defence(model), x, model(x).argmax(1), **options)
    (forecast,) = forecasts
    record = found.record
    assert set(forecast) - {"cost of the defence"} == {"clean", *record.columns}
    assert counted(record.clean) == [getattr(forecast["clean"], name) for name in PASSES]
    for name, attack in record.attacks.items():
        most, spent = [getattr(forecast[name], passes) for passes in PASSES], counted(attack.batches)
        assert all(now <= limit for now, limit in zip(spent, most)), (name, spent, most)
        if eps < 1e-3 and defence is not defended:  # which may put an image right or wrong that has not moved
            assert sum(spent) >= 0.75 * sum(most), (name, spent, most)


def test_the_checks_cost_no_more_than_was_said(forecasts):
    for defence in (lambda model: model, defended):
        model = own(4, sharpness=8.0, steps=3)
        x = images_for(model, 8)
        y, entry = model(x).argmax(1), Entry("pgd", "PGD", PGD(rd.Linf(1e-6), steps=1))
        spent = []
        for checks in (0, 4):
            before = vars(model.tally).copy()
            evaluate(defence(model), x, y, suite=[entry], checks=checks)  # nobody listens: nothing is measured
            spent.append([vars(model.tally)[name] - before[name] for name in PASSES])
        evaluate(defence(model), x, y, suite=[entry], checks=4, progress=Listener())
        most = [getattr(forecasts[-1]["checks"], name) for name in PASSES]  # beside the cost of the defence
        beyond = [with_checks - without for with_checks, without in zip(spent[1], spent[0])]
        assert all(now <= limit for now, limit in zip(beyond, most)) and beyond[1] > 0, (beyond, most)


def test_what_is_done_is_not_foreseen_again(tmp_path, forecasts, model, points):
    """Stopped behind the second of eight batches of the second attack, whose column the first one's is."""
    entries = [Entry("one", "A", PGD(THREAT, 0.05, 2)), Entry("two", "A", PGD(THREAT, 0.05, 3))]
    options = {"suite": entries, "batch_size": 3, "out": tmp_path, "checks": 0}
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, *points, progress=Listener(("two", 6)), **options)
    found = evaluate(model, *points, progress=Listener(), **options)
    first, second = forecasts
    assert set(first) == {"clean", "one", "two"} and set(second) == {"two"}
    left = (found.record.attacks["one"].outcomes == 1)[6:].sum()
    assert second["two"].evaluations == left / 24 * first["two"].evaluations
    listener = Listener()
    evaluate(model, *points, progress=listener, **options)
    assert listener.told == [] and forecasts[-1] == {}


def test_it_is_said_in_plain_lines_with_the_sum_at_the_end(model, points):
    name = "[bold]pgd[/]\x1b[2J"
    entries = [Entry(name, "A", PGD(THREAT, 0.05, 2)), Entry("own", "A", lambda module, x, y, indices: x)]
    listener = Listener()
    evaluate(model, *points, suite=entries, checks=0, progress=listener)
    first, clean, pgd, unknown, total = listener.told
    assert re.match(r"24 images; what they cost if none falls, .*: a forward of 24 takes [\d.]+ m?s$", first)
    assert re.match(r"clean +at most 72 evaluations of f; about [\d.]+ m?s$", clean)
    assert pgd.startswith(name) and "at most 288 evaluations of f, 144 backward passes; about " in pgd
    assert re.match(r"own +not known beforehand$", unknown)
    assert re.match(r"in all +at most 360 evaluations of f, 144 backward passes; about .* m?s, and what is not", total)


def test_of_a_network_without_states_its_images_are_counted():
    network, listener = Linear.random(3), Listener()
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    entry = Entry("pgd", "PGD", PGD(THREAT, 0.05, 4))
    evaluate(network, x, network(x).argmax(1), suite=[entry], checks=0, progress=listener)
    assert "at most 36 images through the network; about" in listener.told[2]


class Noisy(Defended):
    """A defence that draws from torch's own generator."""

    def forward(self, x):
        return self.model((x + 0.1 * torch.randn_like(x)).clamp(0, 1))


def test_measuring_changes_nothing_that_is_found(model, points):
    entry, outcomes = Entry("pgd", "A", PGD(THREAT, 0.05, 3), Frozen), []
    for progress in (None, Listener()):
        torch.manual_seed(0)
        found = evaluate(Noisy(model), *points, suite=[entry], checks=0, progress=progress)
        attack = found.record.attacks["pgd"]
        spent = counted(attack.batches)
        outcomes.append((found.record.predictions.tolist(), attack.outcomes.tolist(), spent))
    assert outcomes[0] == outcomes[1]


def _shared(out):
    torch.set_num_threads(1)
    with launched() as together, bar("evaluation", together.main) as progress:
        model = own(4, sharpness=8.0, steps=3)
        x = images_for(model, 12)
        entry = Entry("pgd", "A", PGD(THREAT, 0.05, 2))
        options = {"batch_size": 3, "out": out, "distributed": together, "progress": progress}
        evaluate(model, x, model(x).argmax(1), suite=[entry], checks=0, **options)


def test_of_several_processes_the_first_speaks_of_its_share(tmp_path, capfd):
    launch_function(_shared, tmp_path)
    lines = [line for line in capfd.readouterr().err.splitlines() if "at most" in line or "images" in line]
    assert len(lines) == 4 and lines[0].startswith("evaluation: 12 images, the first of 2 equal shares; ")
    assert "at most 72 evaluations of f, 36 backward passes" in lines[2]  # six images


def test_it_is_said_on_a_terminal_too(tmp_path):
    """By the command line, whose output stays the table."""
    folder = rd.save_model(rd.create_model("mdeq-nano", seed=0, steps=2), tmp_path / "model")
    words = ["evaluate", folder, "--subset", "4", "--checks", "0", "--set", "steps=1", "--out", tmp_path / "found"]
    command = [sys.executable, "-m", "robustdeq", *map(str, words)]
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stderr=theirs, stdout=subprocess.PIPE, text=True) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
        table = process.communicate(timeout=60)[0]
    os.close(ours)
    assert process.returncode == 0 and table.strip() == (tmp_path / "found" / "table.md").read_text().strip()
    assert "quick: 4 images; what they cost if none falls" in shown.decode()
    assert re.search(r"pgd-1 unrolled +at most 24 evaluations of f, 8 backward passes; about", shown.decode())
