"""What an evaluation found, as tensors, a table, and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checks import Flag, flags, outcomes
from .images import KeptImages, batches
from .record import RECORD, united
from .statistics import Share

STANDARD = {"version": "standard", "attacks": None, "iterations": 100, "queries": 5000}


@dataclass(frozen=True)
class Evaluation:
    """record: everything, as in the file. folder: where it lies, None for nowhere."""

    record: dict[str, Any] = field(repr=False)
    folder: Path | None = None

    @classmethod
    def read(cls, folder: str | Path) -> Evaluation:
        """The finished evaluation that a folder holds."""
        folder = Path(folder)
        record = united(folder)
        if record is None:
            raise ValueError(f"{folder} holds no {RECORD}; give the out= of an evaluation.")
        _check_finished(folder, record)
        return cls(record, folder)

    @property
    def columns(self) -> dict[str, str]:
        """Attack to column, in the order in which they ran."""
        return self.record["columns"]

    @cached_property
    def predictions(self) -> Tensor:
        """(N,) int64, on the images themselves; -1 where a logit is not finite."""
        return self._clean("predictions")

    @cached_property
    def clean(self) -> Tensor:
        """(N,) bool, correct on the images themselves."""
        return self.predictions == self._clean("labels")

    @cached_property
    def robust(self) -> dict[str, Tensor]:
        """Per attack, (points,) bool: attacked, and classified correctly still.

        False, too, for a sample that an earlier attack of the column had broken, and that was not attacked again.
        """
        return {name: outcomes(self.record, name) == 1 for name in self.columns}

    @cached_property
    def images(self) -> dict[str, KeptImages]:
        """Per attack, the verified images (points, C, H, W), where they were kept; an index reads a batch from disk.

        A sample that was not attacked has its own image, and so has one whose attack left the threat model.
        """
        if self.folder is None or not self.record["images"]:
            return {}
        size = self.record["identity"]["batch_size"]
        points = {name: self.record["attacks"][name]["points"] for name in self.columns}
        return {name: KeptImages(self.folder / "images", name, points[name], size) for name in self.columns}

    @cached_property
    def flags(self) -> list[Flag]:
        """Every check that was made, fired or not."""
        return flags(self.record)

    def shares(self) -> dict[str, Share]:
        """clean, one share a column, and All: the samples that survive every attack, of those that every attack saw."""
        found = {"clean": _share(self.clean)}
        for column in dict.fromkeys(self.columns.values()):
            found[column] = _share(self._worst([name for name, c in self.columns.items() if c == column]))
        return found | {"All": _share(self._worst(list(self.columns)))}

    def _worst(self, names: Sequence[str]) -> Tensor:
        points = min((len(self.robust[name]) for name in names), default=len(self.clean))
        worst = self.clean[:points].clone()
        for name in names:
            worst &= self.robust[name][:points]
        return worst

    def table(self, beside: Evaluation | None = None) -> str:
        """Markdown: clean, each column and All, in percent with exact 95% intervals and counts; points, cost, flags.

        beside: of the model without its defence, whose All is shown too.
        """
        lines = ["| accuracy | percent | 95% interval | samples |", "|---|---|---|---|"]
        rows = self.shares()
        if beside is not None:
            rows["All, without the defence"] = beside.shares()["All"]
        for name, share in rows.items():
            low, high = share.interval
            lines.append(f"| {name} | {share.percent:.1f} | {low:.1f} to {high:.1f} | {share.count}/{share.total} |")
        threat = self.record["identity"]["threat"]
        lines += ["", f"{_ball(threat)}. Samples: {self.record['chosen']}."]
        if cost := self.record.get("cost"):
            lines.append(
                f"The defence costs {cost['seconds']:.1f} times the seconds of the bare model's forward, with "
                f"{cost['evaluations']:.1f} times the evaluations of f and {cost['updates']:.0f} updates of the input."
            )
        for name in self.columns:
            rejected = self._total(name, "rejected")
            if rejected:
                lines.append(f"{name}: {rejected} images lay outside the threat model and were not counted.")
            own = self.record["attacks"][name]["attack"].get("options", {}).get("threat", threat)
            if own != threat:
                lines.append(f"{name}: made for {_ball(own)}, another threat model.")
            warned = {text for batch in self.record["attacks"][name]["batches"].values()
                      for text in batch.get("warnings", ())}  # fmt: skip
            lines += [f"{name} warned: {text}" for text in sorted(warned)]
        return "\n".join([*lines, "", *self._warnings()])

    def _warnings(self) -> list[str]:
        points = self.record["checks"]["points"]
        fired = [flag for flag in self.flags if flag.fired]
        if not self.flags:
            return ["No checks for red flags were made."]
        made = f"Checks on the first {points} samples" if points else "Checks on the columns"
        verdict = f"{len(fired)} of {len(self.flags)} raise a red flag:" if fired else f"{len(self.flags)} passed."
        return [f"{made}: {verdict}", *(f"- RED FLAG {flag.name}: {flag.text}." for flag in fired)]

    def to_dict(self) -> dict[str, Any]:
        """The record with the shares, the sums of every attack, and the flags; JSON."""
        counted = ("rejected", "seconds", "evaluations", "updates")
        return {
            **self.record,
            "shares": {name: share.to_dict() for name, share in self.shares().items()},
            "totals": {name: {key: self._total(name, key) for key in counted} for name in self.columns},
            "flags": [flag.to_dict() for flag in self.flags],
        }

    def robustbench(
        self, *, name: str | None = None, authors: str | None = None, link: str | None = None, venue: str | None = None,
        dataset: str | None = None, architecture: str | None = None, additional_data: bool | None = None,
        number_forward_passes: int = 1, reported: str | None = None, footnote: str | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """The fields of a model_info entry of RobustBench, numbers as it writes them.

        autoattack_acc is None unless AutoAttack standard, with its own budgets and the exact gradient, has attacked
        every sample that was classified correctly. unreliable: whether a red flag other than the residual was raised;
        None if nothing was checked.
        """
        auto = next((_share(self.robust[name]) for name in self.columns if self._standard(name)), None)
        telling = [flag for flag in self.flags if flag.name != "residual"]
        return {
            "link": link, "name": name, "authors": authors, "additional_data": additional_data,
            "number_forward_passes": number_forward_passes, "dataset": dataset, "venue": venue,
            "architecture": architecture, "eps": _eps(self.record["identity"]["threat"]["eps"]),
            "clean_acc": f"{_share(self.clean).percent:.2f}", "reported": reported,
            "autoattack_acc": None if auto is None else f"{auto.percent:.2f}", "footnote": footnote,
            "unreliable": any(flag.fired for flag in telling) if telling else None,
        }  # fmt: skip

    def _standard(self, name: str) -> bool:
        """Whether an attack is AutoAttack standard with the exact gradient, on every correctly classified sample."""
        facts, identity = self.record["attacks"][name], self.record["identity"]
        view, attack = facts["view"], facts["attack"]
        wanted = {**STANDARD, "threat": identity["threat"]}
        known = attack["name"] == "AutoAttack" and all(attack["options"][key] == value for key, value in wanted.items())
        through = view["name"] in ("Unrolled", "ThroughGradient") and view["gradient"]["name"] == "unrolled"
        itself = identity["dynamics"] is None or identity["readout"] is not None
        whole = torch.equal(outcomes(self.record, name) >= 0, self.clean)
        return known and whole and identity["defence"] is None and (through or itself)

    def _clean(self, key: str) -> Tensor:
        parts = self.record["clean"]
        return torch.tensor([value for start in sorted(parts, key=int) for value in parts[start][key]])

    def _total(self, name: str, key: str) -> Any:
        total = sum(batch[key] for batch in self.record["attacks"][name]["batches"].values())
        return round(total, 3) if key == "seconds" else total


def _check_finished(folder: Path, record: dict[str, Any]) -> None:
    size = record["identity"]["batch_size"]
    points = {name: record["attacks"].get(name) for name in record.get("columns", {})}
    stages = {"clean": (record["clean"], record["identity"]["points"]["count"])}
    stages |= {name: (facts["batches"], facts["points"]) for name, facts in points.items() if facts}
    missing = [name for name, facts in points.items() if not facts] + ([] if "columns" in record else ["attacks"])
    missing += [name for name, (known, count) in stages.items() if len(known) < len(batches(count, size))]
    if not record.get("checks", {}).get("done"):
        missing.append("checks")
    if missing:
        raise ValueError(f"{folder} is unfinished: {', '.join(missing)}; evaluate with the same out= to go on.")


def _ball(threat: dict[str, Any]) -> str:
    return f"{threat['norm']}, eps {threat['eps']:.4g}"


def _share(correct: Tensor) -> Share:
    return Share(int(correct.sum()), len(correct))


def _eps(eps: float) -> str:
    """As RobustBench writes it: 8/255, or 0.5."""
    steps = eps * 255
    return f"{round(steps)}/255" if round(steps) and abs(steps - round(steps)) < 1e-6 else f"{eps:g}"
