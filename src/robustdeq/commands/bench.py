"""The verb bench."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
from tyro.conf import arg

from ..bench import VARIANTS, WORKS, Row, bench, rates, record, table, together
from ..checks import Count, Seed
from ..distributed import available
from ..files import read_json, write_json
from ..models import ARCHITECTURES, create_model
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

    work: Annotated[tuple[str, ...], arg(help=f"{' | '.join(WORKS)}; default: all.")] = ()
    variant: Annotated[tuple[str, ...], arg(help="; ".join([*map(": ".join, VARIANTS.items()), "default: eager"]))] = ()
    model: tuple[str, ...] = ()
    """Default: mdeq-small."""
    batch: tuple[Count, ...] = ()
    """Default: 16."""
    steps: tuple[Count, ...] = ()
    """N; default: each model's own."""
    growth: bool = False
    """Beside that, the works over batch 1 to 128, N 2 to 32 and the models nano to large, one of them at a time."""
    processes: tuple[Count, ...] = ()
    """How many do the same at the same time, with their share of the threads; images/s are those of all. Default: 1."""
    repeats: Count = 5
    out: Path | None = None
    """A JSON file for all that was found."""
    json: bool = False
    """Print what --out would hold, and no tables."""
    compare: Path | None = None
    """Such a file of an earlier run: how many times as fast each work is now."""
    seed: Seed = 0

    def run(self) -> None:
        if self.json:
            self.check_idle("--json", "without it", "compare")
        works, variants, models = self.work or tuple(WORKS), self.variant or ("eager",), self.model or ("mdeq-small",)
        for work in works:
            choose("work", work, WORKS)
        parts = [part for variant in variants for part in variant.split("+")]
        for part in parts:
            choose("variant", part, VARIANTS)
        device = available(self.device)
        if "graph" in parts and device.type != "cuda":
            raise ValueError(f"--variant graph on {device}; allowed: --device cuda, or another variant.")
        deqs = {name: None for name in ARCHITECTURES if name.startswith(("mdeq", "mondeq"))}
        for model in models:
            choose("DEQ", model, deqs)
        wanted = "allowed: the --out of an earlier robustdeq bench of this version"
        old = None if self.compare is None else read_json(self.compare, wanted)
        try:
            _ = [Row(**row) for row in ([] if old is None else old["rows"])]
        except (TypeError, KeyError) as error:
            raise ValueError(f"{self.compare} holds no rows; {wanted}.") from error
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
        cases = list(product(models, self.batch or (16,), self.steps or (None,)))
        if self.growth:
            base = dict(zip(("model", "batch", "steps"), cases[0]))
            grown = [{**base, name: value} for name, values in GROWTH.items() for value in values]
            cases += [tuple(one.values()) for one in grown]
        rows, threads = list[Row](), torch.get_num_threads()
        # A case names its N where that is the model's own, so that none is timed twice.
        named = [(model, batch, steps or getattr(create_model(model), "steps", None)) for model, batch, steps in cases]
        cases = [(*case, processes) for case in dict.fromkeys(named) for processes in self.processes or (1,)]
        with bar("bench") as progress:
            for number, (model, batch, steps, processes) in enumerate(cases):
                if progress is not None:
                    progress(number, len(cases), f"{model}, batch {batch}")
                options: dict[str, Any] = dict(
                    model=model, batch=batch, steps=steps, device=self.device, repeats=self.repeats, seed=self.seed
                )
                if processes == 1:
                    rows += bench(works, variants, **options)
                else:
                    rows += together(processes, max(1, threads // processes), works, variants, **options)
        measured = record(rows, rates(torch.device(self.device)))
        if self.out is not None:
            write_json(self.out, measured)
        print(json.dumps(measured, indent=1) if self.json else table(measured, old))
