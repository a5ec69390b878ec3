"""The record of an evaluation: one JSON file, written after every batch, read back to go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..environment import environment
from ..files import differences, plain, write_json
from ..processes import ALONE, Processes

SCHEMA = 3
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
            "environments": {},
            "clean": {},
            "attacks": {},
        }
        if folder is not None:
            if resume and (known := united(folder)) is not None:
                self._refuse_other(folder / RECORD, known, self.data["identity"])
                self.data = known
            processes.wait()
            processes.first_only(self._settle)
        self._drop_others()
        here = environment()
        self.environment = hashlib.sha256(json.dumps(here, sort_keys=True).encode()).hexdigest()[:8]
        self.data["environments"][self.environment] = here

    def save(self) -> None:
        if self.folder is not None:
            alone = self.processes.count == 1
            write_json(self.folder / (RECORD if alone else f"evaluation.{self.processes.rank}.json"), self.data)

    def gather(self, conclude: Callable[[], None]) -> None:
        """Every process has found its share: all of it is in evaluation.json, and in every process.

        conclude: what the first process adds when it has the whole record.
        """
        self.save()
        self.processes.wait()
        self._unite()
        if self.processes.first:
            conclude()
            self.save()
            if self.folder is not None:
                self._settle()
        self.processes.wait()
        self._unite()

    def _unite(self) -> None:
        if self.folder is not None and self.processes.count > 1:
            self.data = united(self.folder) or self.data
        self.processes.wait()

    def _drop_others(self) -> None:
        """A part holds the batches of its process only, so that no stale copy of another's can come back."""
        if self.processes.count == 1:
            return
        size, rank, count = self.data["identity"]["batch_size"], self.processes.rank, self.processes.count

        def own(batches: dict[str, Any]) -> dict[str, Any]:
            return {start: batch for start, batch in batches.items() if int(start) // size % count == rank}

        self.data["clean"] = own(self.data["clean"])
        for facts in self.data["attacks"].values():
            facts["batches"] = own(facts["batches"])

    def _settle(self) -> None:
        """One file, and no parts."""
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / RECORD, self.data)
        for part in self.folder.glob(PARTS):
            part.unlink()

    @staticmethod
    def _refuse_other(path: Path, data: dict[str, Any], identity: dict[str, Any]) -> None:
        known = dict(data["identity"])
        if _near(known.get("logits", []), identity.get("logits", [])):
            known["logits"] = identity.get("logits", [])
        differing = differences(known, identity)
        if differing:
            what = ", ".join(differing)
            raise ValueError(f"{path} belongs to another {what}; give another output folder, or resume=False.")


def _near(one: list[float], other: list[float]) -> bool:
    """Logits that another machine or number of threads may have rounded otherwise."""
    size = max(map(abs, (*one, *other)), default=0.0)
    return len(one) == len(other) and all(abs(a - b) <= 1e-3 * size for a, b in zip(one, other))


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
    both = {name: old[name] | new[name] for name in ("environments", "clean")}
    return {**old, **new, **both, "clean": _sorted(both["clean"]), "attacks": attacks}


def described(facts: dict[str, Any]) -> dict[str, Any]:
    """An attack's part of the record without what it found."""
    return {key: value for key, value in facts.items() if key != "batches"}


def _sorted(batches: dict[str, Any]) -> dict[str, Any]:
    return {start: batches[start] for start in sorted(batches, key=int)}
