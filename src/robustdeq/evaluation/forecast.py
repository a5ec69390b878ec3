"""What an evaluation will cost at most, said before it begins.

How often an attack asks which module, for each image, it says itself (``attacks.Calls``). What a forward and a backward
pass through that module cost, in evaluations of f and in seconds, is measured on a few images. So the counts are
bounds, met where no image falls; the seconds are those of this machine, at this moment.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..attacks import Calls
from ..models.cell import Tally
from ..models.modes import images_only
from ..models.structure import structure
from ..progress import duration
from .entries import Entry
from .probes import foreseen
from .recordfile import Spent
from .run import Run, Transfer, connected, spending

SHOWN = 32
"""Images at most, on which the speed is measured."""
REPEATS = 2
"""The first time something is asked of a device takes longer."""


@dataclass(frozen=True)
class Most:
    """What work costs at most; seconds: about. asked: how many images are shown to a module. evaluations: of f, and
    backward passes through one. updates: of a defended input, one a sample."""

    seconds: float = 0.0
    asked: float = 0
    evaluations: float = 0
    backward: float = 0
    updates: float = 0

    def __add__(self, other: Most) -> Most:
        return Most(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other))))

    def __mul__(self, count: float) -> Most:
        return Most(*(count * mine for mine in astuple(self)))

    def __str__(self) -> str:
        amounts = {"evaluations of f": self.evaluations, "backward passes": self.backward}
        if not self.evaluations:  # a network without states
            amounts = {"images through the network": self.asked}
        amounts["input updates"] = self.updates
        counts = [f"{amount:,.0f} {name}" for name, amount in amounts.items() if amount]
        return f"at most {', '.join(counts)}; about {duration(self.seconds)}"


def announce(run: Run, entries: Sequence[Entry], checks: int, seed: int) -> None:
    """Tell who listens what this process has still to do, a line for each attack, and the sum. checks, seed: as
    ``probe`` takes them."""
    say: Callable[..., None] | None = getattr(run.progress, "say", None)
    if say is None:
        return
    prices = Prices(run.batch(slice(0, min(SHOWN, run.batch_size, len(run.points))))[0])
    if not (forecast := foreseen_costs(run, entries, checks, seed, prices)):
        return
    costs, width, count = [most for _, most in forecast], max(len(name) for name, _ in forecast), len(prices.x)
    lines = [f"{name:<{width}}  {most or 'not known beforehand'}" for name, most in forecast]
    rest = ", and what is not known" if None in costs else ""
    speed = f"a forward of {count:,} takes {duration(prices.forward(run.model.deployed).seconds * count)}"
    world_size = run.file.distributed.world_size
    share = f", the first of {world_size} equal shares" if world_size > 1 else ""
    first = f"{len(run.points):,} images{share}; what they cost if none falls, at the speed measured now: {speed}"
    say(first, *lines, f"{'in all':<{width}}  {sum(filter(None, costs), Most())}{rest}")


def foreseen_costs(
    run: Run, entries: Sequence[Entry], checks: int, seed: int, prices: Prices
) -> list[tuple[str, Most | None]]:
    """Of what the record does not hold yet, attack by attack; None where one does not tell."""
    classes, forecast = len(run.record.identity.logits), list[tuple[str, Most | None]]()
    new = [rows.stop - rows.start for rows in run.file.mine(len(run.points)) if rows.start not in run.record.clean]
    if new:
        forecast.append(("clean", prices.forward(run.model.deployed) * sum(new)))
    for entry, images in zip(entries, _to_attack(run, entries)):
        view, calls = run.views[entry.name], cast(Any, getattr(entry.attack, "calls", None))
        if images and calls is None:
            forecast.append((entry.name, None))
        elif images:  # what comes back is verified
            most = prices.of(view, calls(view, classes)) + prices.forward(run.model.deployed)
            forecast.append((entry.name, most * images))
    probes: dict[str, Most] = {}
    for name, images, view, calls in foreseen(run, checks, seed):
        probes[name] = probes.get(name, Most()) + prices.of(view, calls) * images
    return [*forecast, *probes.items()]


def _to_attack(run: Run, entries: Sequence[Entry]) -> list[int]:
    """How many images of this process each attack is given at most: as if nothing fell to one that is still to come."""
    counts, done = [], set()
    for entry in entries:
        count = 0
        for rows in run.file.mine(run.record.attacks[entry.name].points):
            if rows.start not in run.record.clean:
                count += rows.stop - rows.start
                continue
            # What attacks before this one leave is known only where they are not done again.
            settled = all((name, rows.start) in done for name in run.earlier(entry))
            todo = run.standing(entry, rows) if settled else run.correct(rows)
            batch = run.record.attacks[entry.name].batches.get(rows.start)
            transferred = batch.transferred if batch is not None and isinstance(entry.attack, Transfer) else None
            if settled and run.has(entry, rows, todo, transferred):
                done.add((entry.name, rows.start))
            else:
                count += int(todo.sum())
        counts.append(count)
    return counts


class Prices:
    """What calls cost for an image, measured on x (B, C, H, W), the same calls once."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.known: dict[Hashable, tuple[Most, Most]] = {}

    def forward(self, module: nn.Module) -> Most:
        """Of a forward without a gradient."""
        return self.of(module, [Calls(module, forwards=1)])

    def of(self, view: nn.Module, calls: Sequence[Calls]) -> Most:
        """view: what the attack that makes these calls looks through."""
        total = Most()
        tally = structure(getattr(view, "deployed", view), opaque=True).tally
        devices = [self.x.device] if self.x.is_cuda else []
        # A defence may draw random numbers; the attacks then draw theirs as if nothing had been measured.
        with images_only(view), connected(view), torch.random.fork_rng(devices=devices):
            for one in calls:
                if one.forwards:
                    total += self._measured(one.module, tally, graph=False)[0] * one.forwards
                if one.gradients:
                    forward, backward = self._measured(one.module, tally, graph=True)
                    total += forward * one.gradients + backward * (one.gradients + one.backward)
        return total

    def _measured(self, module: Callable[[Tensor], Tensor], tally: Tally, *, graph: bool) -> tuple[Most, Most]:
        """Of an image: a forward, which keeps a graph or does not, and a backward pass through that to the image."""
        if (key := (_key(module), graph)) not in self.known:
            for _ in range(REPEATS):
                at = self.x.clone().requires_grad_(graph)
                with spending(tally) as forward, torch.set_grad_enabled(graph):
                    logits = module(at)
                with spending(tally) as backward:
                    if logits.requires_grad:
                        torch.autograd.grad(logits.sum(), at, allow_unused=True)
                self.known[key] = self._each(forward, asked=1), self._each(backward, asked=0)
        return self.known[key]

    def _each(self, spent: Spent, asked: int) -> Most:
        """For each of the images on which it was spent."""
        return Most(asked=asked, **{name: amount / len(self.x) for name, amount in vars(spent).items()})


def _key(module: Any) -> Hashable:
    """The same for views that differ in nothing but their place in a suite."""
    owner, settings = getattr(module, "deployed", getattr(module, "model", None)), getattr(module, "settings", None)
    if isinstance(owner, nn.Module) and isinstance(settings, dict):
        return type(module), owner, json.dumps(settings, default=repr)
    return module
