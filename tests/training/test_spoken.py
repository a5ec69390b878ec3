"""What a training says where there is no terminal: how it begins, a line now and then, how it is judged."""

import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from launcher import launch_function
from small_models import Linear, own

import robustdeq as rd
from robustdeq.distributed import launched
from robustdeq.progress import Lines, bar
from robustdeq.training import Phase, TrainConfig, Trainer

CONFIG = TrainConfig(
    eps=0.15, batch_size=16, validation_points=10, validation_steps=1, validation_every=2,
    phases=(Phase(epochs=2, attack_steps=0), Phase(epochs=3, attack_steps=2, solver_steps=4)),
)  # fmt: skip
IMAGES = 80
EVERY = 0.2
SCRIPT = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from small_models import own
import torch
import robustdeq as rd
from robustdeq.progress import bar
from robustdeq.training import TrainConfig, Trainer

torch.set_num_threads(1)
splits = rd.data.digits()
options = {{"eps": 0.15, "batch_size": 8, "validation_points": 10, "validation_steps": 1, "validation_every": 10}}
config = TrainConfig(phases=[{{"epochs": 40, "attack_steps": 1}}], **options)
trainer = Trainer(own(10, side=8), splits.train.take(slice(40)), config, sys.argv[1], splits.validation)
with bar("training", every={EVERY}) as progress:
    trainer.run(progress)
"""


class Heard(Lines):
    """Keeps its notes. stop: the number of steps after which it interrupts the run."""

    def __init__(self, stop=None):
        super().__init__("test")
        self.stop, self.notes, self.texts = stop, [], []

    def __call__(self, done, total, text):
        self.texts.append(text)
        if done == self.stop:
            raise KeyboardInterrupt

    def note(self, first, *more):
        assert not more
        self.notes.append(first)


def _trained(folder, progress, config=CONFIG, model=None):
    splits = rd.data.digits()
    model = own(10, side=8) if model is None else model
    trainer = Trainer(model, splits.train.take(slice(IMAGES)), config, folder, splits.validation)
    trainer.run(progress)
    return trainer


def _spent(history):
    """f-units of the updates of these epochs."""
    return sum(row["units_per_image"] for row in history) * IMAGES


def test_the_f_units_said_at_the_start_are_those_that_are_counted(tmp_path):
    trainer = Trainer(own(10, side=8), rd.data.digits().train.take(slice(IMAGES)), replace(CONFIG, validation_points=0),
                      tmp_path)  # fmt: skip
    said = trainer.units_left()
    trainer.run()
    # Clean: a solve of 5 steps forward, and back to weights. Attacked, of 4 steps: twice there and back, then the same.
    assert said == _spent(trainer.history) == IMAGES * (2 * (5 + 10) + 3 * (2 * 8 + 4 + 8))
    assert trainer.units_left() == 0


def test_of_random_states_about(tmp_path):
    config = replace(CONFIG, states="random", validation_points=0)
    trainer = Trainer(own(10, side=8), rd.data.digits().train.take(slice(IMAGES)), config, tmp_path)
    said = trainer.units_left()
    trainer.run()
    assert 0.6 < said / _spent(trainer.history) < 1.6


def test_the_time_left_is_told_by_what_a_step_costs(tmp_path):
    """A run goes on from step 12; a step costs 28 f-units an image where the first ten cost 15."""
    config = replace(CONFIG, validation_points=0, checkpoint_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        _trained(tmp_path, Heard(stop=13), config)
    heard = Heard()
    history = _trained(tmp_path, heard, config).history
    assert [heard.work(step) for step in (0, 10, 11, 25)] == [0, 2400, 2848, _spent(history)]


def test_a_run_of_steps_that_cost_more_and_more_is_not_said_to_end_too_soon(monkeypatch, capsys):
    """Ten steps of one second and ten of four: after five, 45 s are left and not 15."""
    clock = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    lines = Lines("training", every=0)
    lines.work = lambda step: step + 3.0 * max(step - 10, 0)
    for step in range(6):
        lines(step, 20, "text")
    assert capsys.readouterr().err.splitlines()[-1] == "training: text  (5 of 20, about 45 s left)"


def test_a_run_says_how_it_begins_and_how_it_is_judged(tmp_path):
    heard = Heard()
    history = _trained(tmp_path, heard).history
    begins, *judged = heard.notes
    assert begins == f"80 images, 5 epochs, 25 steps of 16 images; about 9,100 f-units; log in {tmp_path / 'log.jsonl'}"
    rows = [row for row in history if "validation" in row]
    assert len(judged) == len(rows) == 3
    for line, row in zip(judged, rows):
        found = row["validation"]
        shares = ", ".join(f"{name} {100 * found[name]:.1f}%" for name in ("robust", "phantom", "unrolled", "clean"))
        known = f"epoch {row['epoch']}: held-out images {shares}; best robust so far {100 * row['best']:.1f}%"
        assert line == "; ".join([known, *(f"warning: {text}" for text in row["warnings"])])


def test_the_text_tells_what_is_known(tmp_path):
    heard = Heard()
    _trained(tmp_path, heard, replace(CONFIG, ema=0.5))
    first, last = heard.texts[0], heard.texts[-1]
    assert re.fullmatch(r"epoch 1/5  loss [\d.]+  \d+ images/s", first)
    known = r"attacked [\d.]+%  clean [\d.]+%  held-out robust [\d.]+%"
    assert re.fullmatch(rf"epoch 5/5  loss [\d.]+  \d+ images/s  {known}", last)
    assert "; with averaged weights robust" in heard.notes[-1]


def test_a_run_that_goes_on_says_where_and_ends_with_the_same_bits(tmp_path):
    """Nothing that is measured for these lines leaves a trace."""
    config = replace(CONFIG, checkpoint_seconds=0, states="random", awp=0.01)
    silent = _trained(tmp_path / "silent", None, config).model.state_dict()
    with pytest.raises(KeyboardInterrupt):
        _trained(tmp_path / "told", Heard(stop=13), config)
    heard = Heard()
    told = _trained(tmp_path / "told", heard, config).model.state_dict()
    # The step at which it was stopped was not saved yet.
    assert re.match(r"80 images, .*; 12 steps are done, it goes on in epoch 3; about [\d,]+ f-units;", heard.notes[0])
    assert all(torch.equal(told[name], silent[name]) for name in silent)
    again = Heard()
    _trained(tmp_path / "told", again, config)
    assert len(again.notes) == 1 and "25 steps of 16 images; all are done; log in" in again.notes[0]


def test_of_a_network_without_states_no_f_units_are_told(tmp_path):
    heard = Heard()
    network = torch.nn.Sequential(Linear.random(10, size=64), torch.nn.Identity())
    config = replace(CONFIG, phases=(Phase(epochs=5, attack_steps=2),))
    _trained(tmp_path, heard, config, network)
    assert heard.work(7) == 7
    assert "; its f-units are not known beforehand; log in" in heard.notes[0]


def test_a_real_process_whose_errors_go_to_a_file(tmp_path):
    """As under nohup: a first line, at most one in ``every`` seconds, four judgements; and nothing on the output."""
    file, began = tmp_path / "errors", time.monotonic()
    with file.open("w") as errors:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "run")]
        done = subprocess.run(command, stderr=errors, stdout=subprocess.PIPE, text=True, timeout=100)
    seconds = time.monotonic() - began
    assert done.returncode == 0 and done.stdout == ""
    first, *lines = file.read_text().splitlines()
    assert first.startswith("training: 40 images, 40 epochs, 200 steps of 8 images; about ")
    judged = [line for line in lines if "held-out images" in line]
    paced = [line for line in lines if line not in judged]
    assert [line.split(":")[1] for line in judged] == [" epoch 10", " epoch 20", " epoch 30", " epoch 40"]
    assert 1 <= len(paced) <= seconds / EVERY
    form = r"training: epoch \d+/40  loss [\d.]+  \d+ images/s  attacked .*  \(\d+ of 200, about .* left\)"
    assert all(re.fullmatch(form, line) for line in paced), paced


def _together(out):
    torch.set_num_threads(1)
    splits = rd.data.digits()
    with launched() as distributed, bar("training", distributed.main) as progress:
        config = replace(CONFIG, phases=CONFIG.phases[:1])
        images = splits.train.take(slice(IMAGES))
        Trainer(own(10, side=8), images, config, out, splits.validation, distributed=distributed).run(progress)


def test_of_several_processes_one_speaks(tmp_path, capfd):
    launch_function(_together, tmp_path)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("training")]
    assert len(lines) == 2 and "; about 2,400 f-units; log in" in lines[0]  # as of one process
    assert lines[1].startswith("training: epoch 2: held-out images robust ")
