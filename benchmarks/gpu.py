"""Everything that is worth a GPU's minutes, in one go: python benchmarks/gpu.py --minutes 9 --data DIR --out DIR

In this order, each result written as soon as it is there, and left out where it stands in --out or in --done (what
earlier times gave): the tests of a GPU, while the images are read; `robustdeq bench`; training of mdeq-large by the
recipe cifar10-large-fast scaled to the minutes that are left, its updates recorded as CUDA graphs if the tests passed,
and its evaluation; the same with random states. A training that is cut off leaves its checkpoint in --out, in bfloat16
and in files of at most 15 MiB, from which the next time goes on. --parts chooses; --tiny rehearses all on a CPU.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from robustdeq import create_model, evaluate
from robustdeq.distributed import Distributed
from robustdeq.files import read_tensors, write_json, write_tensors
from robustdeq.models.zoo import load_model
from robustdeq.recipe import Recipe, train
from robustdeq.recipes import recipe
from robustdeq.training import CHECKPOINT, Phase
from robustdeq.training.step import TrainStep

PIECE = 15 * 2**20
ROWS = {"baseline": "final", "random-states": "random"}
PARTS = ("tests", "speed", "training")
EPOCH = 45_000
MARGIN = 1.25
"""Seconds of an epoch over those of its updates alone: images are drawn and shifted, weights averaged and kept."""
EVALUATION_SECONDS, LAST_SECONDS = 150, 20
"""Kept for the evaluation of a model that is trained; for writing what is not finished."""


class Session:
    """The minutes that are left, and what is done in them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out, self.done = options, options.out, options.done
        self.ends = time.monotonic() + 60 * options.minutes
        self.device = "cpu" if options.tiny else "cuda"
        self.out.mkdir(parents=True, exist_ok=True)
        self.work, self.graphs = options.work, self.device == "cuda"

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


def tests(session: Session) -> subprocess.Popen[str]:
    """That it runs, beside the reading of the images. Updates are recorded as graphs only where their test passes."""
    words = [sys.executable, "-m", "pytest", "-m", "gpu", "-n", "0", "-q", "tests/test_gpu.py"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def speed(session: Session) -> None:
    """How fast: each file a command of its own, so that one that takes too long costs no other."""
    plain = ["eager", "channels-last", "bfloat16", "bfloat16+channels-last"]
    calls = ["one f", "solve", "forward", "attack step, unrolled", "entropy reduction"]
    updates = ["update, PGD-AT-10", "update, PGD-AT-10, random states"]
    cases = {
        "bench.json": (plain, calls, "128", 80),
        "updates.json": (["eager", "bfloat16", "bfloat16+channels-last"], updates, "128", 60),
        "bench-512.json": (["bfloat16"], [*calls[:3], updates[0]], "512", 40),
        "graphs.json": (["graph", "bfloat16+graph"], calls[:2], "128", 40),
    }
    model = "mdeq-large"
    if session.options.tiny:
        cases = {name: (plain[:1], cases[name][1], "4", 60) for name in ("bench.json", "updates.json")}
        model = "mdeq-nano"
    for name, (variants, works, batch, seconds) in cases.items():
        if not session.stands(name):
            asked = [part for flag, values in {"--work": works, "--variant": variants}.items()
                     for value in values for part in (flag, value)]  # fmt: skip
            asked += ["--model", model, "--batch", batch, "--repeats", "2", "--out", str(session.out / name)]
            session.run(session.verb("bench", *asked), min(seconds, session.left()))


def paced(full: Recipe, device: torch.device, graphs: bool) -> list[float]:
    """Seconds an image of an update of every phase, whose first ones record what graphs there are."""
    config, spent = full.training, []
    model: Any = create_model(full.model, seed=0, **full.model_options).to(device)
    x = torch.rand(config.batch_size, *model.image_shape, device=device)
    y = torch.arange(config.batch_size, device=device) % 10
    for phase in config.phases:
        optimizer = config.optimizer(model.parameters(), lr=1e-9, weight_decay=0.0)
        step = TrainStep(model, optimizer, replace(config, phases=(phase,)), 10**9, graphs=graphs)
        for number in range(6):
            if number == 2:
                began = time.perf_counter()
            step(x, y, number, 0)  # reads its loss, so it waits for the device
        spent.append((time.perf_counter() - began) / 4 / config.batch_size)
    return spent


def scaled(full: Recipe, session: Session) -> tuple[Phase, ...]:
    """The recipe's phases, their epochs scaled to the seconds that are left; at least one each."""
    device, phases = torch.device(session.device), full.training.phases
    found = {"graphs" if graphs else "eager": paced(full, device, graphs) for graphs in {False, session.graphs}}
    spent = found["graphs" if session.graphs else "eager"]
    seconds = (session.left() - EVALUATION_SECONDS) / MARGIN / EPOCH
    whole = sum(phase.epochs * each for phase, each in zip(phases, spent))
    epochs = [max(1, round(phase.epochs * seconds / whole)) for phase in phases]
    while sum(count * each for count, each in zip(epochs, spent)) > seconds and max(epochs) > 1:
        epochs[epochs.index(max(epochs))] -= 1
    says = {"batch": full.training.batch_size, "seconds an image": found, "epochs": epochs, "left": session.left()}
    write_json(session.out / "pace.json", says)
    print(says, flush=True)
    return tuple(replace(phase, epochs=count) for phase, count in zip(phases, epochs))


def training(session: Session, row: str, states: str, data: Any) -> Path | None:
    """The folder of the trained model; None where it stands already, or is not finished."""
    folder, name = session.work / row, f"{row}.model.0.safetensors"
    if session.stands(name):
        return None
    full = replace(recipe("cifar10-large-fast"), data=str(session.options.data))
    full = full.changed({"states": states, "validation_points": 0, "checkpoint_seconds": 1e9})
    if session.options.tiny:
        full = full.changed({"model": "mdeq-nano"})
    before = (session.done or session.out) / f"{row}.run.config.json"
    if before.exists():
        full = recipe(str(before))
        merged(before.parent, f"{row}.checkpoint", folder / CHECKPOINT)
        for file in before.parent.glob(f"{row}.run.*"):
            shutil.copy(file, folder / file.name.removeprefix(f"{row}.run."))
    else:
        full = full.changed({"phases": scaled(full, session)})
    here = Distributed(device=torch.device(session.device))

    def progress(done: int, total: int, text: str) -> None:
        if done % 200 == 0:
            print(f"{row}: {done} of {total}, {session.left():.0f} s left; {text}", flush=True)
        if session.left() < LAST_SECONDS:
            signal.raise_signal(signal.SIGINT)  # the run saves after this update

    try:
        train(full, folder, folder / "model", data=data, distributed=here, progress=progress, graphs=session.graphs)
    except KeyboardInterrupt:
        cut(folder / CHECKPOINT, session.out, f"{row}.checkpoint", torch.bfloat16)
        for file in (folder / "config.json", folder / "log.jsonl"):
            shutil.copy(file, session.out / f"{row}.run.{file.name}")
        return None
    cut(folder / "model" / "model.safetensors", session.out, f"{row}.model", torch.float16)
    shutil.copy(folder / "model" / "config.json", session.out / f"{row}.model.json")
    (session.out / row).mkdir(exist_ok=True)  # what scaling.py --history reads
    for file in (folder / "config.json", folder / "log.jsonl"):
        shutil.copy(file, session.out / row / file.name)
    return folder / "model"


def evaluation(session: Session, row: str, folder: Path, data: Any) -> None:
    """Bare, under quick and AutoAttack's APGDs."""
    tiny, out = session.options.tiny, session.out / row / "bare"
    model: Any = load_model(folder).to(session.device)
    test = data.test.take(slice(20 if tiny else 1000)).to(session.device)
    options = {"iterations": 4 if tiny else 100, "steps": 4 if tiny else 20}
    found = evaluate(
        model, test, suite="standard", attacks=["apgd-ce", "apgd-t"], batch_size=500, checks=0, out=out,
        samples=f"the first {len(test)} test images", **options,
    )  # fmt: skip
    print(found.table(), flush=True)


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
        write_tensors(out / f"{name}.{number}.safetensors", piece, **metadata)


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
        write_tensors(file, whole, **metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--data", help="CIFAR-10 as parquet; --tiny takes digits")
    parser.add_argument("--out", type=Path, required=True, help="for results")
    parser.add_argument("--done", type=Path, default=None, help="what an earlier time gave")
    parser.add_argument("--work", type=Path, default=Path("runs/gpu"), help="for runs as they go")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--tiny", action="store_true", help="rehearse on a CPU; the numbers mean nothing")
    options = parser.parse_args()
    options.data = "digits" if options.tiny else options.data
    session = Session(options)
    tested = tests(session) if "tests" in options.parts else None
    data = replace(recipe("cifar10-large-fast"), data=options.data).load() if "training" in options.parts else None
    if tested is not None:
        text = tested.communicate(timeout=120)[0]
        print(text[-3000:], flush=True)
        write_json(session.out / "tests.json", {"code": tested.returncode, "output": text[-4000:]})
        session.graphs = session.graphs and tested.returncode == 0
    if "speed" in options.parts:
        speed(session)
    if data is None:
        return
    for row, states in ROWS.items():
        if session.left() > 2 * EVALUATION_SECONDS or options.tiny:
            folder = training(session, row, states, data)
            if folder is not None:
                evaluation(session, row, folder, data)


if __name__ == "__main__":
    main()
