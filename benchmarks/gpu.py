"""Everything that is worth a GPU's minutes, in one go: python benchmarks/gpu.py --minutes 9 --data DIR --out DIR

In this order, each part a process of its own whose result is written as soon as it is there, and left out where it
stands in --out or in --done (what earlier times gave): the tests of a GPU; `robustdeq bench`; training of mdeq-large,
random states first and the baseline second, the recipe cifar10-large-fast scaled to the minutes that are left;
evaluation of what is trained, bare and defended. A training that is cut off leaves its checkpoint in --out, in
bfloat16 and in files of at most 15 MiB, from which the next time goes on. --tiny rehearses all of it on a CPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from robustdeq.files import read_tensors, write_json
from robustdeq.recipes import recipe
from robustdeq.training import CHECKPOINT, Phase

PIECE = 15 * 2**20
ROWS = {"random-states": "random", "baseline": "final"}
UPDATES = "updates.json"
EVALUATION_SECONDS = 150
"""Kept for the evaluation of a model that is trained."""


class Session:
    """The minutes that are left, and what is done in them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out, self.done = options, options.out, options.done
        self.ends = time.monotonic() + 60 * options.minutes
        self.device = "cpu" if options.tiny else "cuda"
        self.out.mkdir(parents=True, exist_ok=True)
        self.work = options.work

    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    def stands(self, name: str) -> bool:
        return any(folder is not None and (folder / name).exists() for folder in (self.out, self.done))

    def run(self, words: Sequence[str], seconds: float) -> dict[str, Any]:
        """A command; killed after so many seconds. Its exit code (None: killed), seconds, and the end of its output."""
        began = time.monotonic()
        print("+", " ".join(words), flush=True)
        try:
            ended = subprocess.run(words, capture_output=True, text=True, timeout=max(seconds, 1))
            code, text = ended.returncode, ended.stdout + ended.stderr
        except subprocess.TimeoutExpired as cut:
            code, text = None, "".join(part.decode() for part in (cut.stdout, cut.stderr) if part)
        print(text[-2000:], flush=True)
        return {"command": words, "code": code, "seconds": time.monotonic() - began, "output": text[-4000:]}

    def verb(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "robustdeq", *words, "--device", self.device, "--offline"]


def tests(session: Session) -> None:
    """That it runs."""
    if not session.stands("tests.json"):
        words = [sys.executable, "-m", "pytest", "-m", "gpu", "-n", "0", "-q", "tests/test_gpu.py"]
        write_json(session.out / "tests.json", session.run(words, min(90, session.left())))


def speed(session: Session) -> None:
    """How fast: each file a command of its own, so that one that takes too long costs no other."""
    plain = ["eager", "channels-last", "bfloat16", "bfloat16+channels-last"]
    calls = ["one f", "solve", "forward", "attack step, unrolled", "entropy reduction"]
    updates = ["update, PGD-AT-10", "update, PGD-AT-10, random states"]
    cases = {
        "bench.json": (plain, calls, "128", 80),
        UPDATES: (["eager", "bfloat16", "bfloat16+channels-last"], updates, "128", 60),
        "bench-512.json": (["bfloat16"], [*calls[:3], updates[0]], "512", 40),
        "graphs.json": (["graph", "bfloat16+graph"], calls[:2], "128", 40),
    }
    model = "mdeq-large"
    if session.options.tiny:  # an update's time says how long a training may be
        cases = {name: (plain[:1], cases[name][1], "4", 60) for name in ("bench.json", UPDATES)}
        model = "mdeq-nano"
    for name, (variants, works, batch, seconds) in cases.items():
        if not session.stands(name):
            asked = [part for flag, values in {"--work": works, "--variant": variants}.items()
                     for value in values for part in (flag, value)]  # fmt: skip
            asked += ["--model", model, "--batch", batch, "--repeats", "2", "--out", str(session.out / name)]
            session.run(session.verb("bench", *asked), min(seconds, session.left()))


def phases(session: Session, seconds: float) -> list[Phase]:
    """Those of cifar10-large-fast, their epochs scaled to the seconds; at least one each."""
    full = recipe("cifar10-large-fast").training.phases
    file = next(f for f in (session.out / UPDATES, (session.done or session.out) / UPDATES) if f.exists())
    rows = [row for row in json.loads(file.read_text())["rows"] if row["work"] == "update, PGD-AT-10"]
    per_unit = min(row["seconds"] / row["images"] / row["units"] for row in rows)
    units = lambda p: 2 * p.attack_steps * (p.solver_steps or 8) + 3 * (p.solver_steps or 8)  # noqa: E731
    images = 1_200 if session.options.tiny else 45_000
    whole = sum(phase.epochs * units(phase) for phase in full) * images * per_unit
    share = min(1.0, seconds / whole)
    return [replace(phase, epochs=max(1, int(share * phase.epochs))) for phase in full]


def training(session: Session, row: str, states: str) -> Path | None:
    """The folder of the trained model; None where it is not finished."""
    folder, name = session.work / row, f"{row}.model.0.safetensors"
    if session.stands(name):
        return None
    plan = session.out / f"{row}.plan.json"
    before = (session.done or session.out) / plan.name
    if before.exists():
        words = json.loads(before.read_text())
        merged(before.parent, f"{row}.checkpoint", folder / CHECKPOINT)
        for file in before.parent.glob(f"{row}.run.*"):
            shutil.copy(file, folder / file.name.removeprefix(f"{row}.run."))
    else:
        names = ("epochs", "attack_steps", "step_size", "solver_steps")
        scaled = phases(session, session.left() - EVALUATION_SECONDS)
        chosen = [{name: getattr(phase, name) for name in names} for phase in scaled]
        words = ["cifar10-large-fast", "--set", f"phases={json.dumps(chosen)}", "validation_points=0"]
        if session.options.tiny:
            words.append("model=mdeq-nano")
    write_json(plan, words)
    fixed = ["--states", states, "--data", str(session.options.data), "--out", str(folder)]
    found = session.run(session.verb("train", words[0], *fixed, *words[1:]), session.left() - 20)
    write_json(session.out / f"{row}.training.json", found)
    if found["code"] == 0:
        cut(folder / "model" / "model.safetensors", session.out, f"{row}.model", torch.float16)
        shutil.copy(folder / "model" / "config.json", session.out / f"{row}.model.json")
        return folder / "model"
    if (folder / CHECKPOINT).exists():
        cut(folder / CHECKPOINT, session.out, f"{row}.checkpoint", torch.bfloat16)
        for file in (folder / "config.json", folder / "log.jsonl"):
            shutil.copy(file, session.out / f"{row}.run.{file.name}")
    return None


def evaluation(session: Session, row: str, model: Path) -> None:
    """Bare under quick and the APGDs, then defended under the four threat settings, as far as the seconds go."""
    points, steps = ("20", "4") if session.options.tiny else ("1000", "20")
    common = ["--data", str(session.options.data), "--subset", points, "--batch-size", "500"]
    budget = ["--set", f"steps={steps}", f"iterations={'4' if session.options.tiny else '100'}"]
    cases = {"bare": ["--suite", "standard", *budget, 'attacks=["apgd-ce", "apgd-t"]']}
    cases["defended"] = ["--defend", "--suite", "adaptive", *budget, "restarts=1", "queries=500", "points=200"]
    for case, words in cases.items():
        out = session.work / f"{row}-{case}"
        found = session.run(session.verb("evaluate", str(model), *common, "--out", str(out), *words), session.left())
        write_json(session.out / f"{row}.{case}.json", found)


def cut(file: Path, out: Path, name: str, dtype: torch.dtype) -> None:
    """The tensors of a safetensors file in ``dtype``, in files of at most ``PIECE`` bytes: name.0.safetensors, ..."""
    for old in out.glob(f"{name}.*.safetensors"):
        old.unlink()
    pieces: list[dict[str, torch.Tensor]] = [{}]
    held = 0
    tensors, metadata = read_tensors(file, "allowed: a safetensors file")
    for key, tensor in tensors.items():
        small = tensor.to(dtype) if tensor.is_floating_point() else tensor
        size = small.numel() * small.element_size()
        if held + size > PIECE and pieces[-1]:
            pieces.append({})
            held = 0
        pieces[-1][key], held = small.contiguous(), held + size
    for number, piece in enumerate(pieces):
        save_file(piece, out / f"{name}.{number}.safetensors", metadata)


def merged(folder: Path, name: str, file: Path) -> None:
    """What ``cut`` wrote, in one file and in float32 again."""
    tensors: dict[str, torch.Tensor] = {}
    metadata: dict[str, str] = {}
    for piece in sorted(folder.glob(f"{name}.*.safetensors")):
        held, metadata = read_tensors(piece, "allowed: a safetensors file")
        tensors |= held
    if tensors:
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = {key: t.float() if t.dtype is torch.bfloat16 else t for key, t in tensors.items()}
        save_file(whole, file, metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--data", help="CIFAR-10 as parquet; --tiny takes digits")
    parser.add_argument("--out", type=Path, required=True, help="for results")
    parser.add_argument("--done", type=Path, default=None, help="what an earlier time gave")
    parser.add_argument("--work", type=Path, default=Path("runs/gpu"), help="for runs as they go")
    parser.add_argument("--speed-only", action="store_true", help="train nothing")
    parser.add_argument("--tiny", action="store_true", help="rehearse on a CPU; the numbers mean nothing")
    options = parser.parse_args()
    options.data = "digits" if options.tiny else options.data
    session = Session(options)
    tests(session)
    speed(session)
    for row, states in ROWS.items() if not options.speed_only else ():
        if session.left() > EVALUATION_SECONDS or session.options.tiny:
            model = training(session, row, states)
            if model is not None:
                evaluation(session, row, model)


if __name__ == "__main__":
    main()
