"""What a defence seems to gain, attacked as hard as the bare model was: an upper bound on the gain.

Of two evaluations on the same images, of a bare model and of the same behind entropy reduction, only the images are
attacked that stand behind the defence and not without it: APGD-CE and APGD-T of 100 iterations through the defence, as
the bare model met them, and APGD-CE and APGD-DLR through its updates. What falls was no gain; the images that stand in
both are not attacked again, so the gain may be smaller still.

    python benchmarks/gained.py runs/table/seed-1/evaluation/random-states \
        runs/table/seed-1/evaluation/random-states-entropy-reduction \
        --model runs/table/seed-1/models/random-states --data path/to/cifar10
"""

import argparse

import robustdeq as rd
from robustdeq.attacks import AutoAttack, EndToEnd, Frozen
from robustdeq.evaluation import Entry, Evaluation
from robustdeq.progress import bar
from robustdeq.report.paired import mcnemar

KINDS = ("apgd-ce", "apgd-t", "apgd-dlr")
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("bare", help="folder of the bare model's evaluation")
parser.add_argument("defended", help="folder of the defended model's evaluation")
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
parser.add_argument("--iterations", type=int, default=100)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", help="folder from which the attacks go on")

if __name__ == "__main__":
    given = parser.parse_args()
    bare, defended = Evaluation.read(given.bare), Evaluation.read(given.defended)
    one, other = defended.standing("All"), bare.standing("All")
    gained, lost, threat = one & ~other, int((other & ~one).sum()), rd.Linf(bare.record.identity.eps)
    model, options = rd.load_model(given.model), defended.record.identity.defence.settings
    few = rd.data.load(given.data).test.take(gained.nonzero().flatten())
    budget = {"iterations": given.iterations, "seed": given.seed}
    attacks = {name: AutoAttack(threat, attacks=(name,), **budget) for name in KINDS}
    suite = [Entry(name, "frozen", attacks[name], Frozen) for name in ("apgd-ce", "apgd-t")]
    suite += [Entry(f"{name} end-to-end", "end-to-end", attacks[name], EndToEnd) for name in ("apgd-ce", "apgd-dlr")]
    with bar("gained") as progress:
        found = rd.evaluate(
            rd.EntropyReduction(**options)(model), few, suite=suite, threat=threat, checks=0, out=given.out,
            batch_size=20, progress=progress, samples="those that stand behind the defence only",
        )  # fmt: skip
    left = found.shares()["All"].count
    print(found.table())
    print(f"gained {int(gained.sum())}, lost {lost}: p = {mcnemar(int(gained.sum()), lost):.2g}")
    print(f"of the gained {left} stand {given.iterations} iterations: at most {left}, p = {mcnemar(left, lost):.2g}")
