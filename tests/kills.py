"""Every verb, killed with SIGKILL inside its writes and at random moments, ends with the bits of a run that was not.

Not run with the other tests: ``.venv/bin/python -m pytest -n 0 tests/kills.py -m slow``, ten minutes on two cores.
``KILLS_SEED=1`` draws other moments. What is drawn is printed; a moment given in calls is the same one every time.
"""

import os
import random
import signal
from collections import Counter
from dataclasses import replace

import pytest
import sklearn.datasets  # noqa: F401  # for the forks
import torch
import torch.utils.tensorboard
from killed.deaths import WRITES, Death
from killed.runs import Attempt, Verb, finish, no_orphans, same, whole, workers

import robustdeq as rd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

SEED = int(os.environ.get("KILLS_SEED", "0"))
STEPS = 'model_options={"steps": 2}'
TRAIN = (
    "train", "smoke", "--set", STEPS, 'phases=[{"epochs": 2, "attack_steps": 1, "step_size": 0.05}]', "eps=0.05",
    "validation=1180", "batch_size=16", "validation_points=12", "validation_steps=2", "checkpoint_seconds=0",
    "ema=0.9", "states=random", "accumulate=2",
)  # fmt: skip
REPRODUCE = (
    "reproduce", "smoke", "--jobs", "2", "--set", STEPS, 'phases=[{"epochs": 1, "attack_steps": 1, "step_size": 0.05}]',
    "eps=0.05", "validation=1180", "batch_size=16", "checkpoint_seconds=0", "test_points=2", "auto_points=2",
    'defence={"updates": 1, "every": 2, "eps": 0.05}',
)  # fmt: skip
FEW = ("--eps", "0.05", "--subset", "12", "--batch-size", "4")
CERTIFY = ("--subset", "12", "--batch-size", "4", "--n", "100", "--attacked", "4", "--steps", "2", "--draws", "2")
QUICK = (*FEW, "--checks", "4", "--images", "--set", "steps=3")

KILLS, IDENTICAL = Counter(), Counter()
"""By kind: processes that were killed, and killed runs that ended with the bits of one that was not."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def verbs(folder):
    """What is killed, by kind."""
    finish(Verb(TRAIN), folder / "trained")
    model, checkpoint = str(folder / "trained" / "model"), folder / "official.pth"
    large = rd.create_model(
        "mdeq-large", 7, seed=0, channels=(8, 16), head_channels=(2, 3), features=4, stem_stride=1, solver="broyden"
    )
    torch.save(rd.models.to_official(large), checkpoint)
    return {
        "train": Verb(TRAIN),
        "train, two ranks": Verb(TRAIN, ranks=2),
        "evaluate": Verb(("evaluate", model, *QUICK)),
        "evaluate, two ranks": Verb(("evaluate", model, *QUICK), ranks=2),
        "evaluate --states": Verb(("evaluate", model, "--states", *FEW, "--set", "steps=3")),
        "attack": Verb(("attack", model, *FEW, "--steps", "3")),
        "certify": Verb(("certify", model, *CERTIFY)),
        "certify, two ranks": Verb(("certify", model, *CERTIFY), ranks=2),
        "analyze": Verb(("analyze", model, *FEW, "--steps", "2", "--solver", "picard")),
        "convert": Verb(("convert", str(checkpoint))),
        "reproduce": Verb(REPRODUCE),
    }


@pytest.fixture(scope="module")
def wholes(verbs, folder):
    """The run that was never killed, of a kind, made when it is first asked for."""
    made = {}

    def of(kind):
        if kind not in made:
            made[kind] = whole(verbs[kind], folder / f"whole {kind}", count=kind != "reproduce")
        return made[kind]

    return of


def inside(*names, nth=1, rank=None):
    """Killed three times inside the write of each file."""
    return [Death(at, f"*/{name}", nth, rank) for name in names for at in WRITES]


def lock(folder):
    return [Death(at, f"*/{folder}/.lock") for at in ("removing", "removed")]


CHAINS = {
    "train": [
        Death("made", "*/cut"), *inside("config.json"), Death("line", "*/log.jsonl"), *inside("log.jsonl"),
        *inside("last.safetensors", nth=3), *inside("best/model.safetensors", "best/config.json"),
        *lock("cut"), Death("made", "*/cut/model"), *inside("model/model.safetensors", "cut/model/config.json"),
    ],
    "train, two ranks": [
        *inside("last.safetensors", nth=4, rank=0), Death("half", "*/log.jsonl", rank=0),
        Death("written", "*/best/config.json", rank=0), Death("removing", "*/.lock", rank=0),
        *inside("cut/model/model.safetensors", rank=0), Death("written", "*/cut/model/config.json", rank=0),
    ],
    "evaluate": [
        Death("made", "*/cut"), *inside("evaluation.json", nth=2), Death("made", "*/images"),
        *inside("images/*-0.safetensors", "images/*-8.safetensors"), *inside("evaluation.json", nth=4), *lock("cut"),
        *inside("table.md"),
    ],
    "evaluate, two ranks": [
        Death("written", "*/images/*", rank=1), *inside("evaluation.1.json", rank=1),
        *inside("evaluation.0.json", nth=2, rank=0), *inside("evaluation.json", nth=2, rank=0),
        Death("removed", "*/evaluation.0.json"), Death("removing", "*/evaluation.0.json"),
        Death("removed", "*/evaluation.0.json", 2), Death("removing", "*/.lock"), Death("half", "*/table.md"),
    ],
    "evaluate --states": [
        Death("made", "*/cut"), *inside("held-out/state-2/evaluation.json", nth=3),
        *inside("test/state-2/images/far-4.safetensors"), *lock("test/state-1"),
        Death("written", "*/ensemble/evaluation.json", 2), *inside("readouts.json", "table.md"),
    ],
    "attack": [
        *inside("evaluation.json", nth=3), *inside("images/*-4.safetensors"), *lock("cut"),
        *inside("images.safetensors"),
    ],
    "certify": [
        Death("made", "*/cut"), *inside("cut/certificate.json", nth=2), *inside("cut/certificate.json", nth=3),
        *inside("attacked-0.5/evaluation.json", nth=2), *lock("attacked-1"), *inside("table.md"),
    ],
    "certify, two ranks": [
        *inside("certificate.1.json", rank=1), *inside("certificate.0.json", rank=0),
        Death("removed", "*/certificate.0.json"), Death("half", "*/attacked-0.5/evaluation.0.json", rank=0),
    ],
    "analyze": [
        Death("made", "*/cut"), *inside("plan.json", "picard/000004.safetensors"),
        Death("half", "*/state-1/evaluation.json"), *inside("samples.csv", "analysis.json", "table.md"), *lock("cut"),
    ],
    "convert": [Death("made", "*/cut"), *inside("model.safetensors", "config.json"), *lock("cut")],
    "reproduce": [
        Death("half", "*/cut/recipe.json"), Death("half", "*/training/baseline/last.safetensors", 2),
        Death("written", "*/models/random-states/config.json"), Death("renamed", "*/evaluation/baseline/images/*-0.*"),
        Death("half", "*-entropy-reduction/evaluation.json", 4), Death("written", "*/analysis/random-states.json"),
        Death("half", "*/states.png"), Death("written", "*/results.json"), Death("half", "*/table.md"),
    ],
}  # fmt: skip
"""By kind: one run is killed at each of these, one after the other, and given again after each."""


def killed(attempt):
    """Wait for its end. Whether one of its processes was killed, or of a reproduction a row's process was."""
    codes = attempt.end()
    if attempt.verb.words[0] == "reproduce":
        no_orphans(attempt.out)
        return codes == [-signal.SIGKILL] or (codes == [1] and "process was ended" in attempt.last_words)
    known = {0, 1, 130, -signal.SIGKILL, -signal.SIGTERM} if len(codes) > 1 else {0, -signal.SIGKILL}
    assert known.issuperset(codes), f"it ends with {codes}:\n{attempt.last_words}"
    return -signal.SIGKILL in codes


def concluded(kind, verb, out, one, kills):
    """Given again it ends, with what counts."""
    KILLS[kind] += kills
    finish(verb, out)
    same(out, one.out)
    IDENTICAL[kind] += bool(kills)


@pytest.mark.parametrize("kind", CHAINS)
def test_killed_inside_each_write(kind, verbs, wholes, tmp_path):
    verb, one, out = verbs[kind], wholes(kind), tmp_path / "cut"
    for death in CHAINS[kind]:
        attempt = Attempt(verb, out, death)
        assert killed(attempt), f"{death}: not killed there, {attempt.codes}:\n{attempt.last_words}"
        print(f"{kind}: {death}")
    concluded(kind, verb, out, one, len(CHAINS[kind]))


@pytest.mark.parametrize("death", [*inside("model.safetensors", "config.json"), *lock("cut")], ids=str)
def test_convert_killed_once(death, verbs, wholes, tmp_path):
    out, verb = tmp_path / "cut", verbs["convert"]
    assert killed(Attempt(verb, out, death))
    concluded("convert", verb, out, wholes("convert"), 1)


MOMENTS = {
    "train": 8, "train, two ranks": 5, "evaluate": 6, "evaluate, two ranks": 5, "evaluate --states": 4, "attack": 5,
    "certify": 4, "analyze": 3, "convert": 4,
}  # fmt: skip
MOST = 3
"""Kills of one run, before it may end."""


@pytest.mark.parametrize("kind", MOMENTS)
def test_killed_at_random_moments(kind, verbs, wholes, tmp_path):
    """In a call that is drawn, or after a time that is drawn; of two processes the one, the other, or both."""
    verb, one, draw, kills, run = verbs[kind], wholes(kind), random.Random(f"{SEED} {kind}"), 0, 0
    while kills < MOMENTS[kind]:
        out, here, hit = tmp_path / f"run {run}", 0, True
        while hit and here < MOST:
            who = draw.choice([[0], [1], [0, 1]]) if verb.ranks > 1 else [0]
            call, moment, clock = draw.randint(1, one.calls), draw.uniform(0, one.seconds), draw.random() < 0.5
            rank = None if len(who) == 2 else who[0]
            attempt = Attempt(verb, out, None if clock else Death("call", nth=call, rank=rank))
            if clock and not attempt.wait(moment):
                attempt.signal(signal.SIGKILL, who)
            hit = killed(attempt)
            here += hit
            told = f"{moment:.3f} s" if clock else f"call {call}"
            print(f"{kind}, {out.name}: ranks {who}, {told}: {'killed' if hit else 'ended before'}")
        concluded(kind, verb, out, one, here)
        kills, run = kills + here, run + 1
        assert run < 2 * MOMENTS[kind], "it always ends before it is killed"


def reached(attempt, pattern, draw, most):
    """Wait until there is such a file, and then for a time that is drawn. The processes that the command started."""
    while not any(attempt.out.glob(pattern)) and not attempt.wait(0.01):
        pass
    moment = draw.uniform(0, most)
    attempt.wait(moment)
    assert attempt.codes == [None] * len(attempt.codes), f"too late after {moment:.3f} s:\n{attempt.last_words}"
    print(f"{attempt.verb.words[0]}: {moment:.3f} s after {pattern}")
    return {pid: line for pid, line in workers(attempt.out).items() if pid not in attempt.pids}


@pytest.mark.parametrize("who", ["parent", "row", "all"])
def test_reproduce_killed_at_a_random_moment(who, verbs, wholes, tmp_path):
    """The parent alone, the process of a row, or all of them; nobody goes on."""
    verb, one, out, draw = verbs["reproduce"], wholes("reproduce"), tmp_path / "cut", random.Random(f"{SEED} {who}")
    attempt = Attempt(verb, out)
    begun = reached(attempt, "evaluation/*" if who == "parent" else "training/*", draw, 3)
    rows = sorted(pid for pid, line in begun.items() if "spawn_main" in line)
    assert rows
    if who != "row":
        attempt.signal(signal.SIGKILL)
    for pid in {"all": rows, "row": [draw.choice(rows)]}.get(who, []):
        os.kill(pid, signal.SIGKILL)
    assert killed(attempt), f"{attempt.codes}:\n{attempt.last_words}"
    concluded("reproduce", verb, out, one, 1 + len(rows) if who == "all" else 1)


@pytest.mark.parametrize("kind", ["train", "evaluate", "reproduce", "train, two ranks"])
def test_asked_to_end_with_sigterm(kind, verbs, wholes, tmp_path):
    """Training saves first and says so; torchrun passes it on."""
    training = kind.startswith("train")
    verb, one, out = replace(verbs[kind], real=training), wholes(kind), tmp_path / "cut"
    attempt = Attempt(verb, out)
    there = {"reproduce": "evaluation/*/evaluation.json", "evaluate": "evaluation.json"}.get(kind, "last.safetensors")
    reached(attempt, there, random.Random(f"{SEED} {kind}"), 0.3)
    attempt.signal(signal.SIGTERM)
    (code,) = attempt.end()
    no_orphans(out)
    if training:
        assert code == 130 if verb.ranks == 1 else code != 0
        assert "interrupted; the same command goes on" in attempt.last_words
    else:
        assert code == -signal.SIGTERM
    concluded(f"{kind} (SIGTERM)", verb, out, one, 1)


@pytest.mark.parametrize(
    "kind, who", [("train", "rank"), ("train", "all"), ("evaluate", "rank"), ("evaluate", "torchrun")]
)
def test_killed_under_torchrun(kind, who, verbs, wholes, tmp_path):
    """One rank, everything, or torchrun alone, whose ranks no longer know of it: they end what they began."""
    two = f"{kind}, two ranks"
    verb, one, out, draw = replace(verbs[two], real=True), wholes(two), tmp_path / "cut", random.Random(f"{SEED} {who}")
    attempt = Attempt(verb, out)
    ranks = sorted(reached(attempt, "last.safetensors" if kind == "train" else "evaluation.?.json", draw, 1))
    assert len(ranks) >= 2
    if who != "rank":
        attempt.signal(signal.SIGKILL)
    for pid in {"all": ranks, "rank": [draw.choice(ranks)]}.get(who, []):
        os.kill(pid, signal.SIGKILL)
    assert all(attempt.end())
    no_orphans(out, 60 if who == "torchrun" else 10)
    concluded(f"{two}, torchrun", verb, out, one, 1 + len(ranks) if who == "all" else 1)


def test_the_table(capsys, record_property):
    """What was killed. (Of the tests that were selected.)"""
    lines = [f"{'kind':<32}{'kills':>8}{'killed runs that ended identical':>36}"]
    lines += [f"{kind:<32}{KILLS[kind]:>8}{IDENTICAL[kind]:>36}" for kind in KILLS]
    lines.append(f"{'all':<32}{KILLS.total():>8}{IDENTICAL.total():>36}")
    record_property("kills", KILLS.total())
    with capsys.disabled():
        print("\n" + "\n".join(lines))
