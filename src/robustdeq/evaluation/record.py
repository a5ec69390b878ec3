"""The record of an evaluation: one JSON file, written after every batch, read back to go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..environment import environment
from ..files import differences, plain, write_json
from ..processes import ALONE, Processes

SCHEMA = 2
RECORD = "evaluation.json"
PARTS = "evaluation.[0-9]*.json"


class Record:
    """A dict on disk. ``identity`` says what is evaluated; a file with another identity is refused, not overwritten.

    A process alone writes evaluation.json. Of several, each writes evaluation.RANK.json, and whoever ends or begins
    unites the parts, so their number may change between one start and the next.
    """

    def __init__(
        self, folder: Path | None, identity: dict[str, Any], *, resume: bool = True, processes: Processes = ALONE
    ) -> None:
        if folder is None and processes.count > 1:
            raise ValueError(f"evaluate: {processes.count} processes without out; allowed: a folder they share.")
        self.folder, self.processes = folder, processes
        self.data: dict[str, Any] = {
            "schema": SCHEMA,
            "identity": plain(identity),
            "environment": environment(),
            "clean": {},
            "attacks": {},
        }
        if folder is None:
            return
        if resume and (known := united(folder)) is not None:
            self._refuse_other(folder / RECORD, known, self.data["identity"])
            self.data = known
        processes.wait()
        processes.first_only(self._settle)

    def save(self) -> None:
        if self.folder is not None:
            alone = self.processes.count == 1
            write_json(self.folder / (RECORD if alone else f"evaluation.{self.processes.rank}.json"), self.data)

    def gather(self) -> None:
        """Every process has found its share: all of it is in evaluation.json, and in every process."""
        self.save()
        if self.folder is not None and self.processes.count > 1:
            self.processes.wait()
            self.data = united(self.folder) or self.data
            self.processes.wait()
            self.processes.first_only(self._settle)

    def _settle(self) -> None:
        """One file, and no parts."""
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / RECORD, self.data)
        for part in self.folder.glob(PARTS):
            part.unlink()

    @staticmethod
    def _refuse_other(path: Path, data: dict[str, Any], identity: dict[str, Any]) -> None:
        differing = differences(data["identity"], identity)
        if differing:
            what = ", ".join(differing)
            raise ValueError(f"{path} belongs to another {what}; give another output folder, or resume=False.")


def united(folder: Path) -> dict[str, Any] | None:
    """What a folder's record and its parts hold together, whatever it is a record of; None where there is nothing."""
    found = None
    for path in [path for path in (folder / RECORD,) if path.exists()] + sorted(folder.glob(PARTS)):
        part = _read(path)
        found = part if found is None else _joined(found, part)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove it to evaluate anew.") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not a record of schema {SCHEMA}; remove it to evaluate anew.")
    return data


def _joined(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The batches of both; an attack that was given other options counts as the newer has it."""
    attacks = dict(old["attacks"])
    for name, facts in new["attacks"].items():
        known = attacks.get(name, facts)
        same = described(known) == described(facts)
        attacks[name] = {**facts, "batches": _sorted(known["batches"] | facts["batches"] if same else facts["batches"])}
    return {**old, **new, "clean": _sorted(old["clean"] | new["clean"]), "attacks": attacks}


def described(facts: dict[str, Any]) -> dict[str, Any]:
    """An attack's part of the record without what it found."""
    return {key: value for key, value in facts.items() if key != "batches"}


def _sorted(batches: dict[str, Any]) -> dict[str, Any]:
    return {start: batches[start] for start in sorted(batches, key=int)}
