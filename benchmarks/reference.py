"""The plain program that ours is measured against: python benchmarks/reference.py [--model mdeq-large --batch 16]

It does what the papers describe, step by step and with nothing reused: the weights are normalised at every evaluation
of f, an update of the input evaluates all of f, TRADES asks for the natural logits at every step of its attack. It is
built from the same layers, so it gives the same numbers (tests/test_bench.py). The table is how many times as fast the
package is, timed in turn with it in one process; with torchdeq installed, also beside its solver.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import robustdeq as rd
from robustdeq.attacks import PGD, Linf, ThroughGradient
from robustdeq.bench import Call, timed
from robustdeq.environment import keep_freed_memory
from robustdeq.training import Phase, TrainConfig
from robustdeq.training.step import TrainStep

EPS, STEP = 8 / 255, 2 / 255


Step = Callable[[Tensor, Tensor], Tensor]
"""(z^[t], f(z^[t])) -> z^[t+1]"""


def broyden() -> Step:
    """Broyden's good method in inverse form, B = -I + sum_i u_i v_i^T (MDEQ)."""
    us: list[Tensor] = []
    vs: list[Tensor] = []
    before: list[Tensor] = []

    def apply(left: list[Tensor], right: list[Tensor], w: Tensor) -> Tensor:
        out = -w
        for a, b in zip(left, right):
            out = out + a * (b * w).sum(1, keepdim=True)
        return out

    def step(z: Tensor, fz: Tensor) -> Tensor:
        g = fz - z
        if before:
            s, dg = z - before[0], g - before[1]
            v = apply(vs, us, s)
            us.append((s - apply(us, vs, dg)) / (v * dg).sum(1, keepdim=True))
            vs.append(v)
        before[:] = z, g
        return z - apply(us, vs, g)

    return step


def picard(damping: float) -> Step:
    return lambda z, fz: (1 - damping) * z + damping * fz


def stepper(model: Any) -> Step:
    """Of the model's own kind of solver."""
    return picard(model.solver.damping) if model.solver.name == "picard" else broyden()


def solved(model: Any, u: Any, x: Tensor) -> Tensor:
    """z^[N] of images x, injected as u."""
    z, step = zeros(model, x), stepper(model)
    for _ in range(model.steps):
        z = step(z, model.cell(z, u))
    return z


def zeros(model: Any, x: Tensor) -> Tensor:
    return torch.zeros(len(x), model.layout.size, dtype=x.dtype, device=x.device)


def forward(model: Any, x: Tensor) -> Tensor:
    """Logits of the deployed model."""
    return model.readout(solved(model, model.inject(x), x))


def phantom(model: Any, x: Tensor, unroll: int = 5, damping: float = 0.5) -> Tensor:
    """Logits with the papers' training gradient."""
    u = model.inject(x)
    with torch.no_grad():
        z = solved(model, u, x)
    h = model.cell(z, u)
    for _ in range(unroll):
        h = (1 - damping) * h + damping * model.cell(h, u)
    return model.readout(h)


def pgd(logits: Callable[[Tensor], Tensor], loss: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, steps: int):
    """The last image."""
    at = start
    for _ in range(steps):
        at = at.detach().requires_grad_()
        slope = torch.autograd.grad(loss(logits(at)), at)[0]
        at = torch.clamp(x + torch.clamp(at.detach() + STEP * slope.sign() - x, -EPS, EPS), 0, 1)
    return at.detach()


def entropy_reduction(model: Any, x: Tensor, updates: int = 10, every: int = 2) -> Tensor:
    """Logits behind the defence (P23 sec. 3.2), all of f in every update."""
    seen, z, step = x, zeros(model, x), stepper(model)
    for t in range(1, model.steps + 1):
        with torch.no_grad():
            z = step(z, model.cell(z, model.inject(seen)))
        for _ in range(updates if t % every == 0 and t < model.steps else 0):
            at = seen.detach().requires_grad_()
            log_p = model.readout(model.cell(z, model.inject(at))).log_softmax(1)
            slope = torch.autograd.grad(-(log_p.exp() * log_p).sum(), at)[0]
            moved = at.detach() - STEP * slope.sign()
            seen = torch.minimum(torch.maximum(moved, x - EPS), x + EPS).clamp(0, 1)
    return model.readout(z).detach()


def update(model: Any, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, start: Tensor, trades: bool) -> float:
    """One step of PGD-AT-10 or TRADES-10 with the phantom gradient; its loss."""
    model.eval()

    def kl(logits: Tensor) -> Tensor:
        with torch.no_grad():
            natural = phantom(model, x).softmax(1)
        return F.kl_div(logits.log_softmax(1), natural, reduction="sum")

    ce = lambda logits: F.cross_entropy(logits, y, reduction="sum")  # noqa: E731
    x_adv = pgd(lambda at: phantom(model, at), kl if trades else ce, x, start, 10)
    model.train()
    optimizer.zero_grad()
    if trades:
        clean, attacked = phantom(model, x), phantom(model, x_adv)
        loss = F.cross_entropy(clean, y)
        loss = loss + 6 * F.kl_div(attacked.log_softmax(1), clean.softmax(1), reduction="batchmean")
    else:
        loss = F.cross_entropy(phantom(model, x_adv), y)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def training(model: Any, objective: str, count: int, **attack: Any) -> TrainStep:
    """Ours, of the same work but with the exact gradient. attack: options that make it cheaper."""
    phases = [Phase(epochs=1, attack_steps=10, step_size=STEP, attack={"name": "pgd", **attack})]
    config = TrainConfig(phases=phases, objective=objective, batch_size=count, learning_rate=1e-9)
    return TrainStep(model, torch.optim.SGD(model.parameters(), lr=1e-9), config, total=10**9)


def cases(model: Any, x: Tensor, y: Tensor) -> dict[str, tuple[Call, Call]]:
    """Of each work the plain program and ours."""
    defended = rd.EntropyReduction()(model)
    exact, warm = (PGD(Linf(EPS), STEP, 10, keep="highest", warm=steps) for steps in (None, 2))
    still = torch.no_grad()
    slow = torch.optim.SGD(model.parameters(), lr=1e-9)
    pairs: dict[str, tuple[Call, Call]] = {
        "forward": (still(lambda: forward(model, x)), still(lambda: model(x))),
        "inference with entropy reduction": (lambda: entropy_reduction(model, x), still(lambda: defended(x))),
        "entropy reduction here, over plain inference here": (still(lambda: defended(x)), still(lambda: model(x))),
    }

    def attacked() -> Tensor:
        return pgd(lambda at: phantom(model, at), lambda out: F.cross_entropy(out, y), x, x, 10)

    pairs["PGD-10: phantom there, exact here"] = attacked, lambda: exact(ThroughGradient(model, "unrolled"), x, y)
    pairs["PGD-10, warm: phantom there, two steps from the last state here"] = attacked, lambda: warm(model, x, y)
    cheaper = {"": {}, ", its attack on two carried steps": {"solver_steps": 2, "carried": True}}
    for name, objective in {"PGD-AT-10": "pgd-at", "TRADES-10": "trades"}.items():
        for how, attack in cheaper.items():
            ours = training(model, objective, len(x), **attack)
            pairs[f"one {name} step{how}"] = (
                lambda trades=objective == "trades": update(model, slow, x, y, x, trades),
                lambda ours=ours: ours(x, y, 0, 0),
            )
    return pairs


def peer(model: Any, x: Tensor) -> dict[str, tuple[Call, Call]]:
    """torchdeq's Broyden solve and ours, of the same cell."""
    if importlib.util.find_spec("torchdeq") is None:
        return {}
    from torchdeq import get_deq  # pyright: ignore[reportMissingImports]

    theirs = get_deq(f_solver="broyden", f_max_iter=model.steps, f_tol=0.0, ift=False).eval()
    with torch.no_grad():
        f = model.map(x)
    solve = torch.no_grad()(lambda: rd.dynamics.drive(rd.dynamics.Broyden(), f, model.zeros(x), model.steps).z)
    return {"torchdeq's solve": (torch.no_grad()(lambda: theirs(f, zeros(model, x))), solve)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mdeq-large")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORDS", help="rows whose name begins so")
    options = parser.parse_args()
    keep_freed_memory()
    model: Any = rd.create_model(options.model, dropout=0.0, seed=0).eval()
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(options.batch, *model.image_shape, generator=draw)
    y = torch.randint(10, (options.batch,), generator=draw)
    print("| work | times as fast (quartiles) | seconds, plain program | seconds, here |\n|---|---|---|---|")
    for name, (plain, ours) in {**cases(model, x, y), **peer(model, x)}.items():
        if not name.startswith(tuple(options.only)):
            continue
        seconds = timed({"plain": plain, "ours": ours}, torch.device("cpu"), options.repeats)
        ratios = [a / b for a, b in zip(seconds["plain"], seconds["ours"])]
        low, _, high = quantiles(ratios, n=4, method="inclusive")
        plainly, here = median(seconds["plain"]), median(seconds["ours"])
        print(f"| {name} | {median(ratios):.2f} ({low:.2f}, {high:.2f}) | {plainly:.3f} | {here:.3f} |", flush=True)


if __name__ == "__main__":
    main()
