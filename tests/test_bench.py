"""What is counted of every work, on any machine; a time is never tested."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

import robustdeq as rd
from robustdeq.bench import Row, counted, made, rates, record, table
from robustdeq.cli import main
from robustdeq.recipes import recipe

N, BATCH = 3, 2
UNITS = {
    # evaluations of f, and backward passes: one to the image, two with the weights
    "one f": 1, "solve": N, "forward": N,
    "attack step, unrolled": 2 * N + N,  # and a look at where the step led
    "attack step, phantom": (N + 6) + 6 + N,
    "entropy reduction": N,
    "update on clean images": 3 * N,
    "update, PGD-AT-10": 10 * 2 * N + 3 * N,
    "update, TRADES-10": (N + 10 * 2 * N) + 2 * 3 * N,
}  # fmt: skip


def _case(work, variant="eager"):
    model = rd.create_model("mdeq-nano", steps=N, seed=0)
    x = torch.rand(BATCH, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return model, made(work, variant, model, x, torch.tensor([3, 7]))


@pytest.mark.parametrize("work", UNITS)
def test_the_evaluations_of_f_of_a_work(work):
    units, updates, gflop = counted(*_case(work))
    assert units == UNITS[work] * BATCH
    assert updates == (10 * BATCH if work == "entropy reduction" else 0)  # one block: after step 2 of 3
    assert gflop > 0


def test_the_first_step_of_a_solve_prepares_one_row_for_all():
    """Operations of N steps are those of N - 1 evaluations, a tail, and the preparation of one row."""
    one_f, solve = (counted(*_case(work))[2] for work in ("one f", "solve"))
    tail = solve - (N - 1) * one_f
    assert 0.2 * one_f < tail < 0.75 * one_f  # batch 2: the tail of two rows and the preparation of one


def test_a_regulated_forward_prepares_a_state_once():
    """Ten updates cost ten injections, tails and readouts, forward and back, and not one evaluation of f."""
    model, call = _case("entropy reduction")
    calls, prepare = [], model.cell.prepare
    model.cell.prepare = lambda z, constants=None: calls.append(len(z)) or prepare(z, constants)
    call()
    assert calls == [1, BATCH, BATCH]  # z^[0] for all, z^[1], and z^[2] for the updates and the step behind them


@pytest.mark.parametrize("variant", ["channels-last", "bfloat16"])
def test_a_variant_computes_the_same(variant):
    plain, other = (_case("forward", each)[1]() for each in ("eager", variant))
    torch.testing.assert_close(other.float(), plain, atol=0.05 if variant == "bfloat16" else 1e-5, rtol=0.05)


def test_rows_tell_ratios_and_are_kept(tmp_path, capsys):
    words = ["--model", "mdeq-nano", "--batch", "2", "--steps", "2", "--repeats", "2", "--work", "one f"]
    assert main(["bench", *words, "--work", "forward", "--out", str(tmp_path / "a.json")]) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert [row["units"] for row in found["rows"]] == [1, 2] and found["environment"]["packages"]["torch"]
    assert main(["bench", *words, "--compare", str(tmp_path / "a.json")]) == 0
    assert "times as fast" in capsys.readouterr().out
    assert main(["bench", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == found.keys()
    twice = {**found, "rows": [{**row, "seconds": row["seconds"] / 2} for row in found["rows"]]}
    assert all(line.endswith(" 2.00 |") for line in table(twice, found).splitlines()[2:4])
    assert table(found).count("\n") == 10
    for row in found["rows"]:
        assert sum(row["shares"].values()) == pytest.approx(1) and row["shares"]["convolutions"] > 0


def test_no_case_is_timed_twice(tmp_path, capsys, monkeypatch):
    """The growth names a model and an N that the first case has by default."""
    monkeypatch.setattr("robustdeq.commands.bench.GROWTH", {"steps": (2, 8), "model": ("mdeq-nano",)})
    own = rd.create_model("mdeq-nano").steps
    words = ["--model", "mdeq-nano", "--batch", "2", "--repeats", "2", "--work", "one f", "--growth"]
    assert main(["bench", *words, "--out", str(tmp_path / "a.json")]) == 0
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert sorted(row["steps"] for row in rows) == [2, own]


def test_a_mistake_is_one_line(tmp_path, capsys):
    (tmp_path / "other.json").write_text("[1]")
    for words, said in (
        (["--work", "flight"], "unknown work"), (["--variant", "eager+fast"], "unknown variant"),
        (["--repeats", "1"], "repeats=1"), (["--compare", str(tmp_path / "other.json")], "holds no rows"),
        (["digits"], "allowed: options"), (["--model", "mdeq-nan"], "mdeq-nano"),
    ):  # fmt: skip
        assert main(["bench", *words]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert said in line, line


def test_what_a_machine_reaches_is_measured_and_a_gflop_is_counted_in_full():
    found = rates(torch.device("cpu"), size=64, repeats=2)
    assert set(found) == {"matrix product, float32", "convolution, float32"} and min(found.values()) > 0
    row = Row("forward", "eager", "mdeq-nano", 8, 4, 0.5, 0.4, 0.6, 8, 0, 3.0, 1.0, {})
    assert (row.images_per_second, row.gflops) == (8, 6)
    assert record([row], found)["rows"][0]["gflop"] == 3.0


def _benchmark(name):
    """A script of benchmarks/, as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "benchmarks" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference():
    return _benchmark("reference")


def test_what_a_recipe_costs_is_what_its_phases_say():
    """An attack step of N steps is N f-units and N for the way back, an update N and 2 N; operations and bytes of an
    image do not depend on the batch."""
    scaling, chosen = _benchmark("scaling"), recipe("cifar10-small")
    works, parameters = scaling.counted(chosen, 10)
    model, x, y = rd.create_model(chosen.model, **chosen.model_options), torch.zeros(1, 3, 32, 32), torch.tensor([0])
    steps = [(phase.attack_steps, phase.solver_steps or model.steps) for phase in chosen.training.phases]
    assert [work.units for work in works] == [(0, 2 * n * attacks + 3 * n) for attacks, n in steps]
    assert parameters == sum(weight.numel() for weight in model.parameters())
    f = 1e9 * counted(model, made("one f", "eager", model, x, y))[2]
    each = [work.operations[1] / work.units[1] / f for work in works]
    assert all(0.8 < one < 1.2 for one in each), each
    assert works[0].bytes[1] < works[1].bytes[1] < works[2].bytes[1]


@pytest.mark.parametrize("solver", ["broyden", {"name": "picard", "damping": 0.5}])
def test_the_plain_program_gives_the_same_numbers(reference, solver):
    model = rd.create_model("mdeq-nano", solver=solver, steps=5, seed=0).double().eval()
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.tensor([1, 2, 3, 4])
    same = lambda a, b: torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)  # noqa: E731
    with torch.no_grad():
        same(reference.forward(model, x), model(x))
        defended = rd.EntropyReduction(updates=3)(model)
    same(reference.entropy_reduction(model, x, updates=3), defended(x).detach())
    model.train()
    same(reference.phantom(model, x), model(x, gradient="phantom"))
    at = x.clone().requires_grad_()
    slopes = [torch.autograd.grad(logits.logsumexp(1).sum(), at)[0] for logits in
              (reference.phantom(model, at), model(at, gradient="phantom"))]  # fmt: skip
    same(*slopes)
    climb = lambda logits: torch.nn.functional.cross_entropy(logits, y)  # noqa: E731
    through = lambda at: model(at, gradient="phantom")  # noqa: E731
    same(*(reference.pgd(each, climb, x, x, 3) for each in (lambda at: reference.phantom(model, at), through)))


def test_seconds_in_f_are_those_of_the_same_case():
    """Works of one N are timed in turn; beside another N, timed at another moment, one f was not 1.00 of itself."""
    rows = [Row("one f", "eager", "mdeq-nano", n, 2, second, second, second, 1.0, 0.0, 1.0, 1.0, {})
            for n, second in ((2, 0.1), (4, 0.4))]  # fmt: skip
    cells = [line.split(" | ")[4] for line in table(record(rows, {"a": 1.0})).splitlines()[2:4]]
    assert cells == ["1.00", "1.00"]


def test_processes_that_do_the_same_at_the_same_time_are_one_row(tmp_path):
    words = ["--model", "mdeq-nano", "--batch", "2", "--steps", "2", "--repeats", "2", "--work", "one f"]
    assert main(["bench", *words, "--processes", "1", "--processes", "2", "--out", str(tmp_path / "a.json")]) == 0
    one, two = (Row(**row) for row in json.loads((tmp_path / "a.json").read_text())["rows"])
    assert (one.processes, two.processes) == (1, 2) and two.low <= two.seconds <= two.high
    assert two.images_per_second == pytest.approx(2 * 2 / two.seconds) and two.units == one.units == 1


def test_every_change_gives_the_numbers_of_the_work_without_it_and_does_no_more(monkeypatch):
    """Law 11, of all that ``benchmarks/gains.py`` measures; a sample that is dropped has another image, though."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    gains = _benchmark("gains")
    model = rd.create_model("mdeq-nano", seed=0).double().eval()
    test = rd.data.load("digits").test.take(slice(8))
    changes = gains.changes(model, test.images().double(), test.labels)
    assert len(changes) == 9
    for change in changes:
        before, after = change.without(), change.given()
        if change.work != "PGD-20":
            torch.testing.assert_close(after, before, atol=1e-9, rtol=1e-9, msg=change.name)
        spent, spends = gains.counted(change.without), gains.counted(change.given)
        assert spends[0] <= spent[0] or spends[1] <= spent[1], change.name
