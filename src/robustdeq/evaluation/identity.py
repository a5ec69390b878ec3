"""What an evaluation is of: the model, its solver and defence, the images, the threat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..attacks import Threat
from ..checks import check_labels
from ..files import claim, differences, digest, plain, read_json
from ..models.fit import asked, check_logits
from ..models.modes import evaluating, unwrapped
from ..models.structure import Structure, Wrapper, structure
from ..models.zoo import config_of
from ..options import checked, describe, make
from .images import Points, loaded

PLAN = "plan.json"
FIRST, SLACK = 32, 0.1
"""Images whose largest logits are on record, and the share of them that another machine may round otherwise."""


@checked
@dataclass
class Described:
    """A module by its class and what tells it from another of its class."""

    name: str
    settings: dict[str, Any]


@checked
@dataclass(kw_only=True)
class Identity:
    """What must be the same for a record to be continued. weights: digest below defence and readout; deployed: of all.
    logits: of the first image without a defence, which tell models of the same weights apart; peaks: the largest logit
    of each of the first images (none: an older record), with the defence where no options tell it. images: digest."""

    model: Any
    weights: str
    deployed: str
    solver: Any
    steps: int | None
    readout: Described | None
    defence: Described | None
    logits: list[float]
    points: int
    images: str
    norm: str
    eps: float
    seed: int
    batch_size: int
    peaks: list[float] = field(default_factory=list)

    @property
    def threat(self) -> dict[str, Any]:
        """As an attack's options tell it."""
        return {"name": self.norm, "eps": self.eps}

    @property
    def eps_words(self) -> str:
        """As RobustBench writes it: 8/255, 0.5, or 1."""
        steps = self.eps * 255
        whole = 0 < round(steps) < 255 and abs(steps - round(steps)) < 1e-6
        return f"{round(steps)}/255" if whole else f"{self.eps:g}"


def identity_of(
    owner: str, kind: Structure, points: Points, first: tuple[Tensor, Tensor], threat: Threat, **of: Any
) -> Identity:
    """Raises a ValueError of ``owner`` if images, labels or classes do not fit the model.

    first: the first images (B, C, H, W) of the points, where the model computes, and their labels. of: seed,
    batch_size.
    """
    check_classes(owner, kind, points)
    x, labels = first
    logits = x
    # The bare model comes last, and its logits are kept: a defence may flip signs of almost nothing elsewhere.
    for module in dict.fromkeys((kind.deployed, kind.bare)):
        with torch.no_grad(), evaluating(kind.deployed):
            logits = asked(f"{owner}: the model", module, x[:1].clone())
        check_logits(owner, module, logits, 1)
    labels = getattr(points, "labels", labels)
    check_labels(labels, labels, logits.shape[1])
    return Identity(
        **below(kind), **around(kind), deployed=_weights(kind.deployed), logits=on_record(logits),
        peaks=_peaks(kind, x), points=len(points), images=points.digest(), norm=threat.name, eps=threat.eps, **of,
    )  # fmt: skip


@torch.no_grad()
def _peaks(kind: Structure, x: Tensor) -> list[float]:
    """The largest logits of a module that has them again when it is asked again."""
    with evaluating(kind.deployed):
        if kind.defence is not None and getattr(kind.defence, "method", None) is None:
            one, again = (kind.deployed(x.clone()).amax(1) for _ in range(2))
            if torch.equal(one, again):
                return on_record(one[None])
        return on_record(kind.bare(x.clone()).amax(1)[None])


def on_record(logits: Tensor) -> list[float]:
    """The logits (1, K) of one image as a record has them; what is not finite as 0, since JSON has no number for it."""
    return logits[0].double().nan_to_num(0, 0, 0).tolist()


def same_logits(one: Sequence[float], other: Sequence[float]) -> bool:
    """But for what another machine or number of threads may have rounded otherwise."""
    return len(one) == len(other) and not _moved(one, other)


def _moved(one: Sequence[float], other: Sequence[float]) -> int:
    size = max(map(abs, (*one, *other)), default=0.0)
    return sum(abs(a - b) > 1e-3 * size for a, b in zip(one, other))


def same_beginning(one: Identity, other: Identity) -> bool:
    """Whether both are of one deployed model and of the same first images, as far as their logits tell these."""
    if (one.deployed, one.defence, one.steps) != (other.deployed, other.defence, other.steps):
        return False
    if not same_logits(one.logits, other.logits) or (one.points == other.points and one.images != other.images):
        return False
    few = min(len(one.peaks), len(other.peaks))
    return _moved(one.peaks[:few], other.peaks[:few]) <= SLACK * few


def check_same(path: Path, before: Identity, now: Identity) -> None:
    """A ValueError if the record in ``path`` is of anything else."""
    if same_logits(before.logits, now.logits):
        before = replace(before, logits=now.logits)
    if _moved(before.peaks, now.peaks) <= SLACK * len(now.peaks):
        before = replace(before, peaks=now.peaks)
    if differing := ", ".join(differences(asdict(before), asdict(now))):
        raise ValueError(f"{path} belongs to another {differing}; give another folder, or remove it.")


@checked
@dataclass(kw_only=True)
class Plan(Identity):
    """options: further ones that a folder is for."""

    options: dict[str, Any]


def claim_for(
    owner: str, folder: Path, model: nn.Module, points: Points, threat: Threat, *, batch_size: int, seed: int,
    **options: Any,
) -> None:  # fmt: skip
    """``claim`` a folder for work on one model: a ValueError where it is for another model, images, ball or options.
    owner: whose work it is, for messages."""
    first = loaded(points, slice(min(FIRST, batch_size)), model)
    identity = identity_of(owner, structure(model), points, first, threat, seed=seed, batch_size=batch_size)
    file, now = folder / PLAN, Plan(**vars(identity), options=plain(options))
    if file.exists():
        anew = "give another folder, or remove it"
        try:
            before = make(Plan, read_json(file, anew))
        except ValueError as error:
            raise ValueError(f"{file} is no plan of this version ({str(error)[:200]}); {anew}.") from error
        check_same(file, before, now)
        now = before
    claim(file, asdict(now))


def check_classes(owner: str, kind: Structure, points: Points) -> None:
    """Where model and images both name their classes: the same names in the same order."""
    named = [getattr(module, "classes", None) for module in (kind.deployed, kind.bare, kind.deq)]
    model = next((names for names in named if isinstance(names, tuple | list) and names), None)
    images = getattr(points, "classes", None)
    for label, (one, other) in enumerate(zip_longest(model or (), images or ()) if model and images else ()):
        if one is None or other is None or str(one) != str(other):
            differing = f"class {label} is {one!r} to the model and {other!r} in the images"
            raise ValueError(f"{owner}: {differing}; allowed: the same names in the same order.")


def below(kind: Structure) -> dict[str, Any]:
    """What tells the model below defence and readout from others."""
    inner, deq = kind.bare if kind.deq is None else kind.deq, kind.deq
    return {
        "model": plain(config_of(inner)) or type(inner).__name__, "weights": _weights(inner),
        "solver": None if deq is None else plain(describe(deq.solver)), "steps": None if deq is None else deq.steps,
    }  # fmt: skip


def around(kind: Structure) -> dict[str, Described | None]:
    """What is around that model. A wrapper around another one tells of it too, unless that is the readout."""

    def told(wrapper: Any) -> Described:
        settings, inner = plain(wrapper.settings), unwrapped(wrapper.model)
        if isinstance(inner, Wrapper) and inner is not kind.readout:
            settings = {**settings, "around": asdict(told(inner))}
        return Described(type(wrapper).__name__, settings)

    wrappers = {"readout": kind.readout, "defence": kind.defence}
    return {name: None if wrapper is None else told(wrapper) for name, wrapper in wrappers.items()}


def _weights(module: nn.Module) -> str:
    state = module.state_dict()
    told = [name if isinstance(value, Tensor) else f"{name} {value!r}" for name, value in state.items()]
    tensors = [value for value in state.values() if isinstance(value, Tensor)]
    return digest(torch.tensor(list(" ".join(told).encode()), dtype=torch.uint8), *tensors)
