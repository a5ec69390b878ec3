"""The verb that shows what runs left: report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from ..checks import Natural
from ..progress import bar
from ..report import write_report
from ..report.page import SAMPLES
from ..text import printable


@dataclass(kw_only=True)
class Report:
    """Write one HTML file that shows a training, an evaluation, a reproduction, or several side by side.

    For example:
      robustdeq report runs/digits
      robustdeq report runs/mine/quick --model runs/mine/model
      robustdeq report runs/mine/quick runs/mine/defended --figures --out runs/mine/both.html

    The file holds all it shows and asks nothing of any network. Single samples are shown with their images and their
    dynamics where an evaluation kept them (--images), and where its model and its test images are found.
    """

    folders: Positional[tuple[Path, ...]]
    """Folders that train, evaluate or reproduce wrote. What is unfinished, damaged or of another version is shown as
    far as it can be read."""
    out: Path | None = None
    """The HTML file; default report.html in the folder of a single run, else in the current one."""
    model: tuple[str, ...] = ()
    """A model that was judged, as a folder or a hub id, where it does not lie near its evaluation. It is shown only if
    its logits are those on record. May be given several times."""
    data: str | None = None
    """The source of the test images, as `robustdeq evaluate --data` takes it; default: what the run tells, if local."""
    samples: Natural = SAMPLES
    """How many samples of each evaluation are shown."""
    figures: bool = False
    """Write figures for papers as well, PNG and SVG, into a folder beside the file."""

    def run(self) -> None:
        with bar("report") as progress:
            path = write_report(
                self.folders, self.out, models=self.model, data=self.data, count=self.samples, figures=self.figures,
                progress=progress,
            )  # fmt: skip
        print(printable(str(path)))
