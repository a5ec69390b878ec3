"""What an evaluation measured, as tensors, a table, and JSON."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..checks import check_folder
from ..files import write_bytes
from ..text import markdown, printable, shown, table
from .flags import FIXED_POINT, Flag, flags
from .identity import Identity
from .images import KeptImages
from .record import RECORD, Record
from .share import Share

if TYPE_CHECKING:
    from pandas import DataFrame

EXCLUDED = "The model optimises its input at inference, and RobustBench excludes such defences."
SQUARE_SURPLUS = 0.002
"""Share of the samples that Square may break after the gradient attacks, as the reference has it."""


@dataclass(frozen=True)
class Evaluation:
    """record: everything, as in the file. folder: where it lies, None for nowhere."""

    record: Record = field(repr=False)
    folder: Path | None = None

    @classmethod
    def read(cls, folder: str | Path) -> Evaluation:
        """The finished evaluation that a folder holds."""
        folder = check_folder("Evaluation.read", folder)
        record, place = Record.united(folder), printable(str(folder))
        if record is None:
            raise ValueError(f"{place} holds no {RECORD}; give the out= of an evaluation.")
        if unknown := [name for name in record.columns if name not in record.attacks]:
            lost = f"{place} names attacks that it does not hold, {shown(unknown)}"
            raise ValueError(f"{lost}; remove it, and evaluate anew.")
        missing = [name for name, (done, whole) in record.done.items() if done < whole]
        if record.checks is None or not record.checks.done:
            missing.append("checks")
        if missing:
            raise ValueError(f"{folder} is unfinished: {', '.join(missing)}; evaluate with the same out= to go on.")
        return cls(record, folder)

    def frame(self) -> DataFrame:
        """A row for each sample: sample, label, prediction (-1: a logit that is not finite), and a column for every
        attack, 1 stands, 0 fell to it, -1 not attacked; blank beyond the first points that it was made on."""
        from pandas import DataFrame, array

        told = {"sample": range(len(self.clean)), "label": self.record.labels.tolist()}
        told["prediction"] = self.predictions.tolist()
        for name in self.columns:
            outcomes = self.record.attacks[name].outcomes.tolist()
            told[name] = array([*outcomes, *[None] * (len(self.clean) - len(outcomes))], dtype="Int8")
        return DataFrame(told)

    @property
    def columns(self) -> dict[str, str]:
        """Attack to column, in the order in which they ran."""
        return self.record.columns

    @cached_property
    def predictions(self) -> Tensor:
        """(N,) int64, on the images themselves; -1 where a logit is not finite."""
        return self.record.predictions

    @cached_property
    def clean(self) -> Tensor:
        """(N,) bool, correct on the images themselves."""
        return self.record.correct

    @cached_property
    def robust(self) -> dict[str, Tensor]:
        """Per attack, (points,) bool: attacked, and classified correctly still.

        False, too, for a sample that an earlier attack of the column had broken, and that was not attacked again.
        """
        return {name: self.record.attacks[name].outcomes == 1 for name in self.columns}

    @cached_property
    def images(self) -> dict[str, KeptImages]:
        """Per attack, the verified images (points, C, H, W), where they were kept; an index reads a batch from disk.

        A sample that was not attacked has its own image, and so has one whose attack left the threat model.
        """
        return self.record.kept(self.folder)

    @cached_property
    def flags(self) -> list[Flag]:
        """Every check that was made, fired or not."""
        return flags(self.record)

    def shares(self) -> dict[str, Share]:
        """clean, one share a column, and All: the samples that survive every attack, of those that every attack saw;
        without an attack there is none."""
        columns = ["clean", *self.columns.values(), "All"] if self.columns else ["clean"]
        return {column: Share.of(self.standing(column)) for column in dict.fromkeys(columns)}

    def standing(self, column: str = "All") -> Tensor:
        """(n,) bool: right on the image itself for ``clean``; else still right after every attack of the column, or
        after every attack for ``All``. n: how many points each of them saw."""
        if column == "clean":
            return self.clean
        robust = [self.robust[name] for name, of in self.columns.items() if column in (of, "All")]
        if not robust:
            raise ValueError(f"standing: column={shown(column)}; allowed: {', '.join(self.shares())}.")
        points = min(map(len, robust))
        # Whoever was broken by an earlier attack of the column is False in the later ones as well.
        return torch.stack([self.clean[:points], *(stands[:points] for stands in robust)]).all(0)

    def uncounted(self) -> str | None:
        """In a sentence, which attacks other evaluations into this folder ran, and what they broke; None for none."""
        if not (others := self.record.others) or not self.columns:
            return None
        stands = self.standing()
        fell = int((stands & torch.stack(list(others.values())).any(0)[: len(stands)]).sum())
        who = f"another evaluation into this folder asked for them: {', '.join(others)}"
        return f"Not counted, since {who}, which broke {fell} of the samples that stand here."

    def taken(self) -> dict[str, dict[str, int]]:
        """Per attack, how many samples it was shown (``seen``), broke, was the first to break, and broke alone.

        What stands against an attack's name in ``first`` the attacks before it had left; ``alone``, others were shown
        as well, and none of them broke. An attack is shown what the others of its column left.
        """
        counts = {of: samples.sum(1).tolist() for of, samples in self._taken().items()}
        return {name: {of: counts[of][row] for of in counts} for row, name in enumerate(self.columns)}

    def alone(self) -> dict[int, str]:
        """Sample to the one attack that broke it, where others were shown it as well and did not."""
        names = list(self.columns)
        return {sample: names[row] for sample, row in self._taken()["alone"].T.nonzero().tolist()}

    def _taken(self) -> dict[str, Tensor]:
        """What ``taken`` counts, (attacks, samples) bool each."""
        outcomes = [self.record.attacks[name].outcomes for name in self.columns] or [torch.empty(0)]
        padded = pad_sequence(outcomes, batch_first=True, padding_value=-1)  # an attack may have seen fewer points
        seen, broke = padded >= 0, padded == 0
        first = broke & (broke.cumsum(0) == 1)
        return {"seen": seen, "broke": broke, "first": first, "alone": first & (broke.sum(0) == 1) & (seen.sum(0) > 1)}

    def table(self, beside: Evaluation | None = None) -> str:
        """Markdown: clean, each column and All, in percent with exact 95% intervals and counts; points, cost, flags.

        beside: of the same model without its defence, or the other way round, on the same points under the same threat;
        its All is shown too.
        """
        rows = self.shares()
        if beside is not None:
            back = self.record.identity.defence is None and beside.record.identity.defence is not None
            beside.check_beside(self.record.identity, self.record.opaque)
            rows[f"All, {'with' if back else 'without'} the defence"] = beside.shares()["All"]
        cells = [[markdown(name), share.cells] for name, share in rows.items()]
        lines = [table(["accuracy", "percent", "95% interval", "samples"], cells), "", *self._notes(), ""]
        if not self.flags:
            return "\n".join([*lines, "No checks for red flags were made."])
        points = 0 if self.record.checks is None else self.record.checks.points
        fired = [f"- RED FLAG {flag.name}: {flag.text}." for flag in self.flags if flag.fired]
        checks = f"Checks on the first {points} samples" if points else "Checks on all samples"
        verdict = f"{len(fired)} of {len(self.flags)} raise a red flag:" if fired else f"{len(self.flags)} passed."
        return "\n".join([*lines, f"{checks}: {verdict}", *fired])

    def check_beside(self, own: Identity, opaque: bool = False) -> None:
        """Raise a ValueError unless this evaluation can stand beside one with the identity ``own``."""
        other, hidden = self.record.identity, self.record.opaque or opaque  # whose weights have other names
        names = ["points", "images", "norm", "eps", *([] if hidden else ["weights"])]
        for kind in (names, [] if hidden else ["solver", "steps", "readout"]):  # of other weights these say nothing
            if differing := ", ".join(name for name in kind if getattr(own, name) != getattr(other, name)):
                same = f"the same {', '.join(kind)}"
                raise ValueError(f"table: beside is an evaluation with other {differing}; allowed: one of {same}.")
        if (own.defence is None) == (other.defence is None):
            raise ValueError("table: beside is of a model on the same side of a defence; allowed: of the other side.")
        if not self.columns:
            raise ValueError("table: beside is an evaluation without an attack; allowed: one with an All.")

    def _notes(self) -> list[str]:
        record, threat = self.record, self.record.identity.threat
        lines = [f"{threat['name']}, eps {threat['eps']:.4g}. Samples: {markdown(record.samples)}."]
        if record.opaque:
            lines.append(
                "The model is opaque: it hides a DEQ or a defence. Only its outermost gradient was attacked; its own "
                "views, static attacks and their flags were passed over."
            )
        if cost := record.cost:
            counted = "" if cost.evaluations is None else f"{cost.evaluations:.1f} times the evaluations of f and "
            lines.append(
                f"The defence costs {cost.seconds:.1f} times the seconds of the bare model's forward, with "
                f"{counted}{cost.updates:.0f} updates of the input."
            )
        if record.optimises:
            lines.append(EXCLUDED)
        if len(self.columns) > 1 and (first := [(n, t) for n, t in self.taken().items() if t["first"]]):
            takers = "; ".join(f"{markdown(name)} {t['first']} ({t['alone']})" for name, t in first)
            lines.append(f"Samples that an attack was the first to break (that it alone broke): {takers}.")
        lines += [markdown(said)] if (said := self.uncounted()) else []
        climbed = set()  # columns in which attacks of AutoAttack that follow the gradient have run
        for name, column in self.columns.items():
            attack, called = record.attacks[name], markdown(name)
            if attack.rejected:
                lines.append(f"{called}: {attack.rejected} images lay outside the threat model; their samples stand.")
            own = (attack.options or {}).get("threat", threat)
            if own != threat:
                lines.append(f"{called}: made for {own['name']}, eps {own['eps']:.4g}, another threat model.")
            warned = attack.warnings
            broken = int((attack.outcomes == 0).sum())
            if attack.of_autoattack == ("square",) and column in climbed and broken > SQUARE_SURPLUS * attack.points:
                warned.append(f"Square broke {broken} samples that the attacks that follow the gradient had left.")
            if set(attack.of_autoattack) - {"square"}:
                climbed.add(column)
            lines += [f"{called} warned: {markdown(text)}" for text in sorted(warned)]
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The record with the shares, the sums of every attack, and the flags; JSON."""
        totals = {}
        for name, taken in self.taken().items():
            rejected, spent = self.record.attacks[name].rejected, self.record.attacks[name].spent
            totals[name] = {
                "rejected": rejected, "evaluations": spent.evaluations, "backward": spent.backward,
                "updates": spent.updates, "seconds": round(spent.seconds, 3), **taken,
            }  # fmt: skip
        shares, raised = {n: s.to_dict() for n, s in self.shares().items()}, [asdict(flag) for flag in self.flags]
        return {**self.record.to_json(), "shares": shares, "totals": totals, "flags": raised}

    def robustbench(
        self, *, name: str | None = None, authors: str | None = None, link: str | None = None, venue: str | None = None,
        dataset: str | None = None, architecture: str | None = None, additional_data: bool | None = None,
        number_forward_passes: int = 1, reported: str | None = None, footnote: str | None = None,
    ) -> dict[str, str | int | bool | None]:  # fmt: skip
        """The fields of a model_info entry of RobustBench, numbers as it writes them.

        autoattack_acc is None unless AutoAttack standard, with its own budgets and the exact gradient, has attacked
        every sample that was classified correctly, as one entry or as four of one column, each of which attacks what
        the others have left. external: All, the best known robust accuracy; None unless every attack saw every point.
        unreliable: whether a red flag was raised other than those that tell of gradients that assume a fixed point;
        None if nothing was checked. footnote: says as well where the model optimises its input at inference.
        """
        stands = (self.record.standing_autoattack(column) for column in dict.fromkeys(self.columns.values()))
        auto = next((Share.of(standing) for standing in stands if standing is not None), None)
        worst = self.shares().get("All", Share(0, 0))
        telling = [flag for flag in self.flags if flag.name not in FIXED_POINT]
        notes = [note for note in (footnote, EXCLUDED if self.record.optimises else None) if note]
        return {
            "link": link, "name": name, "authors": authors, "additional_data": additional_data,
            "number_forward_passes": number_forward_passes, "dataset": dataset, "venue": venue,
            "architecture": architecture, "eps": self.record.identity.eps_words,
            "clean_acc": f"{Share.of(self.clean).percent:.2f}", "reported": reported,
            "autoattack_acc": None if auto is None else f"{auto.percent:.2f}",
            "external": f"{worst.percent:.2f}" if worst.total == len(self.clean) else None,
            "footnote": " ".join(notes) or None,
            "unreliable": any(flag.fired for flag in telling) if telling else None,
        }  # fmt: skip

    def robustbench_images(self, path: str | Path, *, total: int | None = None) -> Path:
        """Write the adversarial images of all points in order, as RobustBench asks for them: a ``.pt`` file of one
        float32 tensor (N, C, H, W), in it the image that broke a sample, or else the last that was tried; its own where
        it was wrong already. total: how many images the test set has, where that is to be looked at. ValueError where
        the points are fewer, none were kept (``images=True``), or no attack saw every point."""
        if total not in (None, len(self.clean)):
            given = f"an evaluation of {len(self.clean)} points of {shown(total)}"
            raise ValueError(f"robustbench_images: {given}; allowed: one of the whole test set.")
        if not self.images:
            raise ValueError("robustbench_images: no images were kept; allowed: an evaluation with images=True.")
        path, buffer = Path(path), io.BytesIO()
        torch.save(self.record.adversarial(self.images), buffer)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, buffer.getvalue())
        return path
