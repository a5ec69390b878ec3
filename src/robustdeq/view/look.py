"""One image, one attack, one defence, and what they do to the dynamics. Nothing here knows of a page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ..analysis import Deviation, States, deviation, states_along
from ..attacks import APGD, PGD, EndToEnd, Frozen, JointOptimisation, Linf, ThroughGradient
from ..checks import Pixels, Seed, Whole, check_labels
from ..defences import EntropyReduction
from ..gradients import GRADIENTS
from ..models import DEQClassifier
from ..models.modes import evaluating
from ..options import OneOf, checked

ATTACKS: dict[str, Callable[[Settings], Any] | None] = {
    "none": None,
    "PGD": lambda s: PGD(Linf(s.eps), s.eps / 4, s.steps, seed=s.seed, keep="highest" if s.far else "worst"),
    "APGD": lambda s: APGD(Linf(s.eps), s.steps, seed=s.seed),
    "joint": lambda s: JointOptimisation(Linf(s.eps), iterations=s.steps, seed=s.seed),
}
"""What a user may choose, and the attack that it stands for."""
SEEN = {
    "static": "the bare model: it does not know of the defence",
    "frozen": "the defence, what it changed in the image held constant",
    "end-to-end": "the defence, and how its changes follow the image",
}
"""What the attack on a defended model knows (the threat settings of an evaluation)."""
MOST_STEPS = 1000


@checked
@dataclass(frozen=True)
class Settings:
    """What is done to an image.

    attack: in ``ATTACKS``. eps: radius of the L-inf ball, pixels of [0, 1]; a step of PGD is a quarter of it. steps: of
    PGD, iterations of APGD and of the joint attack. gradient: through which an attack that sees the bare model looks;
    the joint attack has one of its own. defended: input entropy reduction, with the same ball. sees: in ``SEEN``, what
    the attack on a defended model knows. whole: PGD takes all its steps and gives the image of highest loss, instead of
    the first one that is misclassified, where every prediction is unsure; a static one always does, since of the other
    a defence makes little. seed: of the attack's start.
    """

    attack: Annotated[str, OneOf("attack", ATTACKS)] = "PGD"
    eps: Annotated[float, Pixels(0, 1, low_open=True)] = 8 / 255
    steps: Annotated[int, Whole(1, MOST_STEPS)] = 20
    gradient: Annotated[str, OneOf("gradient", GRADIENTS)] = "unrolled"
    defended: bool = False
    sees: Annotated[str, OneOf("knowledge", SEEN)] = "frozen"
    whole: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.through_defence and self.attack == "joint":
            raise ValueError(f"the joint attack on a defended model, sees={self.sees!r}; allowed: static.")
        if (self.through_defence or self.attack == "joint") and self.gradient != "unrolled":
            allowed = "unrolled, or an attack that sees the bare model, PGD or APGD"
            raise ValueError(f"gradient={self.gradient!r} of this attack; allowed: {allowed}.")
        if self.whole and self.attack not in ("PGD", "none"):
            raise ValueError(f"all steps of the attack {self.attack}; allowed: of PGD.")

    @property
    def through_defence(self) -> bool:
        return self.defended and self.attack != "none" and self.sees != "static"

    @property
    def far(self) -> bool:
        """Whether PGD gives the image of highest loss."""
        return self.whole or (self.defended and self.sees == "static")


class Stopped(Exception):
    """The user wants no more of it."""


@dataclass
class Watch:
    """Stands beside an attack. A pass is one forward of what the attack looks at: of the model, and for the joint
    attack, which moves image and state together, of the injection. progress: told (passes done, passes at most).
    stopped: asked before every injection whether to end, with ``Stopped``. passes: begun so far."""

    progress: Callable[[int, int], None] = lambda done, total: None
    stopped: Callable[[], bool] = lambda: False
    passes: int = field(default=0, init=False)

    @contextmanager
    def over(self, seen: nn.Module, inject: nn.Module, total: int) -> Iterator[None]:
        """Inside, every forward of ``seen`` is a pass. No attack has to know of it, and none computes anything else for
        it; ``total`` is what one takes that is not done before its end."""

        def begun(*_: Any) -> None:
            self.progress(self.passes, total)
            self.passes += 1

        def asked(*_: Any) -> None:
            if self.stopped():
                raise Stopped

        with inject.register_forward_pre_hook(asked), seen.register_forward_pre_hook(begun):
            yield


@dataclass(frozen=True)
class Course:
    """The dynamics of one image. states: (T, 1) each. attacked, defended: whose they are. deviation: from the dynamics
    of the clean image under the bare model; None of those themselves."""

    states: States
    attacked: bool
    defended: bool
    deviation: Deviation | None = None

    @property
    def name(self) -> str:
        return ("attacked" if self.attacked else "clean") + (", defended" if self.defended else "")

    @property
    def prediction(self) -> int:
        """The class that the last state is read as; -1 where its logits are not finite."""
        return int(self.states.prediction[-1, 0])


@dataclass(frozen=True)
class Look:
    """What was seen. label: the class that the attack leads away from. image, adversarial, regulated: (C, H, W) in
    [0, 1], clean, attacked (None without an attack), and as the defence changed the last of these (None without one).
    courses: clean, attacked, and the same defended, as far as there are. passes, units, updates: of the attack, see
    ``Watch`` and ``Tally``. seconds: of all.
    """

    settings: Settings
    label: int
    image: Tensor
    adversarial: Tensor | None
    regulated: Tensor | None
    courses: tuple[Course, ...]
    passes: int
    units: int
    updates: int
    seconds: float

    @property
    def deployed(self) -> Course:
        """Of the image that was attacked, or else the clean one, under the model as it is deployed."""
        return self.courses[-1]


def look(model: DEQClassifier, x: Tensor, label: int | None, settings: Settings, watch: Watch | None = None) -> Look:
    """Attack one image and follow the dynamics.

    model: a DEQ. x: (1, C, H, W) in [0, 1] on its device. label: its class; None takes the deployed prediction. Raises
    ``Stopped`` where ``watch`` says so, and a ValueError for what does not fit.
    """
    start, watch = time.perf_counter(), Watch() if watch is None else watch
    deployed: Any = model
    if settings.defended:
        deployed = EntropyReduction.usual(settings.eps, model.steps)(model)
    with evaluating(model):
        with torch.no_grad():
            logits = deployed(x)
        if len(x) != 1:
            raise ValueError(f"look: {len(x)} images; allowed: one, (1, C, H, W).")
        y = logits.argmax(1) if label is None else torch.tensor([label], device=x.device)
        check_labels(x, y, logits.shape[1])
        tally, before = model.tally, (model.tally.units, model.tally.updates)
        x_adv = _attacked(model, deployed, x, y, settings, watch)
        units, updates = tally.units - before[0], tally.updates - before[1]
        images, courses = (x,) if x_adv is None else (x, x_adv), []
        for whole in (model, deployed) if settings.defended else (model,):
            for image in images:
                first = whole is model and image is x
                moved = None if first else deviation(whole, x, image, reference=model)
                courses.append(Course(states_along(whole, image), image is x_adv, whole is not model, moved))
        regulated = deployed.trajectory(images[-1]).inputs[-1][0] if settings.defended else None
    return Look(
        settings, int(y), x[0], None if x_adv is None else x_adv[0], regulated, tuple(courses), watch.passes, units,
        updates, time.perf_counter() - start,
    )  # fmt: skip


def _attacked(
    model: DEQClassifier, deployed: Any, x: Tensor, y: Tensor, settings: Settings, watch: Watch
) -> Tensor | None:  # fmt: skip
    make = ATTACKS[settings.attack]
    if make is None:
        return None
    attack = make(settings)
    # Every pass begins with an injection, also of a defence's update; so that is where a stop is asked for.
    if settings.attack == "joint":  # injects in every iteration, to look at the outcome, and in PGD's passes at the end
        with watch.over(model.inject, model.inject, attack.iterations + 1 + attack.finish + 1):
            return attack(model, x, y)
    seen: nn.Module = ThroughGradient(model, settings.gradient)
    if settings.through_defence:
        seen = Frozen(deployed) if settings.sees == "frozen" else EndToEnd(deployed)
    with watch.over(seen, model.inject, settings.steps + 1):
        return attack(seen, x, y)
