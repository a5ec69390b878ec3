"""The verb bench."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product, starmap
from pathlib import Path
from typing import Annotated, Any

import torch
from tyro.conf import arg

from ..bench import VARIANTS, WORKS, Row, bench, rates, record, table, together
from ..checks import Count, Seed
from ..files import read_json, write_json
from ..models import create_model
from ..options import choose
from ..progress import bar
from .shared import Command

GROWTH = {"batch": (1, 4, 16, 64, 128), "steps": (2, 4, 8, 16, 32), "model": ("mdeq-nano", "mdeq-small", "mdeq-large")}


@dataclass(kw_only=True)
class Bench(Command):
    """Time a model's works beside this machine's own limits; print seconds, f-units, images/s and GFLOP/s.

    For example:
      robustdeq bench --out bench.json
      robustdeq bench --work forward --work "attack step, unrolled" --batch 1 --batch 64 --model mdeq-large
      robustdeq bench --growth --out growth.json
      robustdeq bench --processes 1 --processes 2 --work "update, PGD-AT-10"
      robustdeq bench --out new.json --compare bench.json
      robustdeq bench --work forward --json
      robustdeq bench --device cuda --model mdeq-large --batch 128 --variant eager --variant bfloat16+channels-last

    Images are random and weights fresh. Works of one variant, model, batch and N are timed in turn, so that their
    ratios hold on a machine that is busy; seconds of different machines say nothing beside each other.
    """

    work: Annotated[tuple[str, ...], arg(help=" | ".join(WORKS))] = tuple(WORKS)
    variant: Annotated[tuple[str, ...], arg(help="; ".join(f"{name}: {what}" for name, what in VARIANTS.items()))] = (
        "eager",
    )
    model: tuple[str, ...] = ("mdeq-small",)
    batch: tuple[Count, ...] = (16,)
    steps: tuple[Count, ...] = ()
    """N; default each model's own."""
    growth: bool = False
    """Beside that, the works over batch 1 to 128, N 2 to 32 and the models nano to large, one of them at a time."""
    processes: tuple[Count, ...] = (1,)
    """How many do the same at the same time, with their share of the threads; images/s are those of all."""
    repeats: Count = 5
    out: Path | None = None
    """A JSON file for all that was found."""
    json: bool = False
    """Print what --out would hold, and no tables."""
    compare: Path | None = None
    """Such a file of an earlier run: how many times as fast each work is now."""
    seed: Seed = 0

    def run(self) -> None:
        for work in self.work:
            choose("work", work, WORKS)
        for part in (part for variant in self.variant for part in variant.split("+")):
            choose("variant", part, VARIANTS)
        wanted = "allowed: the --out of an earlier robustdeq bench"
        old = None if self.compare is None else read_json(self.compare, wanted)
        if old is not None and not (isinstance(old, dict) and {"rows", "rates"} <= set(old)):
            raise ValueError(f"{self.compare} holds no rows; {wanted}.")
        cases = list(product(self.model, self.batch, self.steps or (None,)))
        if self.growth:
            base = dict(zip(("model", "batch", "steps"), cases[0]))
            grown = [{**base, name: value} for name, values in GROWTH.items() for value in values]
            cases += [tuple(one.values()) for one in grown]
        rows, threads = list[Row](), torch.get_num_threads()
        once = dict.fromkeys(starmap(_named, cases))
        cases = [(*case, processes) for case in once for processes in self.processes]
        with bar("bench") as progress:
            for number, (model, batch, steps, processes) in enumerate(cases):
                if progress is not None:
                    progress(number, len(cases), f"{model}, batch {batch}")
                options: dict[str, Any] = dict(
                    model=model, batch=batch, steps=steps, device=self.device, repeats=self.repeats, seed=self.seed
                )
                if processes == 1:
                    rows += bench(self.work, self.variant, **options)
                else:
                    rows += together(processes, max(1, threads // processes), self.work, self.variant, **options)
        found = record(rows, rates(torch.device(self.device)))
        if self.out is not None:
            write_json(self.out, found)
        print(json.dumps(found, indent=1) if self.json else table(found, old))


def _named(model: str, batch: int, steps: int | None) -> tuple[str, int, int | None]:
    """A case that names its N where it is the model's own, so that none is timed twice."""
    return model, batch, steps or getattr(create_model(model), "steps", None)
