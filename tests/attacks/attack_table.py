"""Every attack and every view, once: a new one is a line here, and is put through what all of them must keep."""

from robustdeq import L2, EntropyReduction, Linf
from robustdeq.attacks import (
    APGD,
    PGD,
    AutoAttack,
    EndToEnd,
    Frozen,
    IntermediateState,
    JointOptimisation,
    Static,
    Summed,
    ThroughGradient,
)
from robustdeq.defences import EarlyState, Ensemble

LINF, L_2 = Linf(0.2), L2(0.4)


ATTACKS = {
    "pgd": PGD(LINF, 0.05, 2, restarts=2),
    "pgd highest L2": PGD(L_2, 0.1, 2, restarts=2, keep="highest"),
    "pgd last": PGD(LINF, 0.05, 2, keep="last"),
    "pgd kl L2": PGD(L_2, 0.1, 2, loss="kl"),
    "pgd kl last": PGD(LINF, 0.05, 2, loss="kl", start="gaussian", keep="last"),
    "pgd dlr": PGD(LINF, 0.05, 2, loss="dlr", start="clean"),
    "pgd dlr-targeted": PGD(LINF, 0.05, 2, loss="dlr-targeted", targets=2),
    "pgd ce-targeted L2": PGD(L_2, 0.1, 2, loss="ce-targeted", targets=2),
    "pgd ce-targeted highest": PGD(LINF, 0.05, 1, loss="ce-targeted", targets=2, restarts=2, keep="highest"),
    "pgd pm": PGD(LINF, 0.05, 2, loss="pm"),
    "pgd cw L2": PGD(L_2, 0.1, 2, loss="cw"),
    "pgd nearest": PGD(LINF, 0.05, 2, loss="cw-targeted", targets=2, order="nearest"),
    "pgd warm": PGD(LINF, 0.05, 3, restarts=2, warm=1),
    "pgd warm highest": PGD(LINF, 0.05, 3, loss="cw-targeted", targets=2, keep="highest", warm=2),
    "apgd": APGD(LINF, 2, restarts=2),
    "apgd dlr L2": APGD(L_2, 2, loss="dlr"),
    "apgd pm": APGD(LINF, 2, loss="pm"),
    "apgd nearest": APGD(LINF, 2, loss="cw-targeted", targets=2, order="nearest"),
    "apgd dlr-targeted": APGD(LINF, 2, loss="dlr-targeted", targets=2),
    "apgd targeted L2": APGD(L_2, 2, loss="ce-targeted", targets=2, stack=3),
    "joint": JointOptimisation(LINF, 3, restarts=2),
    "joint dlr L2": JointOptimisation(L_2, 3, loss="dlr", finish=3),
    "joint nearest": JointOptimisation(LINF, 3, loss="cw-targeted", order="nearest", restarts=2, finish=0),
    "joint targeted": JointOptimisation(LINF, 3, loss="cw-targeted", targets=2, solver="anderson"),
    "autoattack": AutoAttack(LINF, attacks=["apgd-ce", "square"], iterations=2, queries=3),
    "autoattack L2": AutoAttack(L_2, attacks=["fab-t", "apgd-t", "apgd-dlr"], iterations=2),
    "square": AutoAttack(LINF, attacks=["square"], queries=40),
    "square L2": AutoAttack(L_2, attacks=["square"], queries=3),
    "rand": AutoAttack(LINF, "rand", iterations=2),
    "plus": AutoAttack(LINF, "plus", iterations=2, queries=3),
    "fab": AutoAttack(LINF, attacks=["fab"]),
    "fab-t L2": AutoAttack(L_2, attacks=["fab-t"]),
}


EVERYWHERE = ["pgd", "pgd ce-targeted highest", "apgd", "autoattack"]
SOME = ["model", "Ensemble", "Summed", "EndToEnd"]


def of_a_deq(name):
    """Of a bare DEQ alone: it moves the fixed point, or begins a solve where the last one ended."""
    return isinstance(ATTACKS[name], JointOptimisation) or getattr(ATTACKS[name], "warm", None) is not None


def views_of(name):
    """Every attack is tried through some views, and some attacks through every view."""
    if of_a_deq(name):
        return ["model", "reversible"]
    return list(VIEWS) if name in EVERYWHERE else SOME


def defended(model):
    return EntropyReduction(eps=0.05, step_size=0.02, updates=2)(model)


VIEWS = {
    "model": lambda model: model,
    "reversible": lambda model: model,
    "EarlyState": lambda model: EarlyState(model, 2),
    "Ensemble": Ensemble,
    "phantom": lambda model: ThroughGradient(model, {"name": "phantom", "unroll": 2}),
    "implicit": lambda model: ThroughGradient(model, "implicit"),
    "simultaneous": lambda model: ThroughGradient(model, "simultaneous"),
    "early states": lambda model: Summed([EarlyState(model, 1), EarlyState(model, 3)], deployed=model),
    "IntermediateState": lambda model: IntermediateState(model, state=2, unroll=1),
    "Summed": lambda model: IntermediateState.several(model, states=(1, 3), unroll=1),
    "defended": defended,
    "Frozen": lambda model: Frozen(defended(model)),
    "EndToEnd": lambda model: EndToEnd(defended(model)),
    "Summed defended": lambda model: Summed([Frozen(guarded := defended(model)), EndToEnd(guarded)]),
    "Static": lambda model: Static(defended(model)),
    "Static phantom": lambda model: Static(defended(model), "phantom"),
}
"""Of a model."""
SOLVERS = {"reversible": "reversible", "simultaneous": "broyden"}
"""Of the model behind some views, where it is not picard."""
