"""What the report's columns, threat settings and red flags mean, a sentence each."""

from __future__ import annotations

SETTINGS = {
    "static": "The attacker does not know of the defence: images are made against the bare model and then shown to the "
    "defended one (a transfer attack).",
    "frozen": "The attacker differentiates through the defended forward, but holds what the defence adds to the input, "
    "x′ − x, constant (BPDA).",
    "end-to-end": "The attacker differentiates through the defence's own updates; in the backward pass a smooth "
    "surrogate stands for the sign.",
    "black-box": "The attacker sees only the outputs of the defended model and follows no gradient (Square).",
}
"""The four threat settings of a defended model."""

COLUMNS = {
    "clean": "Right on the images themselves.",
    "PGD": "Still right under projected gradient descent; the worst, sample by sample, of its gradients and losses.",
    "joint": "Still right under the joint optimisation of state, adjoint and image.",
    "AA": "Still right under the attacks of AutoAttack that were run, of its four: see the table of attacks.",
    "white-box": "Still right under attacks that follow the deployed model's gradient.",
    "surrogate": "Still right on images that were made against models trained independently.",
    "transfer": "Still right on images that were made elsewhere.",
    "All": "Still right under every attack of the row, on the samples that each of them saw.",
    **SETTINGS,
}

FLAGS = {
    "static": "An attack that knows less should break less. Here the attacks through the defence are too weak, so "
    "their columns are no evidence for it; believe the smallest column, and attack harder.",
    "black-box": "An attack without gradients should not win against one with them. The gradient is masked, and "
    "robust accuracy under gradient attacks is too high.",
    "surrogate": "Images from other models should not be worse than the model's own. Its gradient is masked.",
    "joint": "The joint attack assumes a fixed point, and there is none near. Its column says little; the unrolled "
    "gradient does not need one.",
    "gradients": "Where the gradient is zero an attack does not move. What seems robust may only be out of reach.",
    "random": "A model that answers at random must be attacked on the average of its answers.",
    "more steps": "More steps should never break less. The gradient leads the attack astray.",
    "weak attacks": "Ten plain steps break what the attacks of this record do not. Too few steps, too short ones, or "
    "another threat than the one that is judged; attack harder.",
    "huge eps": "In a ball this large no image can stay right. The attack fails, not the perturbation.",
    "loss": "A larger ball holds a smaller one, so the loss at its worst point must rise. The attack does not find it.",
    "residual": "The states have not come to rest: gradients that assume a fixed point (phantom, implicit, joint) are "
    "of another function than the deployed one.",
    "gradients differ": "Two gradients of one computation should lead to equally bad images. The weaker one is masked, "
    "and a number that stands on it alone is too high.",
    "batch": "What an image is taken for depends on its neighbours, so it has no robust accuracy of its own. Batch "
    "statistics do that, and a stopping rule that looks at the whole batch.",
    "gradient mode": "The model computes something else where a gradient is asked for, and attacks see only that.",
    "ties": "Several classes share the largest logit, and the first counts. Rounded logits do that, and votes.",
    "rejected": "An image outside the threat model is no attack on it. Project what the attack gives, or state its "
    "threat; until then its column says nothing.",
    "not finite": "The model overflows on clean images. Those samples count as wrong.",
    "idle defence": "The rows of the defence are the bare model's. It needs every below N, eps and step_size above 0.",
    "probabilities": "Attack losses expect logits. Take the softmax out of the model, and evaluate again.",
}
"""What a red flag means for the numbers beside it."""

CHECKED = {
    "static": "static attacks do not beat those through the defence",
    "black-box": "gradient-free attacks do not beat gradient attacks",
    "surrogate": "images from other models do not beat gradient attacks",
    "joint": "the joint attack is no weaker than PGD through the solver",
    "gradients": "the loss has a gradient",
    "random": "two forwards agree",
    "more steps": "more steps break more",
    "weak attacks": "the attacks break what ten plain steps do",
    "huge eps": "nothing stands in a huge ball",
    "loss": "the loss rises with eps",
    "residual": "the dynamics come to rest",
    "gradients differ": "the unrolled and the phantom gradient agree",
    "batch": "an image has the same logits alone",
    "gradient mode": "attacks see the deployed logits",
    "rejected": "attacks stay in the ball and the box",
    "not finite": "logits are finite",
    "probabilities": "outputs are logits",
    "idle defence": "the defence changes the input",
}
"""What a check that raised no flag has confirmed."""


def column_words(column: str) -> str:
    """What a column counts; of a column with another name, that of its last word, or that of its attacks."""
    last = (column.split() or [""])[-1]
    return COLUMNS.get(column) or COLUMNS.get(last) or "Still right under the attacks of this name."
