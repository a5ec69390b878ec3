"""A GPU finds what a CPU finds: pytest -m gpu. (ROBUSTDEQ_TEST_DEVICE=cpu rehearses the tests without one.)"""

import os
from contextlib import contextmanager

import pytest
import torch

import robustdeq as rd
from robustdeq.attacks import PGD, AutoAttack, EndToEnd, Frozen, ThroughGradient
from robustdeq.dynamics import SOLVERS
from robustdeq.gradients import GRADIENTS
from robustdeq.training import Phase, TrainConfig, Trainer
from robustdeq.training.step import TrainStep

DEVICE = torch.device(os.environ.get("ROBUSTDEQ_TEST_DEVICE", "cuda"))
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="no CUDA device"),
]
THREAT = rd.Linf(8 / 255)


@pytest.fixture(autouse=True)
def exact_products():
    """No TF32: float32 means float32 here."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _pair(name="mdeq-small", **options):
    """The same model on the CPU and on the device, in eval mode."""
    models = [rd.create_model(name, seed=0, **options).eval() for _ in range(2)]
    return models[0], models[1].to(DEVICE)


def _images(count=8):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _close(a, b, tolerance=1e-3):
    torch.testing.assert_close(a.float().cpu(), b.float().cpu(), atol=tolerance, rtol=tolerance)


@contextmanager
def _no_synchronisation():
    """Anything that waits for the device raises."""
    if DEVICE.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("solver", SOLVERS)
def test_trajectory_and_logits_agree(solver):
    cpu, gpu = _pair(solver=solver)
    x = _images()
    one, two = cpu.trajectory(x), gpu.trajectory(x.to(DEVICE))
    for t in range(1, cpu.steps + 1):
        _close(one.logits(t), two.logits(t))
    _close(one.residuals, two.residuals)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradients_for_the_images_agree(gradient):
    cpu, gpu = _pair(gradient=gradient)
    slopes = []
    for model, device in ((cpu, "cpu"), (gpu, DEVICE)):
        x = _images().to(device).requires_grad_()
        slopes.append(torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), model(x).argmax(1)), x)[0])
    cosine = torch.nn.functional.cosine_similarity(*(slope.cpu().flatten(1) for slope in slopes))
    assert cosine.min() > 0.999


def test_entropy_reduction_agrees():
    """Signs of almost-zero slopes may differ, so the inputs agree but for few pixels."""
    cpu, gpu = (rd.EntropyReduction(updates=2)(model) for model in _pair())
    x = _images()
    one, two = cpu.trajectory(x), gpu.trajectory(x.to(DEVICE))
    same = ((one.inputs[-1] - two.inputs[-1].cpu()).abs() < 1e-4).float().mean()
    assert same > 0.99
    _close(one.logits(cpu.model.steps), two.logits(cpu.model.steps), 0.05)


def test_bfloat16_agrees_within_what_it_allows():
    cpu, gpu = _pair()
    x = _images()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        half = gpu(x.to(DEVICE)).float().cpu()
    full = cpu(x)
    assert (half - full).abs().max() < 0.1 * full.abs().max()


def test_a_fixed_step_solve_does_not_wait_for_the_device():
    _, gpu = _pair()
    x = _images().to(DEVICE)
    gpu(x)  # the first call may set up libraries
    with _no_synchronisation():
        gpu(x)
        x.requires_grad_()
        torch.autograd.grad(gpu(x).sum(), x)


def test_attacks_stay_in_the_ball_and_on_the_device():
    _, gpu = _pair(steps=4)
    defended = rd.EntropyReduction(updates=1)(gpu)
    x = _images(4).to(DEVICE)
    y = gpu(x).argmax(1)
    attack = PGD(THREAT, 2 / 255, 3)
    views = [gpu, ThroughGradient(gpu, "phantom"), Frozen(defended), EndToEnd(defended)]
    made = [attack(view, x, y) for view in views]
    made.append(AutoAttack(THREAT, attacks=["apgd-ce"], iterations=3)(gpu, x, y))
    for x_adv in made:
        assert x_adv.device.type == DEVICE.type and THREAT.contains(x, x_adv).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_trains_and_resumes(tmp_path, precision):
    data = rd.data.digits()
    config = TrainConfig(
        phases=(Phase(epochs=2, attack_steps=2, step_size=0.05),), eps=0.15, batch_size=64, learning_rate=5e-3,
        states="random", ema=0.9, precision=precision, validation_points=20, validation_steps=2,
    )  # fmt: skip
    train, held = data.train.take(slice(256)).to(DEVICE), data.validation.to(DEVICE)
    for _ in range(2):
        model = rd.create_model("mdeq-nano", seed=0).to(DEVICE)
        trainer = Trainer(model, train, config, tmp_path, held)
        trainer.run()
    assert trainer.history[-1]["loss"] < trainer.history[0]["loss"]


PERTURBED = {"awp": 0.01}


@pytest.mark.skipif(DEVICE.type != "cuda", reason="CUDA graphs")
@pytest.mark.parametrize("options", [{}, {"objective": "trades"}, {"states": "random"}, PERTURBED], ids=str)
def test_recorded_updates_are_the_eager_ones(options):
    """Weights that are perturbed ask for fewer gradients at first, which rounds otherwise; what that grows to after a
    few signs says nothing."""
    updates, tolerance = (1, 1e-5) if options is PERTURBED else (8, 1e-4)
    data = rd.data.digits().train.take(slice(64)).to(DEVICE)
    phases = Phase(epochs=1, attack_steps=1, step_size=0.1, solver_steps=2), Phase(epochs=1, attack_steps=2)
    config = TrainConfig(phases=phases, eps=0.15, batch_size=16, learning_rate=0.1, optimizer="sgd", **options)
    models = [rd.create_model("mdeq-nano", seed=0).to(DEVICE) for _ in range(2)]
    for model, graphs in zip(models, (False, True)):
        step = TrainStep(model, config.optimizer(model.parameters(), lr=0.1, weight_decay=0), config, 8, graphs=graphs)
        for number in range(updates):
            rows = slice(16 * (number % 4), 16 * (number % 4 + 1))
            step(data.images(rows), data.labels[rows], number, number // 4)
    for one, other in zip(*(model.state_dict().values() for model in models)):
        _close(one, other, tolerance)
    assert models[0].tally.evaluations == models[1].tally.evaluations
    assert models[0].tally.backward == models[1].tally.backward


def test_an_evaluation_on_the_device():
    _, gpu = _pair(steps=4)
    x = _images(6).to(DEVICE)
    found = rd.evaluate(gpu, x, gpu(x).argmax(1), suite="quick", batch_size=4)
    assert found.shares()["clean"].count == 6
